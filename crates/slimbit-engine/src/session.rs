use std::sync::Arc;
use std::time::Instant;

use slimbit_graph::Point;
use slimbit_kernels::{Isa, Kernels, Team, Threaded};

use crate::arena::Arena;
use crate::batch::{Batch, Split};
use crate::plan::{Memory, Place, Plan, StagePlan, Tensor};
use crate::trace::trace_bytes;
use crate::{EngineError, Model, Outputs, StageTrace, Trace};

/// A model at one point, with memory and threads of its own: what images are run on.
///
/// All memory is taken when the session is made or moves to a point for the first time.
/// [`Session::run`] allocates nothing, and nothing but an image of the wrong size makes it fail.
/// The bytes that come out are the same for every instruction set and number of threads.
pub struct Session {
    model: Arc<Model>,
    kernels: &'static Kernels,
    team: Team,
    /// The plans that this session has used, by the index of their point.
    plans: Vec<Option<Arc<Plan>>>,
    plan: Arc<Plan>,
    /// The index of the plan's point.
    index: usize,
    /// One to run images in turn, more to run several of a batch at once.
    slots: Vec<Slot>,
}

impl Session {
    /// A session on one thread, on the best instruction set, or on the one that `SLIMBIT_ISA`
    /// names.
    ///
    /// # Errors
    /// [`EngineError::Point`], [`EngineError::Isa`], [`EngineError::Memory`],
    /// [`EngineError::MemoryLimit`], or [`EngineError::Invalid`] for weights that could overflow the intervals stored with them.
    pub fn new(model: Arc<Model>, point: Point) -> Result<Self, EngineError> {
        let kernels = Kernels::best().map_err(EngineError::Isa)?;
        Self::with_kernels(model, point, kernels)
    }

    /// As [`Session::new`], on several threads: see [`Session::set_threads`].
    ///
    /// # Errors
    /// As [`Session::new`], and [`EngineError::Threads`].
    pub fn with_threads(
        model: Arc<Model>,
        point: Point,
        threads: usize,
    ) -> Result<Self, EngineError> {
        let mut session = Self::new(model, point)?;
        session.set_threads(threads)?;
        Ok(session)
    }

    /// A session on one thread and a given instruction set.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_isa(model: Arc<Model>, point: Point, isa: Isa) -> Result<Self, EngineError> {
        let kernels = Kernels::of(isa).map_err(EngineError::Isa)?;
        Self::with_kernels(model, point, kernels)
    }

    fn with_kernels(
        model: Arc<Model>,
        point: Point,
        kernels: &'static Kernels,
    ) -> Result<Self, EngineError> {
        let index = model.point_index(point)?;
        let plan = model.plans().get(&model, index, kernels)?;
        let mut plans = vec![None; model.points().len()];
        plans[index] = Some(plan.clone());
        model.check_memory(point, plan.session_bytes())?;
        let mut slot = Slot::default();
        slot.prepare(index, &plan)?;
        Ok(Self {
            model,
            kernels,
            team: Team::solo(),
            plans,
            plan,
            index,
            slots: vec![slot],
        })
    }

    /// Shares every operator between this many threads from now on: the calling one, and others
    /// that spin for a few microseconds between operators, sleep between images and end with the
    /// session. More threads than processors make it slower.
    ///
    /// # Errors
    /// [`EngineError::Threads`]; the session then keeps the threads that it had.
    pub fn set_threads(&mut self, threads: usize) -> Result<(), EngineError> {
        let threads = threads.max(1);
        if threads != self.team.threads() {
            self.team =
                Team::new(threads).map_err(|source| EngineError::Threads { threads, source })?;
            self.slots.truncate(threads);
        }
        Ok(())
    }

    /// Moves to another point of the model. The second visit to a point packs nothing.
    ///
    /// # Errors
    /// As [`Session::new`]; the session then stays where it was.
    pub fn set_point(&mut self, point: Point) -> Result<(), EngineError> {
        let index = self.model.point_index(point)?;
        let plan = match &self.plans[index] {
            Some(plan) => plan.clone(),
            None => {
                let plan = self.model.plans().get(&self.model, index, self.kernels)?;
                let held = self.plans.iter().flatten();
                let held = held.fold(0, |sum, plan| plan.packed_bytes().saturating_add(sum));
                let needed = plan.session_bytes().saturating_add(held);
                self.model.check_memory(point, needed)?;
                plan
            }
        };
        self.slots[0].prepare(index, &plan)?;
        self.plans[index] = Some(plan.clone());
        (self.index, self.plan) = (index, plan);
        Ok(())
    }

    /// The point.
    pub fn point(&self) -> Point {
        self.plan.point()
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What the session executes, and what that takes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Threads that share the work, the calling one included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Bytes held for activations: as much as the largest point so far needs, once for every image
    /// that is run at the same time.
    pub fn arena_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.arena.len()).sum()
    }

    /// Runs one image: `rows · columns · channels` pixels in HWC order.
    ///
    /// # Errors
    /// [`EngineError::InputLength`], and nothing else.
    pub fn run(&mut self, pixels: &[u8]) -> Result<Outputs<'_>, EngineError> {
        self.execute(pixels, |_, _, _| {})?;
        Ok(Outputs {
            outputs: &self.plan.outputs,
            wide: &self.slots[0].wide[..self.plan.wide_len],
        })
    }

    /// Runs several images, one after the other in `pixels`.
    ///
    /// With several threads every thread runs images of its own, in an arena of its own: nothing
    /// waits at the end of each operator. What does not divide by the threads runs as
    /// [`Session::run`] does. The first batch of a size allocates; later ones do not.
    ///
    /// # Errors
    /// [`EngineError::InputLength`] for anything but a whole number of images, at least one;
    /// [`EngineError::Memory`]; [`EngineError::MemoryLimit`].
    pub fn run_batch(&mut self, pixels: &[u8]) -> Result<Batch<'_>, EngineError> {
        let plan = &*self.plan;
        let images = pixels.len() / plan.input_len;
        if images == 0 || !pixels.len().is_multiple_of(plan.input_len) {
            return Err(EngineError::InputLength {
                wanted: plan.input_len,
                found: pixels.len(),
            });
        }
        let split = Split::of(images, self.team.threads());
        if split.slots > self.slots.len() || !self.slots[0].holds(split.most_per_slot(), plan) {
            let each = plan.arena_bytes.saturating_mul(split.slots);
            let outputs = size_of::<i32>().saturating_mul(plan.wide_len);
            let needed = each
                .saturating_add(outputs.saturating_mul(split.slots * split.most_per_slot()))
                .saturating_add(plan.packed_bytes());
            self.model.check_memory(plan.point, needed)?;
        }
        if self.slots.len() < split.slots {
            self.slots.resize_with(split.slots, Slot::default);
        }
        for slot in &mut self.slots[..split.slots] {
            slot.prepare(self.index, plan)?;
            slot.hold(split.most_per_slot(), plan)?;
        }
        let image = |index: usize| &pixels[index * plan.input_len..][..plan.input_len];
        if split.each > 0 {
            let slots = &mut self.slots[..split.slots];
            let kernels = self.kernels;
            self.team.each(slots, |index, slot| {
                let mut team = Team::solo();
                let mut kernels = kernels.on(&mut team);
                for turn in 0..split.each {
                    let pixels = image(index * split.each + turn);
                    slot.execute(plan, &mut kernels, turn, pixels, |_, _, _| {});
                }
            });
        }
        let mut kernels = self.kernels.on(&mut self.team);
        for index in split.whole()..images {
            let (slot, turn) = split.place(index);
            self.slots[slot].execute(plan, &mut kernels, turn, image(index), |_, _, _| {});
        }
        Ok(Batch {
            slots: &self.slots,
            plan,
            split,
            images,
        })
    }

    /// Runs one image and keeps every stage's integers.
    ///
    /// # Errors
    /// As [`Session::run`], and [`EngineError::MemoryLimit`].
    pub fn trace(&mut self, pixels: &[u8]) -> Result<Trace, EngineError> {
        let plan = self.plan.clone();
        let kept = trace_bytes(plan.stages.iter().map(|stage| stage.layout));
        let needed = plan.session_bytes().saturating_add(kept);
        self.model.check_memory(plan.point, needed)?;
        let mut trace = Trace::default();
        self.execute(pixels, |stage, arena, wide| {
            let codes = match &stage.place {
                Place::Wide(range) => wide[range.clone()].to_vec(),
                Place::Tensor(index) => {
                    let tensor = &plan.tensors[*index];
                    let bytes = &arena[tensor.range.clone()];
                    let codes = tensor.view([0; 2]);
                    codes
                        .pixels(bytes)
                        .flatten()
                        .map(|&code| code.into())
                        .collect()
                }
            };
            trace.stages.push(StageTrace {
                name: stage.name.clone(),
                layout: stage.layout,
                codes,
            });
        })?;
        Ok(trace)
    }

    /// Runs one image and gives the nanoseconds of every stage, parallel to the plan's stages.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_profiled(&mut self, pixels: &[u8]) -> Result<Vec<u64>, EngineError> {
        let mut nanoseconds = Vec::with_capacity(self.plan.stages.len());
        let mut last = Instant::now();
        self.execute(pixels, |_, _, _| {
            let now = Instant::now();
            nanoseconds.push((now - last).as_nanos() as u64);
            last = now;
        })?;
        Ok(nanoseconds)
    }

    /// Runs one image in the first slot, on all threads.
    fn execute(
        &mut self,
        pixels: &[u8],
        after: impl FnMut(&StagePlan, &[u8], &[i32]),
    ) -> Result<(), EngineError> {
        let plan = &*self.plan;
        if pixels.len() != plan.input_len {
            return Err(EngineError::InputLength {
                wanted: plan.input_len,
                found: pixels.len(),
            });
        }
        let mut kernels = self.kernels.on(&mut self.team);
        self.slots[0].execute(plan, &mut kernels, 0, pixels, after);
        Ok(())
    }
}

/// The memory of one image at a time, and the outputs of several.
#[derive(Default)]
pub(crate) struct Slot {
    arena: Arena,
    pub(crate) wide: Vec<i32>,
    /// The index of the point whose plan the arena is ready for.
    ready: Option<usize>,
}

impl Slot {
    /// Makes room for a plan, and fills the borders that no other tensor overwrites; `execute`
    /// restores the rest.
    fn prepare(&mut self, index: usize, plan: &Plan) -> Result<(), EngineError> {
        if self.ready == Some(index) {
            return Ok(());
        }
        if self.arena.len() < plan.arena_bytes {
            self.arena = Arena::new(plan.arena_bytes)?;
        }
        self.hold(1, plan)?;
        let unshared = |tensor: &&Tensor| !tensor.shared && tensor.has_border();
        for tensor in plan.tensors.iter().filter(unshared) {
            tensor.fill_border(&mut self.arena.bytes_mut()[tensor.range.clone()]);
        }
        self.ready = Some(index);
        Ok(())
    }

    /// Whether there is room for the outputs of so many images.
    fn holds(&self, images: usize, plan: &Plan) -> bool {
        self.wide.len() >= images * plan.wide_len
    }

    /// Makes room for the outputs of so many images.
    fn hold(&mut self, images: usize, plan: &Plan) -> Result<(), EngineError> {
        if !self.holds(images, plan) {
            let needed = images * plan.wide_len;
            let more = needed - self.wide.len();
            self.wide
                .try_reserve(more)
                .map_err(|_| EngineError::Memory {
                    bytes: needed.saturating_mul(size_of::<i32>()),
                })?;
            self.wide.resize(needed, 0);
        }
        Ok(())
    }

    /// Runs all stages in order and calls `after` behind each; the outputs are the `turn`-th.
    fn execute(
        &mut self,
        plan: &Plan,
        kernels: &mut Threaded<'_>,
        turn: usize,
        pixels: &[u8],
        mut after: impl FnMut(&StagePlan, &[u8], &[i32]),
    ) {
        let mut memory = Memory {
            pixels,
            arena: self.arena.bytes_mut(),
            wide: &mut self.wide[turn * plan.wide_len..][..plan.wide_len],
        };
        for stage in &plan.stages {
            if let (Place::Tensor(index), false) = (&stage.place, stage.steps.is_empty()) {
                let tensor = &plan.tensors[*index];
                if tensor.shared && tensor.has_border() {
                    tensor.fill_border(&mut memory.arena[tensor.range.clone()]);
                }
            }
            for step in &stage.steps {
                step.run(kernels, &mut memory);
            }
            after(stage, memory.arena, memory.wide);
        }
    }
}
