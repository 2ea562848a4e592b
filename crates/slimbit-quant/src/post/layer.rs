//! The weights of one layer while its bit-widths are decided one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::tensor::Tensor;
use rayon::prelude::*;
use slimbit_engine::{ChannelCodes, Codes, Weights};
use slimbit_num::WeightGrid;

use super::gram::Gram;
use super::inputs::Inputs;
use super::magnitude::{
    best_magnitude, ends, index, largest, lattice, shared_magnitude, squared_error,
};
use super::rounding::{Channel, Reconstruct, Reconstruction};
use super::samples::{SampledReconstruction, Samples};

/// Output channels that are rounded together at most. The rows of a large matrix of moments come from
/// memory once for all of them, while what each has of its own still fits the second-level cache.
pub(crate) const TOGETHER: usize = 16;

/// A layer's float weights `[out, in / groups, rows, columns]`, fetched a few output channels at a
/// time; they stay where the network keeps them.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    values: Tensor<1>,
    channels: usize,
}

impl Rows {
    pub(crate) fn new(values: Tensor<1>, channels: usize) -> Self {
        Self {
            values: values.without_autodiff(),
            channels,
        }
    }

    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    pub(crate) fn per_channel(&self) -> usize {
        self.values.dims()[0] / self.channels.max(1)
    }

    pub(crate) fn get(&self, channels: Range<usize>) -> Vec<f32> {
        let size = self.per_channel();
        let part = self.values.clone();
        let part = part.slice(channels.start * size..channels.end * size);
        let values = part.into_data().try_into_vec();
        values.expect("parameters are f32")
    }

    fn real(&self, channel: usize) -> Vec<f64> {
        let row = self.get(channel..channel + 1);
        row.into_iter().map(f64::from).collect()
    }
}

/// A layer's integers at the bit-widths decided so far, in the order of its float weights.
///
/// On the nested grids all bit-widths share one 8-bit code. Deciding the fewest bits first leaves
/// each weight the interval of 8-bit codes that begin with its decision; the next bit-width chooses
/// within that interval.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    grid: WeightGrid,
    weights: Rows,
    groups: usize,
    /// Per bit-width on the minmax grid, under 8 on the nested ones.
    max_abs: BTreeMap<u8, Vec<f32>>,
    decided: BTreeSet<u8>,
    /// Per bit-width on the minmax grid. On the nested ones, under 8, the first of the 8-bit codes that
    /// give every decided bit-width its code.
    codes: BTreeMap<u8, Vec<i8>>,
}

/// How the integers of one bit-width are decided.
#[derive(Clone, Copy)]
pub(crate) struct Decision<'a> {
    pub(crate) bits: u8,
    /// Each group's inputs, to reconstruct the outputs; each weight is rounded on its own without
    /// them.
    pub(crate) inputs: Option<&'a Inputs>,
    /// Whether to make up for what quantisation upstream does to the inputs.
    pub(crate) compensate: bool,
    /// Whether to look for the magnitude with the least squared error.
    pub(crate) clip: bool,
    /// What the magnitude of 8-bit codes is multiplied by.
    pub(crate) headroom: f32,
    /// Told the number of output channels that have just been decided, from any thread.
    pub(crate) progress: &'a (dyn Fn(usize) + Sync),
}

/// What the channels of a group share.
struct Group<'a> {
    importance: Vec<f64>,
    /// Nothing where the moments are not positive definite.
    reconstruction: Option<Box<dyn Reconstruct + Send + 'a>>,
}

impl<'a> Group<'a> {
    fn of_moments(gram: &'a Gram) -> Self {
        let boxed = |found: Reconstruction<'a>| Box::new(found) as Box<dyn Reconstruct + Send>;
        Self {
            importance: gram.diagonal().collect(),
            reconstruction: Reconstruction::new(gram).map(boxed),
        }
    }

    fn of_samples(samples: &'a Samples) -> Self {
        let importance = samples.importance();
        let found = SampledReconstruction::new(samples, importance.clone());
        Self {
            importance,
            reconstruction: Some(Box::new(found)),
        }
    }
}

/// Neighbouring output channels of one group, and where their integers go.
struct Task<'a> {
    first: usize,
    group: usize,
    max_abs: &'a mut [f32],
    codes: &'a mut [i8],
}

impl Layer {
    /// A layer of which nothing is known yet.
    pub(crate) fn new(weights: Rows, groups: usize, grid: WeightGrid) -> Self {
        Self {
            grid,
            weights,
            groups,
            max_abs: BTreeMap::new(),
            decided: BTreeSet::new(),
            codes: BTreeMap::new(),
        }
    }

    /// Settles what the bit-widths of a nested grid share, before the first of `bits` is decided;
    /// `clip` and `headroom` as in [`Decision`].
    pub(crate) fn share(&mut self, bits: &BTreeSet<u8>, clip: bool, headroom: f32) {
        if !self.is_nested() {
            return;
        }
        let shared = |channel: usize| {
            let row = self.weights.real(channel);
            match clip && bits.iter().any(|&b| b < 8) {
                true => shared_magnitude(&row, self.grid, bits),
                false => largest(&row) * headroom,
            }
        };
        let channels = (0..self.weights.channels()).into_par_iter();
        let shared = channels.map(shared).collect();
        self.max_abs.insert(8, shared);
    }

    pub(crate) fn weights(&self) -> &Rows {
        &self.weights
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    pub(crate) fn is_decided(&self, bits: u8) -> bool {
        self.decided.contains(&bits)
    }

    /// Whether an earlier decision at fewer bits keeps any weight from its nearest code.
    pub(crate) fn is_bound(&self) -> bool {
        self.is_nested() && !self.decided.is_empty()
    }

    fn is_nested(&self) -> bool {
        self.grid != WeightGrid::MinMax
    }

    pub(crate) fn decide(&mut self, decision: &Decision) {
        let bits = decision.bits;
        let groups: Option<Vec<Group>> = decision.inputs.map(|inputs| match inputs {
            Inputs::Moments(grams) => grams.par_iter().map(Group::of_moments).collect(),
            Inputs::Samples(samples) => samples.iter().map(Group::of_samples).collect(),
        });
        let (channels, size) = (self.weights.channels(), self.weights.per_channel());
        let key = if self.is_nested() { 8 } else { bits };
        let possible = self.possible();
        let mut codes = match self.codes.remove(&key) {
            Some(codes) => codes,
            None => vec![0; channels * size],
        };
        let mut max_abs = vec![0.0; channels];
        let mut tasks = self.tasks(&mut max_abs, &mut codes);
        tasks.par_iter_mut().for_each(|task| {
            let group = groups.as_ref().map(|groups| &groups[task.group]);
            self.decide_channels(task, decision, &possible, group);
            (decision.progress)(task.max_abs.len());
        });
        if !self.is_nested() {
            self.max_abs.insert(bits, max_abs);
        }
        self.codes.insert(key, codes);
        self.decided.insert(bits);
    }

    /// A few channels each, none with channels of two groups, and enough to keep every thread busy.
    fn tasks<'a>(&self, max_abs: &'a mut [f32], codes: &'a mut [i8]) -> Vec<Task<'a>> {
        let (channels, size) = (self.weights.channels(), self.weights.per_channel());
        let per_group = channels.div_ceil(self.groups).max(1);
        let busy = 4 * rayon::current_num_threads();
        let together = (channels / busy).clamp(1, TOGETHER);
        let mut tasks = Vec::new();
        let groups = max_abs.chunks_mut(per_group);
        let groups = groups.zip(codes.chunks_mut((per_group * size).max(1)));
        for (group, (max_abs, codes)) in groups.enumerate() {
            let parts = max_abs.chunks_mut(together);
            let parts = parts.zip(codes.chunks_mut((together * size).max(1)));
            for (part, (max_abs, codes)) in parts.enumerate() {
                tasks.push(Task {
                    first: group * per_group + part * together,
                    group,
                    max_abs,
                    codes,
                });
            }
        }
        tasks
    }

    /// The 8-bit codes that each 8-bit code can still become: those that agree with it in every
    /// bit-width decided so far.
    fn possible(&self) -> Vec<[i8; 2]> {
        if !self.is_nested() {
            return Vec::new();
        }
        let mut possible = vec![[i8::MIN, i8::MAX]; 256];
        for &bits in &self.decided {
            let ends = ends(self.grid, bits);
            for (code, possible) in (i8::MIN..=i8::MAX).zip(&mut possible) {
                let [lo, hi] = ends[&self.grid.narrow(code, bits).into()];
                *possible = [possible[0].max(lo), possible[1].min(hi)];
            }
        }
        possible
    }

    fn decide_channels(
        &self,
        task: &mut Task,
        decision: &Decision,
        possible: &[[i8; 2]],
        group: Option<&Group>,
    ) {
        let (bits, size) = (decision.bits, self.weights.per_channel());
        let reconstruction = group.and_then(|group| group.reconstruction.as_deref());
        let count = task.max_abs.len();
        let mut rows: Vec<Vec<f64>> = (task.first..task.first + count)
            .map(|channel| self.weights.real(channel))
            .collect();
        if let (Some(reconstruction), true) = (reconstruction, decision.compensate) {
            reconstruction.compensate(&mut rows);
        }
        let importance = group.map(|group| &group.importance[..]);
        let channels: Vec<Channel> = rows
            .into_iter()
            .enumerate()
            .map(|(i, row)| {
                task.max_abs[i] = self.magnitude(task.first + i, &row, decision, importance);
                let codes = &task.codes[i * size..][..size];
                self.channel(row, codes, possible, task.max_abs[i], bits)
            })
            .collect();
        let indices = match reconstruction {
            Some(reconstruction) => reconstruction.round(&channels),
            None => channels
                .iter()
                .enumerate()
                .map(|(i, channel)| match self.is_nested() {
                    true => {
                        let codes = &task.codes[i * size..][..size];
                        self.narrowed(&channel.weights, codes, possible, task.max_abs[i], bits)
                    }
                    false => channel.nearest(),
                })
                .collect(),
        };
        let ends = match self.is_nested() {
            true => ends(self.grid, bits),
            false => BTreeMap::new(),
        };
        let codes = task.codes.iter_mut();
        for (code, index) in codes.zip(indices.into_iter().flatten()) {
            let found = match self.grid.is_odd_at(bits) {
                true => (2 * index + 1) as i8,
                false => index as i8,
            };
            *code = match ends.get(&found.into()) {
                Some(ends) => self.possible_of(possible, *code)[0].max(ends[0]),
                None => found,
            };
        }
    }

    fn magnitude(
        &self,
        channel: usize,
        row: &[f64],
        decision: &Decision,
        importance: Option<&[f64]>,
    ) -> f32 {
        let bits = decision.bits;
        match self.max_abs.get(&8) {
            Some(shared) if self.is_nested() => shared[channel],
            _ if decision.clip && bits < 8 => best_magnitude(row, |magnitude| {
                squared_error(row, importance, self.grid, magnitude, bits)
            }),
            _ if bits == 8 => largest(row) * decision.headroom,
            _ => largest(row),
        }
    }

    fn channel(
        &self,
        row: Vec<f64>,
        codes: &[i8],
        possible: &[[i8; 2]],
        max_abs: f32,
        bits: u8,
    ) -> Channel {
        let bounds = match self.is_nested() {
            false => vec![[-(1 << (bits - 1)), (1 << (bits - 1)) - 1]; row.len()],
            true => codes
                .iter()
                .map(|&code| {
                    self.possible_of(possible, code)
                        .map(|code| index(self.grid, self.grid.narrow(code, bits), bits))
                })
                .collect(),
        };
        Channel {
            weights: row,
            lattice: lattice(self.grid, max_abs, bits),
            bounds,
        }
    }

    fn possible_of(&self, possible: &[[i8; 2]], code: i8) -> [i8; 2] {
        match self.decided.is_empty() {
            true => [i8::MIN, i8::MAX],
            false => possible[(i32::from(code) - i32::from(i8::MIN)) as usize],
        }
    }

    /// The upper parts of the nearest 8-bit codes. To round to the wider steps directly would leave
    /// some 8-bit codes short of theirs, and all of those on the same side.
    fn narrowed(
        &self,
        row: &[f64],
        codes: &[i8],
        possible: &[[i8; 2]],
        max_abs: f32,
        bits: u8,
    ) -> Vec<i32> {
        let lattice = lattice(self.grid, max_abs, 8);
        let pairs = row.iter().zip(codes);
        pairs
            .map(|(&w, &code)| {
                let bounds = self.possible_of(possible, code).map(i32::from);
                let code = lattice.nearest(w, bounds) as i8;
                index(self.grid, self.grid.narrow(code, bits), bits)
            })
            .collect()
    }

    /// The codes of a decided bit-width, of some output channels.
    fn codes(&self, bits: u8, channels: Range<usize>) -> Vec<i8> {
        let size = self.weights.per_channel();
        let places = channels.start * size..channels.end * size;
        match self.is_nested() {
            true => {
                let codes = self.codes[&8][places].iter();
                codes.map(|&code| self.grid.narrow(code, bits)).collect()
            }
            false => self.codes[&bits][places].to_vec(),
        }
    }

    /// The weights that the codes of a decided bit-width stand for, of some output channels.
    pub(crate) fn real(&self, bits: u8, channels: Range<usize>) -> Vec<f32> {
        let max_abs = self.max_abs.get(&bits).unwrap_or_else(|| &self.max_abs[&8]);
        let max_abs = &max_abs[channels.clone()];
        let codes = self.codes(bits, channels);
        let rows = codes.chunks_exact(self.weights.per_channel().max(1));
        rows.zip(max_abs)
            .flat_map(|(codes, &max_abs)| {
                let scale = self.grid.scale(max_abs, bits);
                codes.iter().map(move |&code| f32::from(code) * scale)
            })
            .collect()
    }

    /// The layer as the engine stores it; `shape` is `[out, rows, columns, in / groups]`.
    pub(crate) fn finish(mut self, shape: [usize; 4]) -> Weights {
        let [_, rows, columns, inputs] = shape;
        let taps = rows * columns;
        let ordered = |codes: &[i8]| -> Vec<i8> {
            let mut out = Vec::with_capacity(codes.len());
            for channel in codes.chunks_exact((taps * inputs).max(1)) {
                for tap in 0..taps {
                    out.extend((0..inputs).map(|i| channel[i * taps + tap]));
                }
            }
            out
        };
        if self.is_nested() && !self.is_decided(8) {
            self.decide(&Decision {
                bits: 8,
                inputs: None,
                compensate: false,
                clip: false,
                headroom: 1.0,
                progress: &|_| {},
            });
        }
        let stored = |(bits, codes): (u8, Vec<i8>)| ChannelCodes {
            max_abs: self.max_abs[&bits].clone(),
            codes: ordered(&codes).into(),
        };
        let mut all = std::mem::take(&mut self.codes).into_iter();
        let codes = match self.grid {
            WeightGrid::MinMax => Codes::MinMax(
                all.map(|(bits, codes)| (bits, stored((bits, codes))))
                    .collect(),
            ),
            _ => Codes::Nested(
                all.next()
                    .map(stored)
                    .unwrap_or_else(|| unreachable!("the nested grids have codes of 8 bits")),
            ),
        };
        Weights { shape, codes }
    }
}

#[cfg(test)]
mod tests;
