//! The settings that make a run of a candidate.

use slimbit_graph::Width;
use toml::{Table, Value};

use super::{Candidate, Chooser, OBLONG};
use crate::config::{overlay, settle};
use crate::{TrainConfig, TrainError};

/// The recipe whose settings the choice is laid over.
const RECIPE: &str = "combined/resnet20-cifar10";
/// Learning rate for a batch of 64, to which it is proportional.
const RATE: f64 = 0.1;

impl Chooser {
    /// All settings with a candidate, over which what was asked for is laid. Not validated.
    pub(super) fn config(
        &self,
        candidate: &Candidate,
        batch: usize,
        epochs: u64,
    ) -> Result<TrainConfig, TrainError> {
        let Candidate { side, network, .. } = candidate;
        let batch = self.asked_number("batch").unwrap_or(batch);
        let epochs = self.asked_number("epochs").map_or(epochs, |n| n as u64);
        let features = self
            .graph(candidate)?
            .output_shape("features", Width::FULL)?
            .channels();
        let grey = self.survey.channels == 1;
        let seen = self
            .source
            .as_ref()
            .and_then(|source| source.preprocess.as_ref());
        let (mean, std) = match seen {
            Some(preprocess) if preprocess.channels == self.survey.channels => {
                (&preprocess.mean, &preprocess.std)
            }
            _ => (&self.survey.mean, &self.survey.std),
        };
        let list = |values: &[f32]| {
            // By way of text, which has as few digits as an `f32` needs.
            let values = values.iter().map(|value| {
                let value: f64 = value.to_string().parse().expect("a number was written");
                Value::Float(value)
            });
            Value::Array(values.collect())
        };
        let mut chosen: Table = toml::from_str(&format!(
            r#"
recipe = "{RECIPE}"
epochs = {epochs}
batch = {batch}
workers = {workers}

[model]
backbone = "{network}"

[heads]
hidden = {hidden}

[objective]
temperature = 0.2

[optim]
lr = {lr}
weight_decay = 1e-4

[schedule]
per = "step"
warmup = {warmup}

[augment]
blur_p = {blur}
saturation = {colour}
hue = {hue}
grey_p = {grey_p}

[preprocess]
channels = {channels}
height = {side}
width = {side}
"#,
            workers = std::thread::available_parallelism()
                .map_or(2, usize::from)
                .clamp(2, 16),
            hidden = (2 * features).next_power_of_two().clamp(256, 2048),
            lr = rounded(RATE * batch as f64 / 64.0),
            warmup = (epochs / 20).max(u64::from(epochs > 3)),
            blur = if *side > 64 { 0.5 } else { 0.0 },
            colour = if grey { 0.0 } else { 0.4 },
            hue = if grey { 0.0 } else { 0.1 },
            grey_p = if grey { 0.0 } else { 0.2 },
            channels = self.survey.channels,
        ))
        .expect("this is TOML");
        let Some(Value::Table(preprocess)) = chosen.get_mut("preprocess") else {
            unreachable!("it is a table of the text above");
        };
        preprocess.insert("mean".to_owned(), list(mean));
        preprocess.insert("std".to_owned(), list(std));
        if self.survey.aspect > OBLONG {
            let asked = ["preprocess.height", "preprocess.width"].map(|key| self.asked_number(key));
            let longest = asked.into_iter().flatten().max().unwrap_or(*side);
            let shorter = Value::Integer((longest * 8 / 7) as i64);
            let resize = Table::from_iter([("shorter".to_owned(), shorter)]);
            preprocess.insert("resize".to_owned(), Value::Table(resize));
        }
        overlay(&mut chosen, self.asked.clone());
        settle(chosen)
    }
}

/// Two digits of a number.
pub(super) fn rounded(value: f64) -> f64 {
    let unit = 10_f64.powf(value.abs().log10().floor() - 1.0);
    // Written and read, so that no digit of rounding is left.
    format!("{:.6}", (value / unit).round() * unit)
        .parse()
        .expect("a number was written")
}
