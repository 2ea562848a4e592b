//! The settings of a run: what they mean, the recipes by name, and how they are read.
//!
//! A configuration is a [recipe](recipes), over which a TOML file is laid, over which `key=value`
//! overrides are laid. The result always holds every setting; it is what a run directory keeps.

mod changes;
mod check;
mod defaults;
mod init;
mod read;
pub mod recipes;
mod schema;

pub(crate) use changes::{CHANGEABLE, Change};
pub use init::Init;
pub(crate) use read::{asked, lookup, overlay, settle};

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slimbit_data::{AugmentConfig, Preprocess};
use slimbit_num::WeightGrid;

/// Every setting of a training run.
///
/// ```
/// use slimbit_train::TrainConfig;
///
/// let text = "recipe = \"us3l/resnet18-cifar100\"\nepochs = 10";
/// let config = TrainConfig::from_toml(text, &["optim.lr=0.1"])?;
/// assert!(!config.objective.bits.enabled);
/// assert_eq!((config.epochs, config.optim.lr), (10, 0.1));
///
/// let error = TrainConfig::from_toml("", &["optim.lrr=0.1"]).unwrap_err();
/// assert_eq!(error.to_string(), "override: there is no setting `optim.lrr`; did you mean `optim.lr`?");
/// # Ok::<(), slimbit_train::TrainError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The recipe that gives every setting its default; one of [`recipes::names`].
    pub recipe: String,
    /// Seed of the initialisation, the images' order, the views and the students.
    pub seed: u64,
    /// Passes over the training images.
    pub epochs: u64,
    /// Images per iteration.
    pub batch: usize,
    /// Images per pass; 0 for the whole batch at once. Batch statistics, quantiser ranges and InfoNCE's negatives are of
    /// this many, gradients add up: one device that computes what several compute together (spec 3.15, 15 and 16),
    /// in the memory of one.
    pub micro_batch: usize,
    /// Keep few of the networks' tensors for the gradients and compute the others again: less memory, about a third
    /// more time, the same gradients.
    pub gradient_checkpointing: bool,
    /// Convolve 16-bit floats, with gradients scaled to fit in them; for devices that have them.
    pub mixed_precision: bool,
    /// Threads that decode and augment. Does not change what is computed.
    pub workers: usize,
    /// How weights become integers; must be the grid that is deployed.
    #[serde(with = "grid_name")]
    #[schemars(with = "String")]
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
    /// What happens when networks collapse.
    pub watch: WatchConfig,
    /// The distribution of the two views.
    pub augment: AugmentConfig,
    /// The network's input.
    pub preprocess: Preprocess,
}

/// The images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A folder of IDX files, CIFAR binaries or pictures. Labels are read by `base_loss = "crossentropy"` alone.
    pub path: PathBuf,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A name that [`slimbit_graph::backbones::by_name`] reads, such as `resnet18-cifar`.
    pub backbone: String,
    /// How weights begin: `uniform`, `fanout`, or those of another network, from a run's folder, a checkpoint, a float
    /// network file or a checkpoint of another library. Looked at once: a run keeps what it began with.
    #[schemars(with = "String")]
    pub init: Init,
    /// Begin residual blocks as identities: the last batch-norm's scale is 0.
    pub zero_init_residual: bool,
    /// Which widths share batch-norm's scale and shift.
    pub batch_norm: BatchNorms,
}

/// Which widths share batch-norm's scale and shift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorms {
    /// All widths'; a narrow network has the leading ones.
    Shared,
    /// Each width's own, for the widths of `objective.widths.list` (S-Net; spec section 3.11). Such a run is exported
    /// one width at a time.
    Switchable,
}

/// Projector and predictors (spec sections 3.3 and 4.5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeadsConfig {
    /// What turns features into embeddings.
    pub projector: Projector,
    /// Hidden width of the projector and of the predictors.
    pub hidden: usize,
    /// Hidden width of the predictors where it is another one; 0 where not.
    pub predictor_hidden: usize,
    /// Width `d` of the embedding; the number of classes where there is a classifier.
    pub dim: usize,
    /// End the projector with a batch-norm that has no affine part (SSQL).
    pub final_norm: bool,
    /// Round the projector's weights to 8 bits for quantised students (SSQL).
    pub eight_bit_projector: bool,
}

/// What turns features into embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Projector {
    /// Three linear layers with batch-norm between them.
    Mlp3,
    /// Two linear layers without batch-norm (MoCo v2).
    Mlp2,
    /// One linear layer: a classifier.
    Linear,
}

/// What is minimised, by which networks. US3L and SSQL are settings of this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// Loss of the full-width float network. Cosine takes the predictor's output, the others the projector's.
    pub base_loss: Loss,
    /// Loss of the students.
    pub student_loss: Loss,
    /// Temperature of InfoNCE, MoCo and, for its student, SEED.
    pub temperature: f64,
    /// Temperature of SEED's teacher.
    pub teacher_temperature: f64,
    /// Keys in MoCo's and SEED's queue (K).
    pub queue: usize,
    /// Where the targets come from.
    pub target: Target,
    /// The run whose network is the frozen teacher: its folder, or a checkpoint file. Empty where the target is another
    /// one. Looked at once: a run keeps a copy of its teacher.
    pub teacher: PathBuf,
    /// Momentum `m` of the teacher.
    pub ema: f64,
    /// When the teacher moves.
    pub ema_update: EmaUpdate,
    /// Whose targets students have.
    pub student_target: StudentTarget,
    /// What students are seen through.
    pub head: Head,
    /// Weight of a student's loss (lambda_d).
    pub student_weight: f64,
    /// Weight of the distillation of intermediate maps; 0 switches it off (spec section 3.8).
    pub map_weight: f64,
    /// Stages whose maps are distilled, by name: the last of each part of the network, before the addition.
    pub maps: Vec<String>,
    /// When the optimiser steps.
    pub update: Update,
    /// The widths of students.
    pub widths: WidthsConfig,
    /// The bit-widths of students.
    pub bits: BitsConfig,
}

/// A loss between students and targets (spec section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Normalised temperature-scaled cross-entropy, student against target.
    InfoNce,
    /// Negative cosine similarity, cross-view.
    Cosine,
    /// The first view against the target of the second and a queue of earlier targets (MoCo).
    Moco,
    /// Cross-entropy between the teacher's and the student's similarities to a queue of the teacher's embeddings (SEED).
    /// Both see the first view alone.
    Seed,
    /// Cross-entropy of a classifier: with the labels for the base, with the base's answers for students. Sees the first
    /// view alone.
    CrossEntropy,
}

/// Where targets come from. They are made once per iteration, before any weight moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The exponential moving average of the full-width float network.
    Ema,
    /// The base network's own output, without gradient (SimSiam).
    Online,
    /// Another run's network and projector at its full width, in float: it never moves. It has batch statistics of its
    /// own images, as every network in training has.
    Frozen,
    /// The output of the full-width network at the drawn bit-widths, without gradient; there are no students. The
    /// "reverse" control of SSQL (spec section 4.5).
    Quantised,
}

/// When the teacher moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmaUpdate {
    /// Once per iteration.
    Iteration,
    /// Before every network's sub-step; the targets stay those of the first (spec section 3.4).
    SubStep,
    /// Before every network's sub-step, with targets anew: the control without consistent guidance.
    SubStepFresh,
}

/// Whose targets students have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StudentTarget {
    /// The base's.
    Base,
    /// Their own, at their width, by the base's loss: the universally slimmable network without distillation.
    Own,
}

/// What students are seen through before they are compared with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    /// After every network of the iteration (US3L).
    PerStudent,
    /// Once, on half the base's gradient and half the students' mean (SSQL).
    Accumulated,
}

/// The widths of students (spec section 3.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WidthsConfig {
    /// The smallest width.
    pub min: f64,
    /// The largest width, that of the base and of the teacher. Where it is the smallest too, one width is trained.
    pub max: f64,
    /// Exactly these widths in every iteration, instead of drawn ones; empty where they are drawn.
    pub list: Vec<f64>,
    /// Networks per iteration, the base included (N).
    pub per_step: usize,
    /// Always take the largest and the smallest width. Without, the largest drawn width is the base.
    pub sandwich: bool,
    /// How the smallest width develops.
    pub schedule: Course,
}

/// The bit-widths of students (spec sections 4.4, 5.2 and 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// The quarter of the run, 0 to 3, from which on students are quantised; until then only widths are trained.
    pub first_quarter: u8,
    /// Whether quantised students replace narrow float ones or come beside them.
    pub place: Place,
    /// Probability that one narrow student is replaced by the quantised full-width network (p); beside narrow ones,
    /// that the quantised student is of full width.
    pub full_width: f64,
    /// Probability that a narrow student stays float (q), where quantised ones replace them.
    pub float: f64,
    /// Students narrower than `narrow_width` draw at least `narrow_weight` bits per weight.
    pub narrow_width: f64,
    /// See `narrow_width`.
    pub narrow_weight: u8,
    /// Where the activation ranges of quantised full-width students come from.
    pub full_width_ranges: Ranges,
    /// Keep the gradient from the scales of weights; in SSQL's code it also reaches every channel's largest weight.
    pub detach_scales: bool,
}

/// How the range from which widths or bits are drawn develops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// The whole range from the start.
    Static,
    /// Wider with every quarter of training: widths from 1, 3/4, 1/2 and 1/4 (of a range to 1/4), weight bits
    /// from 6, 4, 3 and 2, activation bits from 6, 5, 4 and 2, and never below the smallest of the settings.
    Dynamic,
}

/// What quantised students are to narrow float ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// They take the place of some of them (spec section 5.2); where there is none, one is of full width.
    Replace,
    /// One comes beside them, of full width or of a drawn or listed one: widths are trained as without bits, and an
    /// iteration has one network more.
    Beside,
}

/// Where activation ranges come from in training (spec section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ranges {
    /// The base network's float pass over both views (SSQL).
    Measured,
    /// The tensor that is being quantised.
    Dynamic,
}

/// The descent (spec section 1.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// The rule.
    pub algorithm: Algorithm,
    /// The initial learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 penalty on every trainable tensor, once per optimiser step. Ignored where `group.lambda` is positive.
    pub weight_decay: f64,
    /// Largest global norm of a step's gradient; 0 does not clip.
    pub clip: f64,
    /// Trust coefficient of LARS.
    pub trust: f64,
    /// Group regularisation.
    pub group: GroupConfig,
}

/// How weights move along a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// The same, each tensor's gradient scaled to its weights; for large batches (spec section 3.9).
    Lars,
}

/// Group regularisation (spec section 3.7); replaces the weight decay where `lambda` is positive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How often the learning rate, the smallest width and the smallest bits are looked up.
    pub per: Pace,
    /// Epochs in which the learning rate rises linearly; where the run has no more than these, half of it.
    pub warmup: u64,
}

/// How often schedules move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// At the start of an epoch, as published.
    Epoch,
    /// At every iteration; for runs of few epochs.
    Step,
}

/// What is kept on disk, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Iterations between checkpoints at most; there is also one at the end, and one on interruption.
    pub checkpoint_every: u64,
    /// Minutes between checkpoints at most; 0 looks at the iterations alone.
    pub checkpoint_minutes: f64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Iterations between lines of `metrics.jsonl` and TensorBoard events.
    pub log_every: u64,
}

/// The collapse watch. It compares each sampled kind of network (base, narrow, quantised) with what it was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchConfig {
    /// What happens when a network falls.
    pub action: WatchAction,
    /// Iterations over which measures are averaged, and after which the watch begins.
    pub window: u64,
    /// A feature spread below this is a collapse (healthy: 0.4 to 0.6).
    pub least_std: f64,
    /// An effective rank below this share of its best average is a collapse.
    pub least_rank: f64,
    /// And so is one below this, whatever it was before: features that vary along a line have 1.
    pub least_dimensions: f64,
    /// Factor on the learning rate after a roll back.
    pub lower_lr: f64,
    /// Roll backs before the run gives up.
    pub most_rollbacks: u32,
}

/// What happens when a network falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WatchAction {
    /// Nothing.
    Off,
    /// The log says so, with the likely cause.
    Warn,
    /// That, and the run goes back to the last healthy checkpoint and on at a lower rate.
    Rollback,
    /// That, and the run stops.
    Stop,
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
