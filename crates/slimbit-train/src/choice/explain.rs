//! A choice in words.

use std::time::Duration;

use slimbit_data::Resize;
use slimbit_graph::Width;

use super::{Chooser, Machine, OBLONG, Picked};
use crate::TrainError;

/// Share of the time for reading images from which smaller files are worth their making.
const MUCH_READING: f64 = 0.3;

impl Chooser {
    pub(super) fn explain(
        &self,
        picked: &Picked,
        machine: Machine,
    ) -> Result<Vec<String>, TrainError> {
        let Picked { config, graph, .. } = picked;
        let survey = &self.survey;
        let (height, width) = survey.typical;
        let colour = if survey.channels == 1 {
            "grey"
        } else {
            "colour"
        };
        let macs = graph.cost(Width::FULL)?.macs as f64;
        let steps = survey.images / config.batch.max(1);
        let epochs = config.epochs;
        let seconds = picked.epoch * epochs as f64;
        let mut lines = vec![
            format!(
                "{}: {} {colour} images, typically {width}x{height}",
                config.data.path.display(),
                survey.images
            ),
            format!(
                "settings chosen for a first result on this machine ({} cores, {:.0} billion multiply-accumulates of training a second):",
                machine.cores,
                machine.speed / 1e9
            ),
        ];
        let mut say = |key: &str, value: String, why: String| {
            let why = match self.is_asked(key) {
                true => "as you asked".to_owned(),
                false => why,
            };
            lines.push(format!("  {value:<38} {why}"));
        };
        let input = &config.preprocess;
        let resized = match input.resize {
            Resize::Shorter(side) if survey.aspect > OBLONG => {
                format!("shorter side to {side}, then the centre: stretching would distort them")
            }
            Resize::Shorter(side) => format!("shorter side to {side}, then the centre"),
            Resize::Stretch => "resized to that".to_owned(),
        };
        say(
            "preprocess.height",
            format!(
                "preprocess.height = {}, width = {}",
                input.height, input.width
            ),
            resized,
        );
        say(
            "model.backbone",
            format!("model.backbone = {}", config.model.backbone),
            format!(
                "{:.1} million multiply-accumulates per image; {}",
                macs / 1e6,
                match picked.fits {
                    true => "the largest input, and then network, that there is time for",
                    false => "the cheapest network, for there is little time per image",
                }
            ),
        );
        say(
            "batch",
            format!("batch = {}", config.batch),
            format!("{} an epoch", counted(steps as u64, "step")),
        );
        say(
            "epochs",
            format!("epochs = {epochs}"),
            format!("{} in all", counted(steps as u64 * epochs, "step")),
        );
        lines.push(format!(
            "about {} per step and {} in all, as estimated; the first steps will show",
            time(picked.epoch / steps.max(1) as f64),
            time(seconds)
        ));
        if picked.reading > MUCH_READING {
            let side = 2 * input.height.max(input.width);
            lines.push(format!(
                "{:.0} % of that is for reading and decoding images: copies with a shorter side of {side} pixels would be faster",
                100.0 * picked.reading
            ));
        }
        lines.push(format!(
            "better: epochs={} in {}, a larger model.backbone, or larger preprocess.height and width; quicker: epochs={}",
            2 * epochs,
            time(2.0 * seconds),
            (epochs / 4).max(1)
        ));
        lines.push(
            "key=value settings win over all of this; recipe=NAME takes a recipe as it is (slimbit recipes)"
                .to_owned(),
        );
        Ok(lines)
    }
}

fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// A time for people: `0.4 s`, `12 minutes`, `1.5 hours`.
fn time(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    match time.as_secs_f64() {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.1} hours", s / 3600.0),
    }
}
