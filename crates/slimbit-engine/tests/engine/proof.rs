use slimbit_engine::{Arithmetic, EngineError, Model, prove};
use slimbit_num::Requant;

use crate::lowering::{points, random_model, residual_model};

#[test]
fn every_rescaling_of_a_lowered_model_is_proven() {
    for seed in 0..20 {
        let model = random_model(seed);
        let report = prove::prove(&model).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(report.points.len(), points().len());
        assert_eq!(report.float_operations(), 0);
        assert!(report.channels() > 0);
        for point in &report.points {
            assert_eq!(point.stages.len(), model.stages().len());
            for stage in &point.stages {
                assert!(stage.multiplier_bits <= 31);
                assert!(!stage.arithmetic.is_empty());
            }
        }
        assert!(report.to_string().contains("0 float operations"));
    }
}

/// The model with one of its stages changed at its first point.
fn altered(name: &str, change: impl Fn(&mut Arithmetic)) -> Result<Model, EngineError> {
    let model = residual_model();
    let index = model
        .stages()
        .iter()
        .position(|stage| stage.name == name)
        .unwrap();
    let mut points = model.points().to_vec();
    change(&mut points[0].stages[index].arithmetic);
    Model::new(
        model.graph().clone(),
        model.grid(),
        model.input().clone(),
        model.weights().clone(),
        points,
        model.metadata().clone(),
    )
}

fn refutation(model: &Model) -> String {
    match prove::prove(model) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("the change was not noticed"),
    }
}

#[test]
fn a_changed_constant_is_refuted_with_a_counterexample() {
    let model = altered("block.a.act", |arithmetic| {
        let Arithmetic::Channels { channels, .. } = arithmetic else {
            panic!("a convolution");
        };
        let Requant { k, .. } = channels[3].requant;
        channels[3].requant.c += 1 << k;
    });
    let error = refutation(&model.unwrap());
    assert!(
        error.contains("`block.a.act`, channel 3") && error.contains("instead of"),
        "{error}"
    );
}

#[test]
fn a_changed_sum_or_clip_is_refuted() {
    let sum = altered("block.act", |arithmetic| {
        if let Arithmetic::Add { requant, .. } = arithmetic {
            requant.ma += 1 << 8;
        }
    });
    assert!(refutation(&sum.unwrap()).contains("block.act"));
    let slope = altered("block.act", |arithmetic| {
        if let Arithmetic::Add { truth, .. } = arithmetic {
            truth.a *= 1.01;
        }
    });
    assert!(refutation(&slope.unwrap()).contains("is not the sum of its operands"));
    let clip = altered("stem.act", |arithmetic| {
        if let Arithmetic::Channels { clip, .. } = arithmetic {
            clip.hi -= 1;
        }
    });
    assert!(refutation(&clip.unwrap()).contains("clip"));
}

#[test]
fn an_interval_that_the_weights_leave_is_refused() {
    let model = altered("block.b.bn", |arithmetic| {
        if let Arithmetic::Channels { channels, .. } = arithmetic {
            channels[0].acc.hi /= 2;
        }
    });
    let error = refutation(&model.unwrap());
    assert!(
        error.contains("channel 0") && error.contains("beyond the stored"),
        "{error}"
    );
}

#[test]
fn a_rescaling_that_could_overflow_is_no_model() {
    let overflow = altered("block.b.bn", |arithmetic| {
        if let Arithmetic::Channels { channels, .. } = arithmetic {
            channels[0].requant.c = i64::MAX;
        }
    });
    let error = overflow.unwrap_err().to_string();
    assert!(
        error.contains("overflows") && error.contains("block.b.bn"),
        "{error}"
    );
    let missing = altered("block.b.bn", |arithmetic| {
        if let Arithmetic::Channels { channels, .. } = arithmetic {
            channels.pop();
        }
    });
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("31 channels, not 32")
    );
    let other = altered("block.b.bn", |arithmetic| *arithmetic = Arithmetic::Copy);
    assert!(other.unwrap_err().to_string().contains("another kind"));
}
