use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use slimbit_data::{AugmentConfig, Holdout};
use slimbit_graph::Width;

use crate::TrainError;
use crate::probe::LabelBudget;

/// Settings of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuneConfig {
    /// The run directory whose newest checkpoint is tuned.
    pub run: PathBuf,
    /// Labelled images; the training part of what has several.
    pub data: PathBuf,
    /// Images of `data` that are not trained on but measured on; where nothing else is said, it is
    /// measured on the test split, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout: Option<Holdout>,
    /// Seed that decides which images are held out; by default `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout_seed: Option<u64>,
    /// The width that is tuned.
    pub width: Width,
    /// Which labels are used.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub labels: LabelBudget,
    /// Seed of the classifier, the drawn labels, the images' order and their views.
    pub seed: u64,
    /// Passes over the labelled images; the rate falls to a tenth after 60 % and after 80 % of them.
    pub epochs: u64,
    /// Images per step at most.
    pub batch: usize,
    /// Learning rate of the classifier.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 penalty on everything that is trained.
    pub weight_decay: f64,
    /// What stays as it is.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub freeze: Freeze,
    /// Epochs in which only the classifier learns, as a linear probe, before the first step.
    pub warm_head: usize,
    /// Factor of the learning rate from each layer with weights to the one below it.
    pub layer_decay: f64,
    /// Random crops and flips of the training images.
    pub augment: AugmentConfig,
    /// Steps between checkpoints at most; there is also one at the end, and one on interruption.
    pub checkpoint_every: u64,
    /// Names of the classes, in the order of the logits. Where there are none, a tuning that begins takes
    /// them from the data; those of older programs have none.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Minutes between checkpoints at most; 0 looks at the steps alone.
    #[serde(default = "checkpoint_minutes")]
    pub checkpoint_minutes: f64,
}

fn checkpoint_minutes() -> f64 {
    5.0
}

/// What of the network stays as it was pre-trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// This many layers with weights, from the image on, with their batch-norms' scales and shifts.
    First(usize),
    /// All but the classifier, batch-norm statistics included: a linear probe with augmentation.
    All,
}

impl FineTuneConfig {
    /// Defaults for a run, labelled images and a number of input rows and columns.
    pub fn new(run: &Path, data: &Path, size: [usize; 2]) -> Self {
        Self {
            run: run.to_owned(),
            data: data.to_owned(),
            holdout: None,
            holdout_seed: None,
            width: Width::FULL,
            labels: LabelBudget::All,
            seed: 0,
            epochs: 20,
            batch: 64,
            lr: 0.05,
            momentum: 0.9,
            weight_decay: 1e-4,
            freeze: Freeze::First(0),
            warm_head: 0,
            layer_decay: 1.0,
            augment: crops_and_flips(size),
            checkpoint_every: 200,
            classes: Vec::new(),
            checkpoint_minutes: checkpoint_minutes(),
        }
    }

    /// What is held out of the images, and the seed that decides which.
    pub fn held_out(&self) -> Option<(Holdout, u64)> {
        let seed = self.holdout_seed.unwrap_or(self.seed);
        self.holdout.map(|holdout| (holdout, seed))
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] names the first setting that cannot be used.
    pub fn validate(&self) -> Result<(), TrainError> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let refuse = |key: &str, what: String| Err(TrainError::value(key, what));
        if self.epochs == 0 {
            return refuse("epochs", "0 trains nothing; choose at least 1".to_owned());
        }
        // One image has no batch statistics to speak of.
        if self.batch < 2 {
            return refuse(
                "batch",
                format!("{} is too small; choose at least 2", self.batch),
            );
        }
        if !positive(self.lr) {
            return refuse("lr", format!("{} is not a rate above 0", self.lr));
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return refuse("momentum", format!("{} is not in 0..1", self.momentum));
        }
        if !(0.0..f64::INFINITY).contains(&self.weight_decay) {
            let what = format!("{} is not finite and at least 0", self.weight_decay);
            return refuse("weight_decay", what);
        }
        if !(positive(self.layer_decay) && self.layer_decay <= 1.0) {
            let what = format!("{} is not above 0 and up to 1", self.layer_decay);
            return refuse("layer_decay", what);
        }
        if self.checkpoint_every == 0 {
            return refuse(
                "checkpoint_every",
                "0 steps are none; choose at least 1".to_owned(),
            );
        }
        if !(0.0..).contains(&self.checkpoint_minutes) {
            return refuse(
                "checkpoint_minutes",
                format!("{} is not at least 0", self.checkpoint_minutes),
            );
        }
        Ok(self.augment.validate()?)
    }
}

/// Random resized crops and flips of labelled images (spec section 3.9): mild ones of small images.
fn crops_and_flips(size: [usize; 2]) -> AugmentConfig {
    const SMALL: usize = 64;
    let small = size.iter().all(|&side| side <= SMALL);
    AugmentConfig {
        crop_scale: if small { [0.8, 1.0] } else { [0.08, 1.0] },
        jitter_p: 0.0,
        grey_p: 0.0,
        blur_p: 0.0,
        ..AugmentConfig::cifar()
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First(layers) => layers.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Freeze {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        match (text, text.parse()) {
            ("all", _) => Ok(Self::All),
            (_, Ok(layers)) => Ok(Self::First(layers)),
            _ => Err(TrainError::value(
                "freeze",
                format!("`{text}` is neither a number of layers nor `all`"),
            )),
        }
    }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn from_text<'de, T: FromStr<Err = TrainError>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FineTuneConfig {
        FineTuneConfig::new("runs/first".as_ref(), "photos".as_ref(), [32, 32])
    }

    #[test]
    fn settings_survive_toml() {
        let config = FineTuneConfig {
            labels: LabelBudget::Share(0.01),
            freeze: Freeze::All,
            width: Width::new(0.5).unwrap(),
            holdout: Some(Holdout::Share(0.2)),
            holdout_seed: Some(3),
            classes: vec!["T-shirt/top".to_owned(), "\"".to_owned()],
            ..config()
        };
        assert_eq!(config.held_out(), Some((Holdout::Share(0.2), 3)));
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<FineTuneConfig>(&text).unwrap(), config);
        // As it was written before there were holdouts.
        let without = text
            .replace("holdout = \"20%\"\n", "")
            .replace("holdout_seed = 3\n", "");
        let old = toml::from_str::<FineTuneConfig>(&without).unwrap();
        assert_eq!(old.held_out(), None);
    }

    #[test]
    fn values_out_of_range_are_named() {
        type Change = fn(&mut FineTuneConfig);
        let cases: [(&str, Change); 6] = [
            ("epochs", |c| c.epochs = 0),
            ("batch", |c| c.batch = 1),
            ("lr", |c| c.lr = f64::NAN),
            ("momentum", |c| c.momentum = 1.0),
            ("layer_decay", |c| c.layer_decay = 1.5),
            ("weight_decay", |c| c.weight_decay = -1.0),
        ];
        for (key, change) in cases {
            let mut config = config();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
        assert!("half".parse::<Freeze>().is_err());
    }
}
