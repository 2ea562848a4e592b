//! From one point of a model to a plan.

use std::cmp::Reverse;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use slimbit_graph::{Stage, StageKind};
use slimbit_kernels::{Border, ConvGeometry, Isa, Kernels, Window};
use slimbit_num::{Clip, Requant, SignedSums};

use super::tensor::View;
use super::{Place, Plan, PlannedOutput, StagePlan, Step, Tensor};
use crate::arena::{Lifetime, Placement, place};
use crate::layout::{Convolution, Layout, layouts, shortcut_stride, window};
use crate::validate::kernel_weights;
use crate::{Arithmetic, ChannelRequant, EngineError, Model, OutputQuant, PointModel};

/// Weights that take about as long to pack as a thread takes to start, many times over.
const WEIGHTS_PER_THREAD: usize = 1 << 20;

pub(super) fn plan(model: &Model, point: usize, kernels: &Kernels) -> Result<Plan, EngineError> {
    Builder::new(model, &model.points()[point], kernels)?.finish()
}

/// The least bytes that a session at a point takes, without packing anything.
///
/// # Errors
/// [`EngineError::Memory`] and [`EngineError::MemoryLimit`], or as [`layouts`].
pub(crate) fn least_bytes(model: &Model, made: &PointModel) -> Result<usize, EngineError> {
    let kernels = Kernels::of(Isa::Scalar).map_err(EngineError::Isa)?;
    let (_, needed) = Builder::new(model, made, kernels)?.least()?;
    Ok(needed)
}

struct Builder<'a> {
    model: &'a Model,
    made: &'a PointModel,
    kernels: &'a Kernels,
    layouts: Vec<Layout>,
    places: Vec<Place>,
    tensors: Vec<Tensor>,
    lifetimes: Vec<Lifetime>,
    wide_len: usize,
}

impl<'a> Builder<'a> {
    /// With every tensor's size, but nothing packed.
    fn new(
        model: &'a Model,
        made: &'a PointModel,
        kernels: &'a Kernels,
    ) -> Result<Self, EngineError> {
        let layouts = layouts(model.graph(), model.stages(), made.point.width)?;
        let mut builder = Self {
            model,
            made,
            kernels,
            layouts,
            places: Vec::new(),
            tensors: Vec::new(),
            lifetimes: Vec::new(),
            wide_len: 0,
        };
        builder.place_tensors()?;
        Ok(builder)
    }

    fn stages(&self) -> &[Stage] {
        self.model.stages()
    }

    /// Gives every stage a tensor or a range of the wide outputs, and every tensor its offset.
    fn place_tensors(&mut self) -> Result<(), EngineError> {
        let model = self.model;
        for (index, stage) in model.stages().iter().enumerate() {
            let place = match self.made.stages[index].output {
                OutputQuant::Wide { .. } => Place::Wide(self.wide(index)),
                OutputQuant::Codes(_) if stage.kind == StageKind::Flatten => {
                    self.places[stage.inputs[0]].clone()
                }
                OutputQuant::Codes(quant) => {
                    self.tensors.push(Tensor {
                        layout: self.layouts[index],
                        border: [0; 4],
                        zero_point: quant.zero_point,
                        range: 0..0,
                        shared: false,
                    });
                    self.lifetimes.push(Lifetime {
                        bytes: 0,
                        first: index,
                        last: index,
                    });
                    Place::Tensor(self.tensors.len() - 1)
                }
            };
            for &operand in &stage.inputs {
                let tensor = self.tensor_of(operand);
                self.lifetimes[tensor].last = index;
                if let Some(conv) = self.convolution(index) {
                    let border = &mut self.tensors[tensor].border;
                    for (side, padding) in border.iter_mut().zip(conv.padding) {
                        *side = (*side).max(padding);
                    }
                }
            }
            self.places.push(place);
        }
        for (tensor, lifetime) in self.tensors.iter().zip(&mut self.lifetimes) {
            let bytes = Tensor::bytes(tensor.layout, tensor.border);
            lifetime.bytes = bytes.ok_or(EngineError::Memory { bytes: usize::MAX })?;
        }
        Ok(())
    }

    fn tensor_of(&self, stage: usize) -> usize {
        match self.places[stage] {
            Place::Tensor(tensor) => tensor,
            Place::Wide(_) => unreachable!("checked: no stage reads wide integers"),
        }
    }

    /// Takes room for a stage's integers among the wide outputs.
    fn wide(&mut self, stage: usize) -> Range<usize> {
        let start = self.wide_len;
        self.wide_len += self.layouts[stage].elements();
        start..self.wide_len
    }

    fn convolution(&self, index: usize) -> Option<Convolution> {
        let stage = &self.stages()[index];
        let input = self.layouts[*stage.inputs.first()?];
        Convolution::of(self.model.graph(), stage, input, self.layouts[index])
    }

    /// Where the tensors lie, and the least bytes that a session takes: of the weights, which are not packed
    /// yet, those of their codes.
    ///
    /// # Errors
    /// [`EngineError::Memory`]; [`EngineError::MemoryLimit`] where the model allows less.
    fn least(&self) -> Result<(Placement, usize), EngineError> {
        let placement = place(&self.lifetimes).ok_or(EngineError::Memory { bytes: usize::MAX })?;
        let weights = (0..self.layouts.len())
            .filter_map(|index| self.convolution(index))
            .map(|conv| conv.weights.iter().product());
        let outputs = self.model.graph().outputs().iter().filter_map(|(_, node)| {
            let stage = self.stages().iter().position(|stage| stage.node == *node)?;
            Some(size_of::<i32>().saturating_mul(self.layouts[stage].elements()))
        });
        let parts = [placement.bytes].into_iter().chain(weights).chain(outputs);
        let needed = parts.fold(0, usize::saturating_add);
        self.model.check_memory(self.made.point, needed)?;
        Ok((placement, needed))
    }

    fn finish(mut self) -> Result<Plan, EngineError> {
        let (placement, _) = self.least()?;
        for (index, tensor) in self.tensors.iter_mut().enumerate() {
            let start = placement.offsets[index];
            tensor.range = start..start + self.lifetimes[index].bytes;
        }
        for index in 0..self.tensors.len() {
            let own = &self.tensors[index].range;
            let overlaps = |other: &Range<usize>| other.start < own.end && own.start < other.end;
            let others = self.tensors.iter().enumerate().filter(|(i, _)| *i != index);
            let shared = others.into_iter().any(|(_, other)| overlaps(&other.range));
            self.tensors[index].shared = shared;
        }
        let mut stages = Vec::with_capacity(self.stages().len());
        for (index, steps) in self.all_steps()?.into_iter().enumerate() {
            stages.push(StagePlan {
                name: self.stages()[index].name.clone(),
                layout: self.layouts[index],
                place: self.places[index].clone(),
                steps,
            });
        }
        let outputs = self.outputs(&mut stages);
        Ok(Plan {
            point: self.made.point,
            isa: self.kernels.isa(),
            stages,
            tensors: self.tensors,
            lifetimes: self.lifetimes,
            outputs,
            arena_bytes: placement.bytes,
            wide_len: self.wide_len,
            input_len: self.layouts[0].elements(),
        })
    }

    /// Names the outputs, and copies those that are codes out as soon as they are there.
    fn outputs(&mut self, stages: &mut [StagePlan]) -> Vec<PlannedOutput> {
        let mut outputs: Vec<PlannedOutput> = Vec::new();
        let mut exported: Vec<Option<Range<usize>>> = vec![None; stages.len()];
        for (name, node) in self.model.graph().outputs() {
            let stage = self.stages().iter().position(|stage| stage.node == *node);
            let stage = stage.expect("every output ends a stage");
            let range = match (&self.places[stage], &exported[stage]) {
                (Place::Wide(range), _) | (_, Some(range)) => range.clone(),
                (&Place::Tensor(tensor), None) => {
                    let target = self.wide(stage);
                    let source = self.tensors[tensor].view([0; 2]);
                    let target_range = target.clone();
                    stages[stage].steps.push(Step::Export {
                        source,
                        target: target_range,
                    });
                    target
                }
            };
            exported[stage] = Some(range.clone());
            outputs.push(PlannedOutput {
                name: name.clone(),
                layout: self.layouts[stage],
                quant: self.made.stages[stage].output,
                range,
            });
        }
        outputs
    }

    fn source(&self, index: usize, operand: usize) -> View {
        let stage = self.stages()[index].inputs[operand];
        self.tensors[self.tensor_of(stage)].view([0; 2])
    }

    fn target(&self, index: usize) -> View {
        self.tensors[self.tensor_of(index)].view([0; 2])
    }

    /// The steps of every stage. Packing the weights of a large network is what takes the time
    /// between a file and its first result, so all processors share it.
    fn all_steps(&self) -> Result<Vec<Vec<Step>>, EngineError> {
        let size = |stage: &Stage| {
            let weights = self.model.weights().get(&stage.name);
            weights.map_or(0, |weights| weights.shape.iter().product())
        };
        let sizes: Vec<usize> = self.stages().iter().map(size).collect();
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let threads = (sizes.iter().sum::<usize>() / WEIGHTS_PER_THREAD).clamp(1, processors);
        // The largest first, so that no thread is left with one of them at the end.
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&index| Reverse(sizes[index]));
        let next = AtomicUsize::new(0);
        let work = || {
            let turns = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            let mine = turns.map_while(|turn| order.get(turn).copied());
            mine.map(|index| (index, self.steps(index))).collect()
        };
        let mut all: Vec<(usize, Result<Vec<Step>, EngineError>)> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all: Vec<_> = work();
            for other in others {
                all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            all
        });
        all.sort_unstable_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, steps)| steps).collect()
    }

    fn steps(&self, index: usize) -> Result<Vec<Step>, EngineError> {
        let stage = &self.stages()[index];
        let step = match &self.made.stages[index].arithmetic {
            Arithmetic::Input => {
                let tables = &self.model.input().tables;
                let identity = tables.iter().all(slimbit_num::Table::is_identity);
                Step::Input {
                    tables: if identity { Vec::new() } else { tables.clone() },
                    target: self.target(index),
                }
            }
            Arithmetic::Channels { channels, clip } => self.conv(index, channels, *clip)?,
            Arithmetic::Add { requant, clip, .. } => Step::Add {
                requant: *requant,
                clip: *clip,
                sources: [self.source(index, 0), self.source(index, 1)],
                target: self.target(index),
            },
            Arithmetic::Pool { requant, clip } => Step::SumPool {
                window: self.window(index),
                requant: requant.requant,
                clip: *clip,
                source: self.source(index, 0),
                target: self.target(index),
            },
            Arithmetic::Tables(tables) => {
                let mut first = 0;
                let step = |(operand, table): (usize, &slimbit_num::Table)| {
                    let source = self.source(index, operand);
                    let channels = source.extent[2];
                    let target = self.target(index).channels(first, channels);
                    first += channels;
                    Step::Table {
                        table: table.clone(),
                        source,
                        target,
                    }
                };
                return Ok(tables.iter().enumerate().map(step).collect());
            }
            Arithmetic::Copy => match stage.kind {
                StageKind::MaxPool(_) => self.max_pool(index),
                StageKind::GlobalAvgPool => self.global_sum(index),
                StageKind::PadShortcut(_) => {
                    let operand = self.tensor_of(stage.inputs[0]);
                    Step::PadShortcut {
                        stride: shortcut_stride(self.model.graph(), stage),
                        zero_point: self.tensors[operand].zero_point,
                        source: self.source(index, 0),
                        target: self.target(index),
                    }
                }
                _ => return Ok(Vec::new()),
            },
        };
        Ok(vec![step])
    }

    fn window(&self, index: usize) -> Window {
        let stage = &self.stages()[index];
        let pool = window(self.model.graph(), stage, self.layouts[stage.inputs[0]])
            .expect("checked: only pooling stages have windows");
        Window {
            kernel: pool.kernel,
            stride: pool.stride,
        }
    }

    fn max_pool(&self, index: usize) -> Step {
        let stage = &self.stages()[index];
        let input = self.layouts[stage.inputs[0]];
        let pool = window(self.model.graph(), stage, input)
            .expect("checked: only pooling stages have windows");
        let [top, left, ..] = pool.padding;
        Step::MaxPool {
            window: self.window(index),
            border: Border {
                padding: [top, left],
                input: [input.height, input.width],
            },
            source: self.source(index, 0),
            target: self.target(index),
        }
    }

    fn global_sum(&self, index: usize) -> Step {
        let operand = self.tensor_of(self.stages()[index].inputs[0]);
        let source = self.source(index, 0);
        let [rows, columns, _] = source.extent;
        let pixels = i32::try_from(rows * columns).expect("checked: the sum fits 32 bits");
        Step::GlobalSum {
            source,
            offset: pixels * i32::from(self.tensors[operand].zero_point),
            target: self.wide_range(index),
        }
    }

    fn wide_range(&self, index: usize) -> Range<usize> {
        match &self.places[index] {
            Place::Wide(range) => range.clone(),
            Place::Tensor(_) => unreachable!("checked: this stage is wide"),
        }
    }

    fn conv(
        &self,
        index: usize,
        channels: &[ChannelRequant],
        clip: Clip,
    ) -> Result<Step, EngineError> {
        let stage = &self.stages()[index];
        let conv = self
            .convolution(index)
            .expect("checked: only convolutions and linear stages rescale channels");
        let operand = &self.tensors[self.tensor_of(stage.inputs[0])];
        let weights = kernel_weights(self.model, self.made, index, conv.weights)?;
        let at = format!("stage `{}` at {}", stage.name, self.made.point);
        let requants = fold_zero_point(channels, &weights.sums, operand.zero_point)
            .ok_or_else(|| EngineError::invalid(&at, "a folded zero point overflows 64 bits"))?;
        let (input, output) = (operand.layout, self.layouts[index]);
        let [out_channels, rows, columns, _] = conv.weights;
        let mut geometry = ConvGeometry {
            out_rows: output.height,
            out_cols: output.width,
            in_channels: input.channels,
            out_channels,
            kernel: [rows, columns],
            stride: conv.stride,
            dilation: conv.dilation,
            groups: conv.groups,
        };
        let whole = matches!(stage.kind, StageKind::Linear { .. }) && !operand.has_border();
        if whole {
            // Without a border a map is one contiguous vector, in the order of the weights.
            geometry = ConvGeometry::linear(input.elements(), out_channels);
        }
        let packed = self
            .kernels
            .pack_conv(geometry, &weights.codes, &requants, clip)
            .map_err(|error| EngineError::invalid(&at, error.to_string()))?;
        let [top, left, ..] = conv.padding;
        let source = operand.view([top, left]);
        Ok(match self.made.stages[index].output {
            OutputQuant::Codes(_) => Step::Conv {
                packed,
                source,
                target: self.target(index),
            },
            OutputQuant::Wide { .. } => Step::ConvWide {
                packed,
                source,
                target: self.wide_range(index),
            },
        })
    }
}

/// The rescalings of `Σ w·q`, from those of `Σ w·(q − z)`.
fn fold_zero_point(
    channels: &[ChannelRequant],
    sums: &[SignedSums],
    zero_point: u8,
) -> Option<Vec<Requant>> {
    let folded = channels.iter().zip(sums).map(|(channel, sums)| {
        let offset = sums.total() * i64::from(zero_point);
        channel.requant.with_input_offset(offset)
    });
    folded.collect()
}
