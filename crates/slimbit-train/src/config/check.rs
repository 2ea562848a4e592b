use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

use slimbit_graph::backbones;

use super::{Head, Loss, TrainConfig, Update};
use crate::TrainError;

impl TrainConfig {
    /// Checks every value, and values against one another.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] for the first setting that cannot be used, with its value and the remedy;
    /// [`TrainError::Graph`] for an unknown backbone; [`TrainError::Data`] for the augmentation and the input.
    pub fn validate(&self) -> Result<(), TrainError> {
        within("seed", self.seed, 0..=i64::MAX as u64)?;
        within("epochs", self.epochs, 1..=1_000_000)?;
        within("batch", self.batch, 2..=1 << 20)?;
        within("workers", self.workers, 0..=256)?;
        within("heads.hidden", self.heads.hidden, 1..=1 << 16)?;
        within("heads.dim", self.heads.dim, 1..=1 << 16)?;
        self.validate_objective()?;
        self.validate_bits()?;
        within("optim.lr", self.optim.lr, 0.0..=1e6)?;
        within("optim.momentum", self.optim.momentum, 0.0..1.0)?;
        within("optim.weight_decay", self.optim.weight_decay, 0.0..=1.0)?;
        within("optim.group.lambda", self.optim.group.lambda, 0.0..=1.0)?;
        within("optim.group.groups", self.optim.group.groups, 1..=1 << 10)?;
        let steepest = 1.0 / (self.optim.group.groups as f64 - 1.0).max(1.0);
        within("optim.group.alpha", self.optim.group.alpha, 0.0..=steepest)?;
        within("schedule.warmup", self.schedule.warmup, 0..self.epochs)?;
        within("run.checkpoint_every", self.run.checkpoint_every, 1..)?;
        within("run.keep", self.run.keep, 1..)?;
        within("run.log_every", self.run.log_every, 1..)?;
        self.augment.validate()?;
        self.preprocess.validate()?;
        let input = &self.preprocess;
        let backbone = &self.model.backbone;
        backbones::by_name(backbone, input.channels, input.height, input.width, None)?;
        Ok(())
    }

    fn validate_objective(&self) -> Result<(), TrainError> {
        let objective = &self.objective;
        within("objective.temperature", objective.temperature, 1e-3..=1e3)?;
        within("objective.ema", objective.ema, 0.0..=1.0)?;
        within(
            "objective.student_weight",
            objective.student_weight,
            0.0..=1e3,
        )?;
        within("objective.widths.min", objective.widths.min, 0.05..=1.0)?;
        within(
            "objective.widths.per_step",
            objective.widths.per_step,
            1..=16,
        )?;
        if objective.head == Head::Shared && objective.base_loss == Loss::InfoNce {
            return Err(TrainError::value(
                "objective.head",
                "`shared` is the base network's predictor, which only base_loss = \"cosine\" has; write `auxiliary`",
            ));
        }
        if objective.update == Update::Accumulated && objective.widths.per_step == 1 {
            return Err(TrainError::value(
                "objective.update",
                "`accumulated` halves the base's gradient for the sake of students; widths.per_step = 1 has none",
            ));
        }
        Ok(())
    }

    fn validate_bits(&self) -> Result<(), TrainError> {
        let bits = &self.objective.bits;
        for (key, [low, high], allowed) in
            [("weight", bits.weight, 2..=8), ("act", bits.act, 4..=8)]
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
    use crate::config::{Preset, TrainConfig};

    #[test]
    fn presets_are_valid() {
        for preset in [
            Preset::Combined,
            Preset::Us3l,
            Preset::Ssql,
            Preset::SsqlSimsiam,
        ] {
            let config = TrainConfig::preset(preset);
            assert_eq!(config.preset, preset);
            config.validate().unwrap();
        }
    }

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
                "setting `objective.bits.act`: [8, 4] must be [smallest, largest] within 4 to 8 bits",
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
