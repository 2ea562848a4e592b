//! What quantisation may allocate, and how long a layer may take, decided before either is spent.

use slimbit_graph::{Shape, Stage, Width};
use slimbit_nn::Net;

use super::inputs::{self, ROWS};
use super::layer::{Layer, TOGETHER};
use crate::QuantError;

/// What is taken in all, in percent of the memory that was asked for. The rest, up to a fifth more, is
/// for what an allocator loses.
const PERCENT: usize = 115;

/// Bytes of a process that does nothing yet.
const PROCESS: usize = 48 << 20;

/// Multiplications and additions that the rounding of one layer may take: about a quarter of an hour
/// on two cores.
const MOST_WORK: f64 = 4e12;

/// Fewer inputs than this say too little about a layer of very many weights.
const FEWEST_SAMPLES: usize = 64;

/// Images whose inputs are sampled together, and that are computed together at most.
pub(super) const CHUNK: usize = 32;

/// How the weights of a layer are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// Each to its nearest code.
    Nearest,
    /// By the moments of its inputs.
    Moments,
    /// By this many of its inputs.
    Samples(usize),
}

/// What was settled for a layer, and what it would have taken to reconstruct it from as many inputs
/// as there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) method: Method,
    pub(super) wanted: usize,
    /// The memory that all those inputs would take, where that is more than there is; otherwise time is
    /// what is short.
    pub(super) memory: Option<usize>,
}

/// Bytes and work, known from shapes alone.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    limit: usize,
    /// What is there all the time.
    fixed: usize,
    /// Bytes per image of the tensors that are alive when a stage begins.
    alive: Vec<usize>,
    /// Images that go through the network side by side.
    pub(super) images: usize,
    /// Of them, those that are computed together.
    pub(super) together: usize,
    /// Floats of a layer's weights that are looked at together.
    pub(super) block: usize,
    /// Bytes per image of the stage with the largest set of tensors, float and quantised.
    live: usize,
    /// Positions of each stage's output.
    spatial: Vec<usize>,
}

impl Budget {
    /// For `images` images whose pixels take `pixels` bytes, within `memory` bytes, where `copies` of
    /// every weight are kept as codes.
    pub(super) fn new(
        net: &Net,
        images: usize,
        pixels: usize,
        copies: usize,
        memory: usize,
    ) -> Result<Self, QuantError> {
        let shapes = net.graph().shapes(Width::FULL)?;
        let shape = |index: usize| shapes[net.stages()[index].node.index()];
        let elements = |index: usize| shape(index).elements();
        let last_use = last_use(net.stages());
        let stages = 0..net.stages().len();
        let alive = |now: usize| -> usize {
            let alive = (0..now).filter(|&i| last_use[i] >= now);
            alive.map(elements).sum::<usize>() * 2 * size_of::<f32>()
        };
        let alive: Vec<usize> = stages.clone().map(alive).collect();
        // A stage's output, and as much again for what it computes on the way.
        let own = |now: usize| 2 * elements(now) * 2 * size_of::<f32>();
        let live = stages.clone().map(|now| alive[now] + own(now)).max();
        let live = live.unwrap_or(1).max(1);

        let block = (memory / 512).clamp(1 << 16, 1 << 22);
        let parameters = net.store().elements();
        let fixed = PROCESS
            + parameters * (size_of::<f32>() + copies)
            + pixels
            + 4 * size_of::<f32>() * block.min(parameters);
        let limit = memory / 100 * PERCENT;
        let spare = limit.saturating_sub(fixed);
        let used = (memory / live).min(spare / live).clamp(1, images);
        let spatial = |now: usize| match shape(now) {
            Shape::Map { height, width, .. } => height * width,
            Shape::Vector { .. } => 1,
        };
        Ok(Self {
            limit,
            fixed,
            alive,
            images: used,
            together: used.div_ceil(4).min(CHUNK),
            block,
            live,
            spatial: stages.map(spatial).collect(),
        })
    }

    /// Images per batch of a pass that keeps nothing: a tenth of the memory is plenty for it.
    pub(super) fn batch(&self, memory: usize) -> usize {
        (memory / 10 / self.live).clamp(1, 128)
    }

    /// Bytes that the network and one image take.
    pub(super) fn least(&self) -> usize {
        (self.fixed + self.live) / PERCENT * 100
    }

    /// Whether even those are more than there are.
    pub(super) fn is_exceeded(&self) -> bool {
        self.fixed + self.live > self.limit
    }

    /// How the layer of stage `index` is reconstructed.
    pub(super) fn settle(&self, index: usize, layer: &Layer) -> Settled {
        let (weights, groups) = (layer.weights(), layer.groups());
        let size = weights.per_channel();
        let taken = self.fixed + self.alive[index] * self.images;
        // What is copied of the inputs, and what each thread has of its channels.
        let around = self.alive[index] * self.images.min(CHUNK)
            + rayon::current_num_threads() * TOGETHER * size * 56;
        let taken = taken.saturating_add(around);
        let spare = self.limit.saturating_sub(taken);
        let available = self.images * self.spatial[index];
        let wanted = inputs::wanted(size).min(available);
        let settled = |method, needed: usize| {
            let all = taken.saturating_add(needed);
            Settled {
                method,
                wanted,
                memory: (all > self.limit).then_some(all / PERCENT * 100),
            }
        };
        let needed = moments_bytes(size, groups, wanted);
        if needed <= spare && moments_work(size, groups, weights.channels()) <= MOST_WORK {
            return settled(Method::Moments, needed);
        }
        let needed = samples_bytes(size, groups, wanted);
        let fits = |count: usize| {
            samples_bytes(size, groups, count) <= spare
                && samples_work(size, groups, weights.channels(), count) <= MOST_WORK
        };
        let mut count = wanted;
        while count > FEWEST_SAMPLES && !fits(count) {
            count = (count * 7 / 8).max(FEWEST_SAMPLES);
        }
        match fits(count) {
            true => settled(Method::Samples(count), needed),
            false => settled(Method::Nearest, needed),
        }
    }

    /// About how many multiplications and additions the rounding of a layer takes.
    pub(super) fn rounding_work(method: Method, layer: &Layer) -> f64 {
        let (weights, groups) = (layer.weights(), layer.groups());
        let (size, channels) = (weights.per_channel(), weights.channels());
        match method {
            Method::Nearest => 10.0 * (size * channels) as f64,
            Method::Moments => moments_work(size, groups, channels),
            Method::Samples(count) => samples_work(size, groups, channels, count),
        }
    }

    /// The same of running stage `index` in float and quantised; `layer` is its weights.
    pub(super) fn walking_work(&self, index: usize, layer: Option<&Layer>) -> f64 {
        let outputs = (self.spatial[index] * self.images) as f64;
        let each = layer.map_or(500, |layer| {
            let weights = layer.weights();
            2 * (weights.per_channel() + 50) * weights.channels()
        });
        outputs * each as f64
    }
}

/// Moments, drift and factor in `f64`; one product in `f32`, and the rows that it is made of.
fn moments_bytes(size: usize, groups: usize, inputs: usize) -> usize {
    let square = size.saturating_mul(size);
    square
        .saturating_mul(24)
        .saturating_mul(groups)
        .saturating_add(square.saturating_mul(4))
        .saturating_add(ROWS.min(inputs) * size * size_of::<f32>() * 4)
}

/// The factorisation, and per channel the passes over a matrix that compensation, nearest planes and
/// descent take.
fn moments_work(size: usize, groups: usize, channels: usize) -> f64 {
    let size = size as f64;
    groups as f64 * size.powi(3) / 3.0 + channels as f64 * size * size * 4.0
}

/// Inputs, drift and gains in `f32`, the inverse in `f64`, and the rows before they are turned.
fn samples_bytes(size: usize, groups: usize, count: usize) -> usize {
    let values = size.saturating_mul(count);
    values
        .saturating_mul(12)
        .saturating_add(count.saturating_mul(count).saturating_mul(8))
        .saturating_mul(groups)
        .saturating_add(values.saturating_mul(8))
}

fn samples_work(size: usize, groups: usize, channels: usize, count: usize) -> f64 {
    let (size, count) = (size as f64, count as f64);
    groups as f64 * size * count * count * 2.0 + channels as f64 * size * count * 12.0
}

/// The last stage that reads each stage.
pub(super) fn last_use(stages: &[Stage]) -> Vec<usize> {
    let mut last = vec![0; stages.len()];
    for (index, stage) in stages.iter().enumerate() {
        for &input in &stage.inputs {
            last[input] = index;
        }
    }
    last
}
