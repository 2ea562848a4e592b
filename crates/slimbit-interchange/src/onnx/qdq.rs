use slimbit_engine::{
    Arithmetic, ChannelRequant, EngineError, Layout, Model, OutputQuant, PointModel, layouts,
    weight_bits, weight_shape,
};
use slimbit_graph::{Op, Point, Shape, StageKind};
use slimbit_num::Clip;

use super::writer::{ModelWriter, convolution, int};

/// Operators of this version have everything but 4-bit integers.
const OPSET: i64 = 17;
/// The first version with 4-bit integers.
const OPSET_INT4: i64 = 21;

/// Largest bias, in units of the accumulator, that leaves the accumulator its headroom.
const MAX_BIAS: f64 = (1 << 30) as f64;

/// How a point is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QdqOptions {
    /// Images per run; any number where this is `None`.
    pub batch: Option<usize>,
    /// Store weights of 2 to 4 bits in bytes, for runtimes that do not execute `INT4` tensors.
    pub wide_codes: bool,
}

/// A file, and what in it is not exactly what the engine computes. See [`export_qdq`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QdqExport {
    /// The ONNX file.
    pub bytes: Vec<u8>,
    /// The version of its operators.
    pub opset: i64,
    /// Weights of -128 in channels of negative slope, which became 127: their mirror image 128 is
    /// no code.
    pub clamped_weights: usize,
    /// Channels whose bias is so large against their slope that it does not fit into 32 bits; their
    /// weights were rounded to a coarser scale.
    pub coarsened_channels: usize,
}

/// One point of a model as a standard quantised ONNX file, from normalised images
/// `[N, channels, rows, columns]` to the graph's outputs in float.
///
/// Every tensor that the engine holds as codes passes a `QuantizeLinear` and a `DequantizeLinear`
/// with the same scale and zero point, so that a runtime fuses each stage into one integer kernel.
/// Weights are per-channel and symmetric. Their scale takes in the batch-norm: with the engine's
/// rescaling `a·acc + b` it is `|a|·s_out/s_in`, the codes change sign where `a < 0`, and the bias
/// is `(b − z_out)/|a|` in units of the accumulator. A ReLU is the lower end of the codes; where
/// codes end inside the byte, a `Clip` of codes follows.
///
/// # What differs from the engine
/// Runtimes rescale in float and round half to even where the engine is exact and rounds half up,
/// and the bias is rounded to a whole accumulator unit; so codes can differ by one. Weights change
/// only as [`QdqExport`] counts. Logits are not rounded to 16 bits.
///
/// # Errors
/// [`EngineError::Point`] for a point that the model does not hold.
pub fn export_qdq(
    model: &Model,
    point: Point,
    options: QdqOptions,
) -> Result<QdqExport, EngineError> {
    let graph = model.graph();
    let int4 = !options.wide_codes
        && point.weight_bits <= 4
        && model.stages().iter().any(|stage| {
            model.weights().contains_key(&stage.name) && weight_bits(stage, point) <= 4
        });
    let mut writer = ModelWriter::new(graph.name(), options.batch);
    let values = writer.value_names(graph);
    let mut export = Export {
        model,
        made: model.point(point)?,
        shapes: graph.shapes(point.width)?,
        layouts: layouts(graph, model.stages(), point.width)?,
        values,
        reads: Vec::new(),
        int4,
        writer,
        clamped_weights: 0,
        coarsened_channels: 0,
    };
    for index in 0..model.stages().len() {
        export.stage(index);
    }
    let Export {
        mut writer,
        values,
        shapes,
        clamped_weights,
        coarsened_channels,
        ..
    } = export;
    writer.outputs(graph, &values, &shapes);
    let opset = if int4 { OPSET_INT4 } else { OPSET };
    let mut metadata = model.metadata().clone();
    metadata.insert("point".to_owned(), point.to_string());
    Ok(QdqExport {
        bytes: writer.finish(opset, metadata),
        opset,
        clamped_weights,
        coarsened_channels,
    })
}

struct Export<'a> {
    model: &'a Model,
    made: &'a PointModel,
    /// Parallel to the graph's nodes.
    shapes: Vec<Shape>,
    /// Parallel to the stages.
    layouts: Vec<Layout>,
    /// Names of the nodes' values.
    values: Vec<String>,
    /// What readers of each stage read. An output has a dequantisation of its own, because a
    /// runtime fuses one only with all its readers.
    reads: Vec<String>,
    int4: bool,
    writer: ModelWriter,
    clamped_weights: usize,
    coarsened_channels: usize,
}

impl Export<'_> {
    fn stage(&mut self, index: usize) {
        let (graph, stage) = (self.model.graph(), &self.model.stages()[index]);
        let made = &self.made.stages[index];
        let output = self.values[stage.node.index()].clone();
        let inputs: Vec<String> = stage
            .inputs
            .iter()
            .map(|&i| self.reads[i].clone())
            .collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let OutputQuant::Codes(_) = made.output else {
            // What leaves the network wide is not rounded again.
            self.real(index, &inputs, &output);
            self.reads.push(output);
            return;
        };
        let real = if stage.kind == StageKind::Input {
            self.writer.input(&output, self.shapes[stage.node.index()]);
            output.clone()
        } else {
            let real = self.writer.fresh(&format!("{output}.real"));
            self.real(index, &inputs, &real);
            real
        };
        let mut codes = self.quantise(made.output, &real, &output);
        // What passes codes on has the range of its operand.
        if let Some(clip) = clip_of(&made.arithmetic)
            && clip != Clip::unsigned(8)
        {
            self.clip(&mut codes, clip, &output);
        }
        let read = match graph.is_output(stage.node) {
            true if stage.kind != StageKind::Input => {
                self.dequantise(&codes, &output);
                (!graph.consumers(stage.node).is_empty())
                    .then(|| self.writer.fresh(&format!("{output}.read")))
            }
            _ if stage.kind == StageKind::Input => {
                Some(self.writer.fresh(&format!("{output}.read")))
            }
            _ => Some(output),
        };
        self.reads.push(read.clone().unwrap_or_default());
        if let Some(read) = read {
            self.dequantise(&codes, &read);
        }
    }

    /// The stage on dequantised operands.
    fn real(&mut self, index: usize, inputs: &[&str], output: &str) {
        let (graph, stage) = (self.model.graph(), &self.model.stages()[index]);
        match (&self.made.stages[index].arithmetic, stage.activation) {
            (Arithmetic::Channels { channels, .. }, _) => {
                self.channels(index, channels, inputs[0], output);
            }
            (Arithmetic::Add { .. }, _) => self.writer.node("Add", inputs, output, Vec::new()),
            (_, Some(activation)) if stage.kind == StageKind::Pointwise => {
                self.writer.activation(activation, inputs[0], output);
            }
            // Rounded before it is flattened: what runtimes fuse is the pool alone.
            (Arithmetic::Pool { .. }, _) if stage.kind == StageKind::GlobalAvgPool => {
                let quant = self.made.stages[index].output;
                let mean = self.writer.fresh(&format!("{output}.mean"));
                let map = self.writer.fresh(&format!("{output}.map"));
                self.writer
                    .node("GlobalAveragePool", inputs, &mean, Vec::new());
                let codes = self.quantise(quant, &mean, &map);
                self.dequantise(&codes, &map);
                self.writer
                    .node("Flatten", &[&map], output, vec![int("axis", 1)]);
            }
            _ => {
                let node = stage.node.index();
                self.writer.plain(graph, node, &self.shapes, inputs, output);
            }
        }
    }

    /// A convolution or linear stage, up to its range.
    fn channels(&mut self, index: usize, rows: &[ChannelRequant], input: &str, output: &str) {
        let (model, stage) = (self.model, &self.model.stages()[index]);
        let (graph, operand) = (model.graph(), stage.inputs[0]);
        let from = self.layouts[operand];
        let Some(shape) = weight_shape(graph, stage, from, self.layouts[index]) else {
            unreachable!("`{}` rescales channels, so it has weights", stage.name);
        };
        let bits = weight_bits(stage, self.made.point);
        let weights = &model.weights()[&stage.name];
        let codes = weights.at(model.grid(), bits, shape);
        let [outputs, height, width, per_group] = shape;
        let taps = height * width;
        let int4 = self.int4 && bits <= 4;
        let mut folded = Folded::within(if int4 { 7 } else { i8::MAX });
        let scales = [operand, index].map(|i| f64::from(self.made.stages[i].output.scale()));
        let zero = f64::from(self.made.stages[index].output.zero_point());
        for (row, codes) in rows.iter().zip(codes.chunks_exact(taps * per_group)) {
            // ONNX keeps input channels outside the taps.
            let ordered = (0..per_group).flat_map(|i| (0..taps).map(move |t| t * per_group + i));
            folded.push(row, scales, zero, ordered.map(|at| codes[at]));
        }
        self.clamped_weights += folded.clamped;
        self.coarsened_channels += folded.coarsened;
        let node = match stage.kind {
            StageKind::Conv { conv: id, .. } | StageKind::Linear { linear: id, .. } => {
                graph.node(id)
            }
            _ => unreachable!("`{}` rescales channels", stage.name),
        };
        let dims = match node.op {
            Op::Conv2d(_) => vec![outputs, per_group, height, width],
            _ => vec![outputs, per_group * taps],
        };
        let writer = &mut self.writer;
        let name = &node.name;
        let weight_codes = if int4 {
            writer.int4(&format!("{name}.weight.codes"), &dims, &folded.codes)
        } else {
            writer.int8(&format!("{name}.weight.codes"), &dims, &folded.codes)
        };
        let scale = writer.floats(&format!("{name}.weight.scale"), &[outputs], &folded.scales);
        let weight = writer.fresh(&format!("{name}.weight"));
        let axis = || vec![int("axis", 0)];
        // All zeros, and the default; but ONNX Runtime does not fuse a Gemm without them.
        let zero = &format!("{name}.weight.zero_point");
        let zeros = vec![0; outputs];
        let zero = if int4 {
            writer.int4(zero, &[outputs], &zeros)
        } else {
            writer.int8(zero, &[outputs], &zeros)
        };
        let inputs = [weight_codes.as_str(), &scale, &zero];
        writer.node("DequantizeLinear", &inputs, &weight, axis());
        let bias_codes = writer.ints(&format!("{name}.bias.codes"), &folded.biases);
        let units: Vec<f32> = folded
            .scales
            .iter()
            .map(|&s| s * scales[0] as f32)
            .collect();
        let unit = writer.floats(&format!("{name}.bias.scale"), &[outputs], &units);
        let bias = writer.fresh(&format!("{name}.bias"));
        let zero = writer.ints(&format!("{name}.bias.zero_point"), &vec![0; outputs]);
        let inputs = [bias_codes.as_str(), &unit, &zero];
        writer.node("DequantizeLinear", &inputs, &bias, axis());
        match &node.op {
            Op::Conv2d(conv) => {
                let groups = conv.group_count(from.channels);
                let attributes = convolution(conv, groups);
                writer.node("Conv", &[input, &weight, &bias], output, attributes);
            }
            _ => {
                let flat = match self.shapes[node.inputs[0].index()] {
                    Shape::Map { .. } => {
                        let flat = writer.fresh(&format!("{name}.flat"));
                        writer.node("Flatten", &[input], &flat, vec![int("axis", 1)]);
                        flat
                    }
                    Shape::Vector { .. } => input.to_owned(),
                };
                let attributes = vec![int("transB", 1)];
                writer.node("Gemm", &[&flat, &weight, &bias], output, attributes);
            }
        }
    }

    /// From real values to codes.
    fn quantise(&mut self, quant: OutputQuant, real: &str, name: &str) -> Codes {
        let writer = &mut self.writer;
        let scale = writer.floats(&format!("{name}.scale"), &[], &[quant.scale()]);
        let zero = writer.byte(&format!("{name}.zero_point"), quant.zero_point() as u8);
        let codes = writer.fresh(&format!("{name}.codes"));
        writer.node("QuantizeLinear", &[real, &scale, &zero], &codes, Vec::new());
        Codes { codes, scale, zero }
    }

    /// Ends codes inside the byte. A runtime's kernels end them at the byte's own ends only; a clip
    /// of codes leaves those kernels whole, where one of real values would not.
    fn clip(&mut self, codes: &mut Codes, clip: Clip, name: &str) {
        let writer = &mut self.writer;
        let bound = |end: i32| end.clamp(0, 255) as u8;
        let lo = writer.byte(&format!("{name}.lowest"), bound(clip.lo));
        let hi = writer.byte(&format!("{name}.highest"), bound(clip.hi));
        let clipped = writer.fresh(&format!("{name}.clipped"));
        writer.node("Clip", &[&codes.codes, &lo, &hi], &clipped, Vec::new());
        codes.codes = clipped;
    }

    /// From codes to real values.
    fn dequantise(&mut self, Codes { codes, scale, zero }: &Codes, output: &str) {
        let inputs = [codes.as_str(), scale, zero];
        self.writer
            .node("DequantizeLinear", &inputs, output, Vec::new());
    }
}

/// Names of a quantised tensor and of what its codes mean.
struct Codes {
    codes: String,
    scale: String,
    zero: String,
}

/// The codes that a stage can give, where it makes its own.
fn clip_of(arithmetic: &Arithmetic) -> Option<Clip> {
    match arithmetic {
        Arithmetic::Channels { clip, .. }
        | Arithmetic::Add { clip, .. }
        | Arithmetic::Pool { clip, .. } => Some(*clip),
        Arithmetic::Tables(tables) => {
            let codes = || tables.iter().flat_map(|table| table.0);
            let lo = codes().min().unwrap_or(0).into();
            let hi = codes().max().unwrap_or(0).into();
            Some(Clip { lo, hi })
        }
        Arithmetic::Input | Arithmetic::Copy => None,
    }
}

/// The weights of one stage with its batch-norm in their scales.
struct Folded {
    /// Largest code that the file's integers hold.
    highest: i8,
    codes: Vec<i8>,
    scales: Vec<f32>,
    biases: Vec<i32>,
    clamped: usize,
    coarsened: usize,
}

impl Folded {
    fn within(highest: i8) -> Self {
        Self {
            highest,
            codes: Vec::new(),
            scales: Vec::new(),
            biases: Vec::new(),
            clamped: 0,
            coarsened: 0,
        }
    }

    /// Adds a channel whose codes are rescaled by `row` from scale
    /// `scales[0]` to scale `scales[1]` and zero point `zero`.
    fn push(
        &mut self,
        row: &ChannelRequant,
        [from, to]: [f64; 2],
        zero: f64,
        codes: impl Iterator<Item = i8>,
    ) {
        let slope = f64::from(row.a).abs();
        let offset = row.b - zero;
        // Where the bias does not fit into 32 bits, a unit of the accumulator has to be worth more.
        let unit = slope
            .max(offset.abs() / MAX_BIAS)
            .max(f64::from(f32::MIN_POSITIVE) * from / to);
        let shrink = slope / unit;
        if unit > slope {
            self.coarsened += 1;
        }
        let sign = if row.a < 0.0 { -1.0 } else { 1.0 };
        let highest = f64::from(self.highest);
        for code in codes {
            let wanted = (sign * shrink * f64::from(code)).round_ties_even();
            self.clamped += usize::from(wanted > highest);
            self.codes.push(wanted.min(highest) as i8);
        }
        self.scales.push((unit * to / from) as f32);
        self.biases.push((offset / unit).round_ties_even() as i32);
    }
}
