//! What a session executes: packed weights, tensors at fixed offsets, and calls in order.

mod build;
mod step;
mod tensor;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use slimbit_graph::Point;
use slimbit_kernels::{Isa, Kernels};

pub(crate) use build::least_bytes;
pub(crate) use step::{Memory, Step};
pub(crate) use tensor::Tensor;

use crate::{EngineError, Layout, Lifetime, Model, OutputQuant, largest_live_set};

/// One point of a model, made ready for one instruction set. Immutable; sessions share it.
#[derive(Debug)]
pub struct Plan {
    pub(crate) point: Point,
    pub(crate) isa: Isa,
    pub(crate) stages: Vec<StagePlan>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) lifetimes: Vec<Lifetime>,
    pub(crate) outputs: Vec<PlannedOutput>,
    pub(crate) arena_bytes: usize,
    pub(crate) wide_len: usize,
    pub(crate) input_len: usize,
}

/// One stage of a plan.
#[derive(Debug)]
pub struct StagePlan {
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) place: Place,
    pub(crate) steps: Vec<Step>,
}

/// Where a stage's integers lie after it has run.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In the tensor with this index, which a flattened stage shares with its operand.
    Tensor(usize),
    /// Among the wide outputs.
    Wide(Range<usize>),
}

/// A tensor that leaves the network.
#[derive(Clone, Debug)]
pub(crate) struct PlannedOutput {
    pub(crate) name: String,
    pub(crate) layout: Layout,
    pub(crate) quant: OutputQuant,
    /// Among the wide outputs.
    pub(crate) range: Range<usize>,
}

impl Plan {
    /// The point.
    pub fn point(&self) -> Point {
        self.point
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Stages in execution order.
    pub fn stages(&self) -> &[StagePlan] {
        &self.stages
    }

    /// Bytes that a session needs for activations.
    pub fn arena_bytes(&self) -> usize {
        self.arena_bytes
    }

    /// Bytes of the tensors that are alive at the busiest stage, their codes alone: what
    /// [`arena_bytes`](Plan::arena_bytes) has to be compared with, which adds borders for the
    /// padding, slack for whole vectors, and gaps.
    pub fn live_bytes(&self) -> usize {
        let tensors = self.tensors.iter().zip(&self.lifetimes);
        let codes = tensors.map(|(tensor, lifetime)| Lifetime {
            bytes: tensor.layout.elements(),
            ..*lifetime
        });
        largest_live_set(&codes.collect::<Vec<_>>())
    }

    /// Bytes of packed weights, rescaling constants and tables, which sessions share.
    pub fn packed_bytes(&self) -> usize {
        self.stages.iter().map(StagePlan::packed_bytes).sum()
    }

    /// Bytes of one session that runs one image at a time: activations, outputs, and the packed weights
    /// that it may share.
    pub fn session_bytes(&self) -> usize {
        let outputs = self.wide_len.saturating_mul(size_of::<i32>());
        self.arena_bytes
            .saturating_add(outputs)
            .saturating_add(self.packed_bytes())
    }

    /// Multiply-accumulates of one image.
    pub fn macs(&self) -> u64 {
        self.stages.iter().map(StagePlan::macs).sum()
    }

    /// Size and lifetime of every tensor in the arena, border included; steps are stages.
    pub fn lifetimes(&self) -> &[Lifetime] {
        &self.lifetimes
    }
}

impl StagePlan {
    /// The stage's name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows, columns and channels of its output.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The kernel that does the work; `alias` where there is none to do.
    pub fn kernel(&self) -> &'static str {
        self.steps.first().map_or("alias", Step::kernel)
    }

    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        self.steps.iter().map(Step::macs).sum()
    }

    /// Bytes of packed weights, rescaling constants and tables.
    pub fn packed_bytes(&self) -> usize {
        self.steps.iter().map(Step::packed_bytes).sum()
    }
}

/// The plans of a model that some session still uses, by point and instruction set.
#[derive(Default)]
pub(crate) struct PlanCache(Mutex<BTreeMap<(usize, Isa), Slot>>);

/// Locked while its plan is made, so that only those who want the same plan wait for it.
type Slot = Arc<Mutex<Weak<Plan>>>;

impl PlanCache {
    /// The plan of the point with this index; made at most once at a time for all sessions.
    pub(crate) fn get(
        &self,
        model: &Model,
        point: usize,
        kernels: &Kernels,
    ) -> Result<Arc<Plan>, EngineError> {
        let slot = lock(&self.0)
            .entry((point, kernels.isa()))
            .or_default()
            .clone();
        let mut held = lock(&slot);
        if let Some(plan) = held.upgrade() {
            return Ok(plan);
        }
        let plan = Arc::new(build::plan(model, point, kernels)?);
        *held = Arc::downgrade(&plan);
        Ok(plan)
    }
}

/// What a panic leaves behind under these locks is whole: an entry or a plan is there, or not.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for PlanCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlanCache")
    }
}
