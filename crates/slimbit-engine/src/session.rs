use std::sync::Arc;
use std::time::Instant;

use slimbit_graph::Point;
use slimbit_kernels::{Isa, Kernels};

use crate::arena::Arena;
use crate::plan::{Memory, Place, Plan, PlannedOutput, StagePlan};
use crate::{EngineError, Layout, Model, OutputQuant, StageTrace, Trace};

/// A model at one point, with memory of its own: what a thread runs images on.
///
/// All memory is taken when the session is made or moves to a point for the first time.
/// [`Session::run`] allocates nothing, and nothing but an image of the wrong size makes it fail.
pub struct Session {
    model: Arc<Model>,
    kernels: &'static Kernels,
    /// The plans that this session has used, by the index of their point.
    plans: Vec<Option<Arc<Plan>>>,
    plan: Arc<Plan>,
    arena: Arena,
    wide: Vec<i32>,
}

impl Session {
    /// A session on the best instruction set, or on the one that `SLIMBIT_ISA` names.
    ///
    /// # Errors
    /// [`EngineError::Point`], [`EngineError::Isa`], [`EngineError::Memory`], or
    /// [`EngineError::Invalid`] for weights that could overflow the intervals stored with them.
    pub fn new(model: Arc<Model>, point: Point) -> Result<Self, EngineError> {
        let kernels = Kernels::best().map_err(EngineError::Isa)?;
        Self::with_kernels(model, point, kernels)
    }

    /// A session on a given instruction set.
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
        let arena = Arena::new(plan.arena_bytes)?;
        let wide = vec![0; plan.wide_len];
        let mut session = Self {
            model,
            kernels,
            plans,
            plan,
            arena,
            wide,
        };
        session.fill_borders();
        Ok(session)
    }

    /// Moves to another point of the model. The second visit to a point packs nothing.
    ///
    /// # Errors
    /// As [`Session::new`]; the session then stays where it was.
    pub fn set_point(&mut self, point: Point) -> Result<(), EngineError> {
        let index = self.model.point_index(point)?;
        let plan = match &self.plans[index] {
            Some(plan) => plan.clone(),
            None => self.model.plans().get(&self.model, index, self.kernels)?,
        };
        if self.arena.len() < plan.arena_bytes {
            self.arena = Arena::new(plan.arena_bytes)?;
        }
        if self.wide.len() < plan.wide_len {
            self.wide.resize(plan.wide_len, 0);
        }
        self.plans[index] = Some(plan.clone());
        self.plan = plan;
        self.fill_borders();
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

    /// Runs one image: `rows · columns · channels` pixels in HWC order.
    ///
    /// # Errors
    /// [`EngineError::InputLength`], and nothing else.
    pub fn run(&mut self, pixels: &[u8]) -> Result<Outputs<'_>, EngineError> {
        self.execute(pixels, |_, _, _| {})?;
        Ok(Outputs {
            outputs: &self.plan.outputs,
            wide: &self.wide,
        })
    }

    /// Runs one image and keeps every stage's integers.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn trace(&mut self, pixels: &[u8]) -> Result<Trace, EngineError> {
        let plan = self.plan.clone();
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

    /// Runs all stages in order and calls `after` behind each.
    fn execute(
        &mut self,
        pixels: &[u8],
        mut after: impl FnMut(&StagePlan, &[u8], &[i32]),
    ) -> Result<(), EngineError> {
        let plan = &*self.plan;
        if pixels.len() != plan.input_len {
            return Err(EngineError::InputLength {
                wanted: plan.input_len,
                found: pixels.len(),
            });
        }
        let mut memory = Memory {
            pixels,
            arena: self.arena.bytes_mut(),
            wide: &mut self.wide,
        };
        for stage in &plan.stages {
            if let (Place::Tensor(index), false) = (&stage.place, stage.steps.is_empty()) {
                let tensor = &plan.tensors[*index];
                if tensor.shared && tensor.has_border() {
                    tensor.fill_border(&mut memory.arena[tensor.range.clone()]);
                }
            }
            for step in &stage.steps {
                step.run(self.kernels, &mut memory);
            }
            after(stage, memory.arena, memory.wide);
        }
        Ok(())
    }

    /// Fills the borders that no other tensor overwrites; `execute` restores the rest.
    fn fill_borders(&mut self) {
        let plan = self.plan.clone();
        let arena = self.arena.bytes_mut();
        for tensor in plan
            .tensors
            .iter()
            .filter(|tensor| !tensor.shared && tensor.has_border())
        {
            tensor.fill_border(&mut arena[tensor.range.clone()]);
        }
    }
}

/// What one image gave.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    outputs: &'a [PlannedOutput],
    wide: &'a [i32],
}

impl<'a> Outputs<'a> {
    /// The output with this name.
    pub fn get(&self, name: &str) -> Option<WideTensor<'a>> {
        let output = self.outputs.iter().find(|output| output.name == name);
        output.map(|output| self.tensor(output))
    }

    /// Every output with its name, in the order of the graph.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, WideTensor<'a>)> {
        let (outputs, copy) = (self.outputs, *self);
        outputs
            .iter()
            .map(move |output| (output.name.as_str(), copy.tensor(output)))
    }

    fn tensor(&self, output: &PlannedOutput) -> WideTensor<'a> {
        WideTensor {
            codes: &self.wide[output.range.clone()],
            layout: output.layout,
            quant: output.quant,
        }
    }
}

/// Integers with one scale: an output.
#[derive(Clone, Copy, Debug)]
pub struct WideTensor<'a> {
    /// The integers, HWC.
    pub codes: &'a [i32],
    /// Rows, columns, channels.
    pub layout: Layout,
    /// What they mean.
    pub quant: OutputQuant,
}

impl WideTensor<'_> {
    /// The real value of one unit.
    pub fn scale(&self) -> f32 {
        self.quant.scale()
    }

    /// The integer of zero.
    pub fn zero_point(&self) -> i32 {
        self.quant.zero_point()
    }

    /// Real values, for those who go on in floats: `scale · (q − zero_point)`.
    pub fn to_f32(&self) -> Vec<f32> {
        let (scale, zero_point) = (self.scale(), self.zero_point());
        self.codes
            .iter()
            .map(|code| scale * (code - zero_point) as f32)
            .collect()
    }
}
