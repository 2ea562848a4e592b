//! Settings for a first result, chosen by the images and the machine.
//!
//! There is no table of machines or data sets. What a setting costs follows from its network's multiply-accumulates
//! ([`cost`](crate::cost)) and from how many of them this machine was just measured to do in a second.

mod explain;
mod settings;
mod speed;
mod survey;

use burn::tensor::Device;
use slimbit_data::Dataset;
use slimbit_graph::{Graph, Op, Width, backbones};
use toml::{Table, Value};

use crate::config::{Init, asked, lookup};
use crate::cost::{macs_per_image, step_bytes};
use crate::machine::Memory;
use crate::weights::Source;
use crate::{TrainConfig, TrainError};
use survey::Survey;

/// Time of a first result, and the most per image, where there are few.
const HOUR: f64 = 3600.0;
const SECONDS_PER_IMAGE: f64 = 6.0;
/// Views of images that a first result wants, and bounds of the epochs that give them.
const VIEWS_WANTED: usize = 100_000;
const LEAST_EPOCHS: usize = 10;
const MOST_EPOCHS: u64 = 200;
/// Input sides from which one is chosen. Images no larger than [`SMALL`] are taken as they are.
const SIDES: [usize; 7] = [32, 48, 64, 96, 128, 160, 224];
const SMALL: usize = 40;
const LEAST_SIDE: usize = 16;
/// Sides of the last map that suit a network: smaller ones see nothing but the whole image, larger ones too little of it.
const LAST_MAP: std::ops::RangeInclusive<usize> = 3..=12;
/// Networks from which one is chosen by its cost.
const NETWORKS: [&str; 12] = [
    "resnet8-b-s2",
    "resnet14-b-s2",
    "resnet20-b-s2",
    "resnet8-b-x2-s2",
    "resnet14-b-x2-s2",
    "resnet20-b-x2-s2",
    "resnet8-b",
    "resnet20-b",
    "resnet14-b-x2",
    "resnet20-b-x2",
    "resnet18",
    "resnet18-cifar",
];
/// A network that stands for the others where the machine's speed is first measured.
const TYPICAL: (&str, usize) = ("resnet8-b-x2-s2", 64);
/// Images of a batch: as many as an eighth of all, within these.
const BATCH: [usize; 2] = [16, 128];
/// Longer side over shorter side from which stretching an image to a square would distort it.
const OBLONG: f64 = 1.15;
/// Share of the free memory that a step may take.
const MEMORY: f64 = 0.6;

/// What this machine can do.
#[derive(Clone, Copy, Debug)]
struct Machine {
    cores: usize,
    /// Bytes of memory that a step may take.
    memory: f64,
    /// Multiply-accumulates of training in a second.
    speed: f64,
}

/// Settings that were chosen, and why.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Every setting: those that were asked for, and chosen ones for the others.
    pub config: TrainConfig,
    explanation: Vec<String>,
}

impl Choice {
    /// Looks at the images that `key=value` overrides name as `data.path`, measures how fast `device` trains, and chooses
    /// network, input, batch and epochs for a first result in about an hour, or less for few images. What the
    /// overrides say is not chosen.
    ///
    /// # Errors
    /// As [`TrainConfig::from_toml`], and images or a device that cannot be used.
    pub fn make(overrides: &[impl AsRef<str>], device: &Device) -> Result<Self, TrainError> {
        let asked = asked("config", "", overrides)?;
        let Some(path) = lookup(&asked, "data.path").and_then(Value::as_str) else {
            let what = "is empty; name the folder with the images (--data)";
            return Err(TrainError::value("data.path", what));
        };
        let dataset = Dataset::open(path)?;
        if dataset.len() < 2 {
            let what = format!(
                "{path} holds 1 image; training tells images apart, so it needs at least 2"
            );
            return Err(TrainError::value("data.path", what));
        }
        let channels = lookup(&asked, "preprocess.channels").and_then(Value::as_integer);
        let channels = channels.and_then(|n| usize::try_from(n).ok());
        let source = source(&asked)?;
        let seen = source
            .as_ref()
            .and_then(|source| source.preprocess.as_ref());
        let channels = channels.or(seen.map(|preprocess| preprocess.channels));
        let channels = channels.filter(|n| matches!(n, 1 | 3));
        let survey = Survey::of(&dataset, channels)?;
        drop(dataset);
        let chooser = Chooser {
            asked,
            survey,
            source,
        };
        chooser.make(device)
    }

    /// What was chosen and why, the time that it takes, and what to change for better or faster: a line each.
    pub fn explanation(&self) -> &[String] {
        &self.explanation
    }
}

/// The weights that `model.init` asks for: their backbone is the one to choose.
fn source(asked: &Table) -> Result<Option<Source>, TrainError> {
    let text = |key| lookup(asked, key).and_then(Value::as_str);
    match text("model.init").map(|text| Init::from(text.to_owned())) {
        Some(Init::From(path)) => Source::open(&path, text("model.backbone")).map(Some),
        _ => Ok(None),
    }
}

/// What a choice is made from.
struct Chooser {
    asked: Table,
    survey: Survey,
    source: Option<Source>,
}

/// A network at an input size, and what it costs.
#[derive(Clone, Debug)]
struct Candidate {
    side: usize,
    network: String,
    /// Multiply-accumulates of one forward pass of an image at full width.
    macs: f64,
}

/// A candidate with everything that follows from it.
struct Picked {
    candidate: Candidate,
    config: TrainConfig,
    graph: Graph,
    /// Whether all epochs that a first result wants fit in its time.
    fits: bool,
    /// Seconds of an epoch.
    epoch: f64,
    /// Share of that for reading images.
    reading: f64,
}

impl Chooser {
    fn make(&self, device: &Device) -> Result<Choice, TrainError> {
        let candidates = self.candidates()?;
        // What cannot be used is told before anything is measured.
        let last = candidates.last().expect("there is always one");
        self.config(last, 2, 1)?.validate()?;

        let mut machine = Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: MEMORY * Memory::detect().available as f64,
            speed: 0.0,
        };
        let typical = self.candidate(TYPICAL.1, TYPICAL.0)?;
        let (config, graph) = match typical {
            Some(typical) => self.settled(&typical, 2, 1)?,
            // The overrides leave no choice of the network or its input.
            None => self.settled(last, 2, 1)?,
        };
        machine.speed = steady(speed::macs_per_second(&config, &graph, device)?);
        let rough = self.pick(&candidates, machine)?;
        // The chosen network itself may be faster or slower than the typical one. If it is slower, a smaller one may be
        // the right one.
        machine.speed = steady(speed::macs_per_second(&rough.config, &rough.graph, device)?);
        let mut picked = self.pick(std::slice::from_ref(&rough.candidate), machine)?;
        if !picked.fits && rough.fits {
            picked = self.pick(&candidates, machine)?;
        }
        picked.config.validate()?;
        Ok(Choice {
            explanation: self.explain(&picked, machine)?,
            config: picked.config,
        })
    }

    fn is_asked(&self, key: &str) -> bool {
        lookup(&self.asked, key).is_some()
    }

    fn asked_number(&self, key: &str) -> Option<usize> {
        let number = lookup(&self.asked, key)?.as_integer()?;
        usize::try_from(number).ok()
    }

    /// Input sides, the largest first.
    fn sides(&self) -> Vec<usize> {
        let asked = ["preprocess.height", "preprocess.width"].map(|key| self.asked_number(key));
        if let Some(side) = asked.into_iter().flatten().max() {
            return vec![side];
        }
        let shorter = self.survey.shorter();
        let mut sides: Vec<usize> = SIDES.into_iter().filter(|&side| side <= shorter).collect();
        if shorter <= SMALL || sides.is_empty() {
            sides.push(shorter.max(LEAST_SIDE));
        }
        sides.sort_unstable_by(|a, b| b.cmp(a));
        sides.dedup();
        sides
    }

    /// Networks at input sizes that suit them, the largest inputs first, and of those the most expensive network first.
    fn candidates(&self) -> Result<Vec<Candidate>, TrainError> {
        let named = lookup(&self.asked, "model.backbone").and_then(Value::as_str);
        let named = named.or(self.source.as_ref().map(|source| source.backbone.as_str()));
        let networks = named.map_or(NETWORKS.to_vec(), |name| vec![name]);
        let (mut suiting, mut all) = (Vec::new(), Vec::new());
        for side in self.sides() {
            let mut here = Vec::new();
            for network in &networks {
                let Some(candidate) = self.candidate(side, network)? else {
                    continue;
                };
                if LAST_MAP.contains(&last_map(&self.graph(&candidate)?)) {
                    here.push(candidate.clone());
                }
                all.push(candidate);
            }
            here.sort_by(|a, b| b.macs.total_cmp(&a.macs));
            suiting.extend(here);
        }
        if !suiting.is_empty() {
            return Ok(suiting);
        }
        match all.is_empty() {
            false => Ok(all),
            // The name or the size is at fault, and its error says how.
            true => Err(self
                .graph(&Candidate {
                    side: self.sides()[0],
                    network: networks[0].to_owned(),
                    macs: 0.0,
                })
                .err()
                .unwrap_or_else(|| {
                    TrainError::value("model.backbone", "has no shapes at this input")
                })),
        }
    }

    /// A network at an input side; nothing where it has no shapes there, or the overrides want others.
    fn candidate(&self, side: usize, network: &str) -> Result<Option<Candidate>, TrainError> {
        let mut candidate = Candidate {
            side,
            network: network.to_owned(),
            macs: 0.0,
        };
        let Ok(graph) = self.graph(&candidate) else {
            return Ok(None);
        };
        candidate.macs = graph.cost(Width::FULL)?.macs as f64;
        Ok(Some(candidate))
    }

    fn graph(&self, candidate: &Candidate) -> Result<Graph, TrainError> {
        let Candidate { side, network, .. } = candidate;
        let asked = ["preprocess.height", "preprocess.width"].map(|key| self.asked_number(key));
        let [height, width] = asked.map(|asked| asked.unwrap_or(*side));
        let channels = self.survey.channels;
        Ok(backbones::by_name(network, channels, height, width, None)?)
    }

    /// The first candidate of which all epochs that are wanted fit in the time, and else the cheapest.
    fn pick(&self, candidates: &[Candidate], machine: Machine) -> Result<Picked, TrainError> {
        // How much more than a forward pass at full width an iteration costs does not depend on the network.
        let (config, graph) = self.settled(&candidates[0], 2, 1)?;
        let per_pass =
            mean(macs_per_image(&config, &graph)?) / graph.cost(Width::FULL)?.macs.max(1) as f64;
        let estimate =
            |candidate: &Candidate| candidate.macs * per_pass / machine.speed + self.survey.seconds;
        let images = self.survey.images as f64;
        let budget = HOUR.min(SECONDS_PER_IMAGE * images);
        let wanted = self.asked_number("epochs").unwrap_or(
            (VIEWS_WANTED / self.survey.images).clamp(LEAST_EPOCHS, MOST_EPOCHS as usize),
        );
        let affordable = |candidate: &&Candidate| {
            budget / (images * estimate(candidate)) >= wanted as f64
                && self
                    .batch(candidate, machine)
                    .is_ok_and(|batch| batch.is_some())
        };
        let chosen = candidates.iter().find(affordable);
        let cheapest = || {
            let cost = |candidate: &&Candidate| candidate.macs;
            let least = candidates.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            least.expect("there is always one")
        };
        let candidate = chosen.unwrap_or_else(cheapest);
        let batch = self
            .batch(candidate, machine)?
            .unwrap_or(BATCH[0].min(self.survey.images));
        let (config, graph) = self.settled(candidate, batch, 1)?;
        let computing = mean(macs_per_image(&config, &graph)?) / machine.speed;
        let used = (self.survey.images / config.batch.max(1) * config.batch).max(1) as f64;
        let epoch = used * (computing + self.survey.seconds);
        let epochs = round_epochs((budget / epoch) as u64);
        Ok(Picked {
            candidate: candidate.clone(),
            config: self.config(candidate, batch, epochs)?,
            graph,
            fits: chosen.is_some(),
            epoch,
            reading: self.survey.seconds / (computing + self.survey.seconds),
        })
    }

    /// The batch of a candidate: an eighth of the images, halved while a step has no room in memory. Nothing where even
    /// the smallest has none.
    fn batch(&self, candidate: &Candidate, machine: Machine) -> Result<Option<usize>, TrainError> {
        let [least, most] = BATCH;
        let images = self.survey.images;
        let power = |n: usize| 1_usize << n.max(1).ilog2();
        let mut batch = power(images / 8).clamp(least, most).min(images);
        loop {
            let (config, graph) = self.settled(candidate, batch, 1)?;
            if step_bytes(&config, &graph)? as f64 <= machine.memory {
                return Ok(Some(batch));
            }
            if batch <= least {
                return Ok(None);
            }
            batch /= 2;
        }
    }

    fn settled(
        &self,
        candidate: &Candidate,
        batch: usize,
        epochs: u64,
    ) -> Result<(TrainConfig, Graph), TrainError> {
        Ok((
            self.config(candidate, batch, epochs)?,
            self.graph(candidate)?,
        ))
    }
}

/// Rows of the map that is pooled into the features, or columns where they are fewer.
fn last_map(graph: &Graph) -> usize {
    let pool = graph
        .nodes()
        .iter()
        .find(|node| matches!(node.op, Op::GlobalAvgPool));
    let shapes = graph.shapes(Width::FULL);
    match (pool, shapes) {
        (Some(pool), Ok(shapes)) => {
            let (height, width) = shapes[pool.inputs[0].index()].spatial();
            height.min(width)
        }
        _ => 0,
    }
}

fn mean(quarters: [f64; 4]) -> f64 {
    quarters.iter().sum::<f64>() / 4.0
}

/// A measured speed on a coarse scale, so that the same machine gives the same choice again.
fn steady(speed: f64) -> f64 {
    let step = 1.25_f64.ln();
    ((speed.max(1.0).ln() / step).round() * step).exp()
}

/// A round number of epochs of at most so many, 1 at least.
fn round_epochs(most: u64) -> u64 {
    let steps = [
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        10,
        12,
        15,
        20,
        25,
        30,
        40,
        50,
        60,
        80,
        100,
        120,
        150,
        MOST_EPOCHS,
    ];
    steps.into_iter().rev().find(|&n| n <= most).unwrap_or(1)
}

#[cfg(test)]
mod tests;
