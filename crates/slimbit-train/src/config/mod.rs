//! The settings of a run: what they mean, the published recipes, and how they are read.
//!
//! A configuration is a preset ([`Preset`]), over which a TOML file is laid, over which `key=value`
//! overrides are laid. The result always holds every setting; it is what a run directory keeps.

mod check;
mod presets;
mod read;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use slimbit_data::{AugmentConfig, Preprocess};
use slimbit_num::WeightGrid;

/// Every setting of a training run.
///
/// ```
/// use slimbit_train::TrainConfig;
///
/// let config = TrainConfig::from_toml("preset = \"us3l\"\nepochs = 10", &["optim.lr=0.1"])?;
/// assert!(!config.objective.bits.enabled);
/// assert_eq!((config.epochs, config.optim.lr), (10, 0.1));
///
/// let error = TrainConfig::from_toml("", &["optim.lrr=0.1"]).unwrap_err();
/// assert_eq!(error.to_string(), "override: there is no setting `optim.lrr`; did you mean `optim.lr`?");
/// # Ok::<(), slimbit_train::TrainError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The recipe that gives every setting its default.
    pub preset: Preset,
    /// Seed of the initialisation, the images' order, the views and the students.
    pub seed: u64,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images per iteration. Batch statistics and InfoNCE negatives are of this many (spec 3.15, 15).
    pub batch: usize,
    /// Threads that decode and augment. Does not change what is computed.
    pub workers: usize,
    /// How weights become integers; must be the grid that is deployed.
    #[serde(with = "grid_name")]
    pub grid: WeightGrid,
    /// The images.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// Projector and predictors.
    pub heads: HeadsConfig,
    /// What is minimised, by which networks.
    pub objective: ObjectiveConfig,
    /// The descent.
    pub optim: OptimConfig,
    /// What changes in the course of training.
    pub schedule: ScheduleConfig,
    /// What is kept on disk, and how often.
    pub run: RunConfig,
    /// The distribution of the two views.
    pub augment: AugmentConfig,
    /// The network's input.
    pub preprocess: Preprocess,
}

/// A published recipe, or the combination of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Widths and bit-widths elastic together (spec section 5.2).
    #[default]
    Combined,
    /// US3L's CIFAR recipe (spec section 3.11, first row): widths only.
    Us3l,
    /// SSQL-BYOL (spec section 4.5, variants): bit-widths only, momentum teacher.
    Ssql,
    /// SSQL-SimSiam (spec section 4.5): bit-widths only, the network's own output as target.
    SsqlSimsiam,
}

/// The images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder of IDX files, CIFAR binaries or pictures; labels are not read.
    pub path: PathBuf,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A name that [`slimbit_graph::backbones::by_name`] reads, such as `resnet18-cifar`.
    pub backbone: String,
}

/// Projector and predictors (spec sections 3.3 and 4.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadsConfig {
    /// Hidden width of the projector and of the predictors.
    pub hidden: usize,
    /// Width `d` of the embedding.
    pub dim: usize,
    /// End the projector with a batch-norm that has no affine part (SSQL).
    pub final_norm: bool,
    /// Round the projector's weights to 8 bits for quantised students (SSQL).
    pub eight_bit_projector: bool,
}

/// What is minimised, by which networks. US3L and SSQL are settings of this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Loss of the full-width float network. InfoNCE takes the projector's output, cosine the predictor's.
    pub base_loss: Loss,
    /// Loss of the students.
    pub student_loss: Loss,
    /// Temperature of InfoNCE.
    pub temperature: f64,
    /// Where the targets come from.
    pub target: Target,
    /// Momentum `m` of the teacher.
    pub ema: f64,
    /// What students are seen through.
    pub head: Head,
    /// Weight of a student's loss (lambda_d).
    pub student_weight: f64,
    /// When the optimiser steps.
    pub update: Update,
    /// The widths of students.
    pub widths: WidthsConfig,
    /// The bit-widths of students.
    pub bits: BitsConfig,
}

/// A loss between students and targets (spec section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Normalised temperature-scaled cross-entropy, student against target.
    InfoNce,
    /// Negative cosine similarity, cross-view.
    Cosine,
}

/// Where targets come from. They are made once per iteration, before any weight moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The exponential moving average of the full-width float network.
    Ema,
    /// The base network's own output, without gradient (SimSiam).
    Online,
}

/// What students are seen through before they are compared with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// A predictor of their own (h').
    Auxiliary,
    /// The base network's predictor.
    Shared,
    /// Nothing.
    None,
}

/// When the optimiser steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// After every network of the iteration (US3L).
    PerStudent,
    /// Once, on half the base's gradient and half the students' mean (SSQL).
    Accumulated,
}

/// The widths of students (spec section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WidthsConfig {
    /// The smallest width; 1 trains one width only.
    pub min: f64,
    /// Networks per iteration, the base included (N).
    pub per_step: usize,
    /// Always take the largest and the smallest width. Without, the largest drawn width is the base.
    pub sandwich: bool,
    /// How the smallest width develops.
    pub schedule: Course,
}

/// The bit-widths of students (spec sections 4.4, 5.2 and 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitsConfig {
    /// Whether students are quantised at all.
    pub enabled: bool,
    /// Smallest and largest bits of a weight.
    pub weight: [u8; 2],
    /// Smallest and largest bits of an activation.
    pub act: [u8; 2],
    /// How the smallest bits develop.
    pub schedule: Course,
    /// Probability that one narrow student is replaced by the quantised full-width network (p).
    pub full_width: f64,
    /// Probability that a narrow student stays float (q).
    pub float: f64,
    /// Students narrower than `narrow_width` draw at least `narrow_weight` bits per weight.
    pub narrow_width: f64,
    /// See `narrow_width`.
    pub narrow_weight: u8,
    /// Where the activation ranges of quantised full-width students come from.
    pub full_width_ranges: Ranges,
}

/// How the range from which widths or bits are drawn develops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// The whole range from the start.
    Static,
    /// Wider with every quarter of training: widths from 1, 3/4, 1/2 and 1/4 (of a range to 1/4), weight bits
    /// from 6, 4, 3 and 2, activation bits from 6, 5, 4 and 4.
    Dynamic,
}

/// Where activation ranges come from in training (spec section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranges {
    /// The base network's float pass over both views (SSQL).
    Measured,
    /// The tensor that is being quantised.
    Dynamic,
}

/// Stochastic gradient descent (spec section 1.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// The initial learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 penalty on every trainable tensor, once per optimiser step. Ignored where `group.lambda` is positive.
    pub weight_decay: f64,
    /// Group regularisation.
    pub group: GroupConfig,
}

/// Group regularisation (spec section 3.7); replaces the weight decay where `lambda` is positive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Penalty of the first group; half of the equivalent weight decay. 0 switches it off.
    pub lambda: f64,
    /// Share by which the penalty falls from one group to the next, once fully in force.
    pub alpha: f64,
    /// Groups of output channels (K).
    pub groups: usize,
    /// Epoch before which all groups have the same penalty (E_wu).
    pub start: u64,
}

/// What changes in the course of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How often the learning rate, the smallest width and the smallest bits are looked up.
    pub per: Pace,
    /// Epochs in which the learning rate rises linearly.
    pub warmup: u64,
}

/// How often schedules move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// At the start of an epoch, as published.
    Epoch,
    /// At every iteration; for runs of few epochs.
    Step,
}

/// What is kept on disk, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Iterations between checkpoints; there is also one at the end, and one on interruption.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Iterations between lines of `metrics.jsonl` and TensorBoard events.
    pub log_every: u64,
}

impl TrainConfig {
    /// Whether a run may go on with these settings: only where the data lie, the number of threads and what is kept
    /// on disk may differ.
    pub fn trains_the_same_as(&self, other: &Self) -> bool {
        let movable = Self {
            data: other.data.clone(),
            workers: other.workers,
            run: other.run,
            ..self.clone()
        };
        movable == *other
    }
}

mod grid_name {
    use serde::{Deserialize, Deserializer, Serializer};
    use slimbit_num::WeightGrid;

    pub(super) fn serialize<S: Serializer>(grid: &WeightGrid, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(grid)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<WeightGrid, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
