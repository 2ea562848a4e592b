use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

use burn::tensor::Device;
use slimbit_data::DataError;
use slimbit_graph::{Graph, backbones};
use slimbit_nn::{describe_device, has_half_floats, parse_device};

use super::{
    BatchNorms, EmaUpdate, Head, Loss, Projector, StudentTarget, Target, TrainConfig, recipes,
};
use crate::TrainError;
use crate::machine::Memory;

impl TrainConfig {
    /// Checks every value, and values against one another.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] for the first setting that cannot be used, with its value and the remedy;
    /// [`TrainError::Graph`] for an unknown backbone; [`TrainError::Data`] for the augmentation and the input.
    pub fn validate(&self) -> Result<(), TrainError> {
        recipes::text(&self.recipe)?;
        within("seed", self.seed, 0..=i64::MAX as u64)?;
        within("epochs", self.epochs, 1..=1_000_000)?;
        within("batch", self.batch, 2..=1 << 20)?;
        within("workers", self.workers, 0..=256)?;
        if self.micro_batch != 0 && !self.batch.is_multiple_of(self.micro_batch) {
            let what = format!(
                "{} does not divide the batch of {}; choose 0 or a divisor",
                self.micro_batch, self.batch
            );
            return Err(TrainError::value("micro_batch", what));
        }
        if self.micro_batch == 1 {
            let what = "1 leaves batch-norm without statistics; choose 0 or at least 2";
            return Err(TrainError::value("micro_batch", what));
        }
        within("heads.hidden", self.heads.hidden, 1..=1 << 16)?;
        within(
            "heads.predictor_hidden",
            self.heads.predictor_hidden,
            0..=1 << 16,
        )?;
        within("heads.dim", self.heads.dim, 1..=1 << 16)?;
        self.validate_objective()?;
        self.validate_widths()?;
        self.validate_combinations()?;
        self.validate_bits()?;
        within("optim.lr", self.optim.lr, 0.0..=1e6)?;
        within("optim.momentum", self.optim.momentum, 0.0..1.0)?;
        within("optim.weight_decay", self.optim.weight_decay, 0.0..=1.0)?;
        within("optim.clip", self.optim.clip, 0.0..=1e6)?;
        within("optim.trust", self.optim.trust, 1e-6..=1.0)?;
        within("optim.group.lambda", self.optim.group.lambda, 0.0..=1.0)?;
        within("optim.group.groups", self.optim.group.groups, 1..=1 << 10)?;
        let steepest = 1.0 / (self.optim.group.groups as f64 - 1.0).max(1.0);
        within("optim.group.alpha", self.optim.group.alpha, 0.0..=steepest)?;
        within("schedule.warmup", self.schedule.warmup, 0..=1_000_000)?;
        within("run.checkpoint_every", self.run.checkpoint_every, 1..)?;
        within("run.checkpoint_minutes", self.run.checkpoint_minutes, 0.0..)?;
        within("run.keep", self.run.keep, 1..)?;
        within("run.log_every", self.run.log_every, 1..)?;
        within("watch.window", self.watch.window, 1..)?;
        within("watch.least_std", self.watch.least_std, 0.0..=1.0)?;
        within("watch.least_rank", self.watch.least_rank, 0.0..=1.0)?;
        within("watch.least_dimensions", self.watch.least_dimensions, 0.0..)?;
        within("watch.lower_lr", self.watch.lower_lr, 1e-3..=1.0)?;
        self.augment.validate()?;
        self.preprocess.validate().map_err(DataError::from)?;
        let input = &self.preprocess;
        let backbone = &self.model.backbone;
        backbones::by_name(backbone, input.channels, input.height, input.width, None)?;
        Ok(())
    }

    /// Whether a device can train the backbone that these settings name.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] for `mixed_precision` on a device without 16-bit floats, and for a step that this
    /// machine has no memory for, with both numbers and the settings to change; [`TrainError::Graph`].
    pub fn check_device(&self, device: &Device) -> Result<(), TrainError> {
        let input = &self.preprocess;
        let backbone = &self.model.backbone;
        let graph = backbones::by_name(backbone, input.channels, input.height, input.width, None)?;
        self.check_device_for(&graph, device)
    }

    /// Whether a device can train `graph`.
    pub(crate) fn check_device_for(
        &self,
        graph: &Graph,
        device: &Device,
    ) -> Result<(), TrainError> {
        if self.mixed_precision && !has_half_floats(device) {
            let what = format!(
                "{} has no 16-bit floats to train with; choose a GPU that has them (--device gpu), or begin a run with false",
                describe_device(device)
            );
            return Err(TrainError::value("mixed_precision", what));
        }
        // How much memory a GPU has is not known here.
        match *device == parse_device("cpu")? {
            true => self.check_memory(graph, &Memory::detect()),
            false => Ok(()),
        }
    }

    fn validate_objective(&self) -> Result<(), TrainError> {
        let objective = &self.objective;
        within("objective.temperature", objective.temperature, 1e-3..=1e3)?;
        within(
            "objective.teacher_temperature",
            objective.teacher_temperature,
            1e-5..=1e3,
        )?;
        within("objective.queue", objective.queue, 1..=1 << 20)?;
        within("objective.ema", objective.ema, 0.0..=1.0)?;
        within("objective.map_weight", objective.map_weight, 0.0..=1e3)?;
        within(
            "objective.student_weight",
            objective.student_weight,
            0.0..=1e3,
        )?;
        if objective.head == Head::Shared && objective.base_loss == Loss::InfoNce {
            return Err(TrainError::value(
                "objective.head",
                "`shared` is the base network's predictor, which only base_loss = \"cosine\" has; write `auxiliary`",
            ));
        }
        Ok(())
    }

    fn validate_widths(&self) -> Result<(), TrainError> {
        let widths = &self.objective.widths;
        within("objective.widths.max", widths.max, 0.05..=1.0)?;
        within("objective.widths.min", widths.min, 0.05..=widths.max)?;
        within("objective.widths.per_step", widths.per_step, 1..=16)?;
        for &width in &widths.list {
            within("objective.widths.list", width, widths.min..=widths.max)?;
        }
        let descending = widths.list.windows(2).all(|pair| pair[0] > pair[1]);
        let from_largest = widths.list.first().is_none_or(|&first| first == widths.max);
        if !descending || !from_largest {
            let what = format!(
                "{:?} must fall, from widths.max = {}",
                widths.list, widths.max
            );
            return Err(TrainError::value("objective.widths.list", what));
        }
        if self.model.batch_norm == BatchNorms::Switchable && widths.list.is_empty() {
            return Err(TrainError::value(
                "model.batch_norm",
                "`switchable` has batch-norms of the widths in objective.widths.list, which is empty",
            ));
        }
        Ok(())
    }

    /// Settings that only make sense together.
    fn validate_combinations(&self) -> Result<(), TrainError> {
        let (objective, heads) = (&self.objective, &self.heads);
        let refuse = |wrong: bool, key: &str, what: &str| match wrong {
            true => Err(TrainError::value(key, what)),
            false => Ok(()),
        };
        let one_kind = |loss| (objective.base_loss == loss) != (objective.student_loss == loss);
        refuse(
            [Loss::Moco, Loss::Seed, Loss::CrossEntropy]
                .into_iter()
                .any(one_kind),
            "objective.student_loss",
            "`moco`, `seed` and `crossentropy` look at one view, the others at two; base_loss and student_loss must agree",
        )?;
        let classifies = objective.base_loss == Loss::CrossEntropy;
        refuse(
            classifies != (heads.projector == Projector::Linear),
            "heads.projector",
            "`linear` is the classifier of base_loss = \"crossentropy\", which needs it, and of nothing else",
        )?;
        refuse(
            classifies && (objective.target != Target::Online || objective.head != Head::None),
            "objective.target",
            "a classifier teaches its students itself; with base_loss = \"crossentropy\" write target = \"online\" and head = \"none\"",
        )?;
        let (moves, frozen) = match objective.target {
            Target::Ema => (true, false),
            Target::Frozen => (false, true),
            Target::Online | Target::Quantised => (false, false),
        };
        refuse(
            objective.base_loss == Loss::Moco && !(moves || frozen),
            "objective.target",
            "MoCo's keys come from a teacher; write `ema`",
        )?;
        refuse(
            objective.base_loss == Loss::Seed && !frozen,
            "objective.target",
            "SEED distils the finished network that objective.teacher names; write `frozen`",
        )?;
        // That a frozen target has a teacher is checked when a run begins: recipes name none.
        refuse(
            !objective.teacher.as_os_str().is_empty() && !frozen,
            "objective.teacher",
            "only target = \"frozen\" learns from another run's network; write that, or name no teacher",
        )?;
        refuse(
            objective.ema_update != EmaUpdate::Iteration && !moves,
            "objective.ema_update",
            "there is no teacher that moves; write target = \"ema\"",
        )?;
        refuse(
            objective.target == Target::Quantised
                && !(objective.bits.enabled && objective.widths.min == objective.widths.max),
            "objective.target",
            "`quantised` is a network of one width at drawn bit-widths; enable bits and let widths.min be widths.max",
        )?;
        refuse(
            objective.target == Target::Quantised && objective.bits.first_quarter > 0,
            "objective.bits.first_quarter",
            "a `quantised` target has bits in every iteration; write 0",
        )?;
        refuse(
            objective.student_target == StudentTarget::Own && objective.bits.enabled,
            "objective.student_target",
            "`own` trains every width by itself, in float; disable bits",
        )?;
        refuse(
            (objective.map_weight > 0.0) == objective.maps.is_empty(),
            "objective.maps",
            "the stages in `maps` and a positive `map_weight` belong together",
        )?;
        refuse(
            objective.map_weight > 0.0
                && matches!(
                    objective.base_loss,
                    Loss::Moco | Loss::Seed | Loss::CrossEntropy
                ),
            "objective.map_weight",
            "maps are compared across two views, which this base_loss does not see; write 0",
        )?;
        refuse(
            objective.map_weight > 0.0 && self.gradient_checkpointing,
            "gradient_checkpointing",
            "maps that are compared must be kept; write false, or objective.map_weight=0",
        )?;
        refuse(
            objective.map_weight > 0.0 && frozen,
            "objective.map_weight",
            "the maps of a frozen teacher may have any shape; write 0",
        )
    }

    fn validate_bits(&self) -> Result<(), TrainError> {
        let bits = &self.objective.bits;
        for (key, [low, high], allowed) in
            [("weight", bits.weight, 2..=8), ("act", bits.act, 2..=8)]
        {
            if !allowed.contains(&low) || !allowed.contains(&high) || low > high {
                let (min, max) = (allowed.start(), allowed.end());
                return Err(TrainError::value(
                    format!("objective.bits.{key}"),
                    format!(
                        "[{low}, {high}] must be [smallest, largest] within {min} to {max} bits"
                    ),
                ));
            }
        }
        within("objective.bits.first_quarter", bits.first_quarter, 0..=3)?;
        within("objective.bits.full_width", bits.full_width, 0.0..=1.0)?;
        within("objective.bits.float", bits.float, 0.0..=1.0)?;
        within("objective.bits.narrow_width", bits.narrow_width, 0.0..=1.0)?;
        within(
            "objective.bits.narrow_weight",
            bits.narrow_weight,
            2..=bits.weight[1],
        )
    }
}

fn within<T: PartialOrd + Display + Copy>(
    key: &str,
    value: T,
    allowed: impl RangeBounds<T>,
) -> Result<(), TrainError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let low = match allowed.start_bound() {
        Bound::Included(v) | Bound::Excluded(v) => format!("at least {v}"),
        Bound::Unbounded => String::new(),
    };
    let high = match allowed.end_bound() {
        Bound::Included(v) => format!(" and at most {v}"),
        Bound::Excluded(v) => format!(" and below {v}"),
        Bound::Unbounded => String::new(),
    };
    Err(TrainError::value(
        key,
        format!("{value} must be {low}{high}"),
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::TrainConfig;

    #[test]
    fn values_out_of_range_are_named_with_the_remedy() {
        for (change, message) in [
            (
                "objective.widths.min=1.5",
                "setting `objective.widths.min`: 1.5 must be at least 0.05 and at most 1",
            ),
            (
                "objective.bits.weight=[1,8]",
                "setting `objective.bits.weight`: [1, 8] must be [smallest, largest] within 2 to 8 bits",
            ),
            (
                "objective.bits.act=[8,4]",
                "setting `objective.bits.act`: [8, 4] must be [smallest, largest] within 2 to 8 bits",
            ),
            (
                "optim.lr=nan",
                "setting `optim.lr`: NaN must be at least 0 and at most 1000000",
            ),
            (
                "optim.momentum=1",
                "setting `optim.momentum`: 1 must be at least 0 and below 1",
            ),
            (
                "batch=1",
                "setting `batch`: 1 must be at least 2 and at most 1048576",
            ),
        ] {
            let error = TrainConfig::from_toml("", &[change]).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = TrainConfig::from_toml("", &["model.backbone=resnet19"]).unwrap_err();
        assert!(error.to_string().contains("resnet19"), "{error}");
    }
}
