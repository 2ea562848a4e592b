//! Causes of collapse: US3L's guidelines as rules over the settings (spec section 3.12), and what else brings networks down.

use super::{Kind, Watch};
use crate::TrainConfig;
use crate::config::{Course, EmaUpdate, Head, Loss, StudentTarget, Target};

/// The likely causes, the likeliest first; at least one.
pub(super) fn of(config: &TrainConfig, kind: Kind, watch: &Watch, lr: f64) -> Vec<String> {
    let objective = &config.objective;
    let mut causes = Vec::new();
    if watch.gradient_grew(kind) {
        causes.push(format!(
            "the learning rate: the gradient's norm grew more than tenfold at a rate of {lr:.4}; lower optim.lr, or set \
             optim.clip"
        ));
    }
    let base_is_well = kind != Kind::BASE && !watch.fell(Kind::BASE);
    if base_is_well {
        students(config, kind, &mut causes);
    }
    let relative = |loss| loss != Loss::Cosine;
    if !relative(objective.base_loss) && objective.target == Target::Online {
        causes.push(
            "G1: the base's cosine loss has a target that moves with the weights; write base_loss = \"infonce\", or \
             target = \"ema\""
                .to_owned(),
        );
    }
    if !relative(objective.base_loss) && objective.target == Target::Ema && objective.ema < 0.9 {
        causes.push(format!(
            "G1: a teacher of momentum {} is hardly steadier than the network itself; raise objective.ema to 0.99",
            objective.ema
        ));
    }
    if objective.target == Target::Quantised {
        causes.push(
            "the target is quantised (the reverse control); write target = \"ema\" or \"online\""
                .to_owned(),
        );
    }
    let rows = match config.micro_batch {
        0 => config.batch,
        rows => rows,
    };
    if rows < 32 {
        causes.push(format!(
            "a small batch: statistics{} are of {rows} images; raise batch or micro_batch to 64 or more",
            match objective.base_loss {
                Loss::InfoNce => " and negatives",
                _ => "",
            }
        ));
    }
    let usual = match objective.base_loss {
        Loss::Cosine | Loss::Seed => 0.05,
        Loss::InfoNce | Loss::Moco | Loss::CrossEntropy => 0.5,
    };
    let published = usual * config.batch as f64 / 512.0;
    if config.optim.lr > 4.0 * published {
        causes.push(format!(
            "the learning rate: {} is over four times the published {usual} per 512 images, which is {published:.4} for \
             {}; lower optim.lr",
            config.optim.lr, config.batch
        ));
    }
    if !base_is_well && !relative(objective.base_loss) && objective.target == Target::Ema {
        causes.push(
            "the base's cosine loss pushes no two images apart, and a steady teacher need not be enough; write base_loss \
             = \"infonce\""
                .to_owned(),
        );
    }
    if causes.is_empty() {
        causes.push(format!(
            "none of the guidelines is violated; lower optim.lr (the rate is {lr:.4}) or widen the schedules later"
        ));
    }
    causes
}

/// Why students fall while the base is well.
fn students(config: &TrainConfig, kind: Kind, causes: &mut Vec<String>) {
    let objective = &config.objective;
    if objective.student_target == StudentTarget::Own {
        causes.push(
            "G2: narrow networks have targets of their own; write student_target = \"base\""
                .to_owned(),
        );
    }
    match objective.head {
        Head::None if objective.student_loss == Loss::Cosine => causes.push(
            "G3: students match the target without a head; write head = \"auxiliary\"".to_owned(),
        ),
        Head::Shared if kind.is_narrow() => causes.push(
            "G3: students of many widths share the base's predictor; write head = \"auxiliary\""
                .to_owned(),
        ),
        _ => {}
    }
    if objective.student_loss == Loss::Cosine && objective.target == Target::Online {
        causes.push(
            "G2: students regress a target that moves with the weights; write target = \"ema\", or student_loss = \
             \"infonce\""
                .to_owned(),
        );
    }
    if objective.ema_update == EmaUpdate::SubStepFresh {
        causes.push(
            "G2: targets change from sub-step to sub-step; write ema_update = \"iteration\""
                .to_owned(),
        );
    }
    let bits = &objective.bits;
    if kind.is_quantised() && bits.schedule == Course::Static && bits.weight[0] < 4 {
        causes.push(format!(
            "{} bits from the first iteration; write objective.bits.schedule = \"dynamic\", or raise the smallest of \
             objective.bits.weight",
            bits.weight[0]
        ));
    }
    if kind.is_quantised() && kind.is_narrow() && bits.narrow_weight < 4 && bits.weight[0] < 4 {
        causes.push("few bits on few channels; raise objective.bits.narrow_weight to 4".to_owned());
    }
}
