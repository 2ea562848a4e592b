use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use slimbit_graph::{Activation, ClassNames, Graph, Point, Stage};
use slimbit_num::{
    ActQuant, AddAffine, AddRequant, Affine, Clip, Interval, Requant, SolveError, Table, WeightGrid,
};

use crate::mmap::FileBytes;
use crate::plan::{PlanCache, least_bytes};
use crate::{EngineError, Weights, format, validate};

/// A network in integers, at every point for which it was exported: the contents of a `.slim` file.
///
/// A model that exists is consistent: every stage of every point has the arithmetic that its kind
/// asks for, with as many channels, and no rescaling can overflow. Share one between threads in an
/// [`Arc`]; each thread runs its own [`Session`](crate::Session).
#[derive(Debug)]
pub struct Model {
    graph: Graph,
    stages: Vec<Stage>,
    grid: WeightGrid,
    input: InputCodes,
    weights: BTreeMap<String, Weights>,
    points: Vec<PointModel>,
    metadata: BTreeMap<String, String>,
    plans: PlanCache,
    digest: OnceLock<String>,
    memory_limit: Option<usize>,
}

/// How pixels become codes: the real value of pixel `p` in channel `c` is
/// `(p / 255 - mean[c]) / std[c]`.
#[derive(Clone, Debug, PartialEq)]
pub struct InputCodes {
    /// The code of each pixel value, one table per channel.
    pub tables: Vec<Table>,
    /// What the codes mean; 8 bits.
    pub quant: ActQuant,
    /// Mean of each channel, as a fraction of white.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, as a fraction of white.
    pub std: Vec<f32>,
}

/// Everything that one point has of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct PointModel {
    /// The point.
    pub point: Point,
    /// One entry per stage of the graph, in the same order.
    pub stages: Vec<StageModel>,
}

/// One stage at one point.
#[derive(Clone, Debug, PartialEq)]
pub struct StageModel {
    /// What the output integers mean.
    pub output: OutputQuant,
    /// How they are computed.
    pub arithmetic: Arithmetic,
}

/// What a stage's integers mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutputQuant {
    /// Unsigned codes in a byte.
    Codes(ActQuant),
    /// Signed 32-bit integers: `x ≈ scale · (q − zero_point)`.
    Wide {
        /// The real value of one unit.
        scale: f32,
        /// The integer of zero.
        zero_point: i32,
    },
}

impl OutputQuant {
    /// The real value of one unit.
    pub fn scale(self) -> f32 {
        match self {
            Self::Codes(quant) => quant.scale,
            Self::Wide { scale, .. } => scale,
        }
    }

    /// The integer of zero.
    pub fn zero_point(self) -> i32 {
        match self {
            Self::Codes(quant) => quant.zero_point.into(),
            Self::Wide { zero_point, .. } => zero_point,
        }
    }

    /// Every integer that a rescaling may give.
    pub fn range(self) -> Clip {
        match self {
            Self::Codes(quant) => quant.clip(),
            Self::Wide { .. } => Clip::signed(16),
        }
    }

    /// The range, narrowed to what the activation lets through where it is a clamp.
    pub fn clip(self, activation: Option<Activation>) -> Clip {
        match activation.and_then(Activation::clamp_ends) {
            Some([lo, hi]) => self
                .range()
                .between(lo, hi, self.scale(), self.zero_point()),
            None => self.range(),
        }
    }
}

/// The integer arithmetic of a stage. No variant has an operation on floats: those that appear
/// are the real functions that the integers stand for, kept for the proof.
#[derive(Clone, Debug, PartialEq)]
pub enum Arithmetic {
    /// Pixels through [`InputCodes::tables`].
    Input,
    /// Convolution or linear: `clip((m·acc + c) >> k)` per output channel, with
    /// `acc = Σ w·(q − z)` over the operand's codes `q` and zero point `z`.
    Channels {
        /// One rescaling per output channel.
        channels: Vec<ChannelRequant>,
        /// The output range, narrowed by the activation.
        clip: Clip,
    },
    /// Sum of two tensors: `clip((ma·qa + mb·qb + c) >> k)`.
    Add {
        /// The real function.
        truth: AddTruth,
        /// Its integer form.
        requant: AddRequant,
        /// The output range, narrowed by the activation.
        clip: Clip,
    },
    /// Mean over a window: a rescaling of `acc = Σ q`, the raw sum of the window's codes.
    Pool {
        /// The rescaling, the same for all channels.
        requant: ChannelRequant,
        /// The output range.
        clip: Clip,
    },
    /// Codes to codes, one table per operand: concatenation and pointwise functions.
    Tables(Vec<Table>),
    /// The operand's codes as they are (maxima, subsampling, flattening), or, for a pooled output
    /// that leaves the network, their sum `Σ (q − z)`.
    Copy,
}

/// The rescaling of one accumulator: a real affine map, the interval on which it matters, and the
/// integers that equal it there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelRequant {
    /// Slope of the real map from the accumulator to the output code.
    pub a: f32,
    /// The real map at zero, zero point included.
    pub b: f64,
    /// The integer form.
    pub requant: Requant,
    /// Every value that the accumulator can take.
    pub acc: Interval,
}

impl ChannelRequant {
    /// The real map, exactly.
    ///
    /// # Errors
    /// [`SolveError::NotFinite`].
    pub fn truth(&self) -> Result<Affine, SolveError> {
        Affine::from_floats(self.a, self.b)
    }
}

/// The real function `a·qa + b·qb + c` of a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AddTruth {
    /// Slope of the first operand's code.
    pub a: f32,
    /// Slope of the second operand's code.
    pub b: f32,
    /// The constant, all zero points included.
    pub c: f64,
}

impl AddTruth {
    /// The function, exactly.
    ///
    /// # Errors
    /// [`SolveError::NotFinite`].
    pub fn affine(&self) -> Result<AddAffine, SolveError> {
        AddAffine::from_floats(self.a, self.b, self.c)
    }
}

impl Model {
    /// Checks the parts against one another and makes a model.
    ///
    /// `weights` has one entry per convolution or linear stage, by the stage's name; `points` at
    /// least one entry. `metadata` is free text that travels with the file.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] that names the part at fault; [`EngineError::Unsupported`] for a
    /// network that the engine cannot execute.
    pub fn new(
        graph: Graph,
        grid: WeightGrid,
        input: InputCodes,
        weights: BTreeMap<String, Weights>,
        points: Vec<PointModel>,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self, EngineError> {
        let stages = graph.stages()?;
        let model = Self {
            plans: PlanCache::default(),
            digest: OnceLock::new(),
            memory_limit: None,
            graph,
            stages,
            grid,
            input,
            weights,
            points,
            metadata,
        };
        validate::check(&model)?;
        Ok(model)
    }

    /// Maps a file, checks every byte of it, and keeps its weights where they are.
    ///
    /// The file must not be changed in place while the model lives; replacing it by
    /// [`Model::write`], which renames, is safe.
    ///
    /// # Errors
    /// [`EngineError::Io`], [`EngineError::Version`], [`EngineError::Damaged`], or as
    /// [`Model::new`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, EngineError> {
        let path = path.as_ref();
        let bytes = FileBytes::map(path).map_err(|source| EngineError::Io {
            path: path.to_owned(),
            source,
        })?;
        format::read(&Arc::new(bytes))
    }

    /// Reads a model from the bytes of a file.
    ///
    /// # Errors
    /// As [`Model::open`], without [`EngineError::Io`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self, EngineError> {
        format::read(&Arc::new(FileBytes::Owned(bytes.into())))
    }

    /// The bytes of a file that holds this model; equal models give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        format::encode(self)
    }

    /// Writes a file: to a temporary one in the same folder, flushed to the disk, then renamed. So
    /// there is at every moment either the old file or the whole new one.
    ///
    /// # Errors
    /// [`EngineError::Io`]; the old file, if there was one, is then untouched.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), EngineError> {
        format::write(self, path.as_ref())
    }

    /// The network description.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The stages of the graph, in execution order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The weight grid.
    pub fn grid(&self) -> WeightGrid {
        self.grid
    }

    /// How pixels become codes.
    pub fn input(&self) -> &InputCodes {
        &self.input
    }

    /// Weights by stage name.
    pub fn weights(&self) -> &BTreeMap<String, Weights> {
        &self.weights
    }

    /// Every point, in the order of the file.
    pub fn points(&self) -> &[PointModel] {
        &self.points
    }

    /// Free text that travels with the file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The names of the classifier's classes, in the order of the logits; nothing where the file has none.
    ///
    /// # Errors
    /// [`EngineError::Graph`] where the metadata's list cannot be read or is not as long as the logits.
    pub fn classes(&self) -> Result<Option<ClassNames>, EngineError> {
        Ok(ClassNames::of_metadata(&self.metadata, &self.graph)?)
    }

    /// What identifies the network: `blake3:` and the hash of graph, points, weights, integers and
    /// preprocessing, as `docs/format.md` defines it. The author, the licence and other free text are
    /// no part of it. A file says it, and was checked against it when it was read.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| format::digest(self))
    }

    pub(crate) fn keep_digest(&self, digest: String) {
        self.digest.get_or_init(|| digest);
    }

    /// The same model, of which no session and no reference run may take more than this many bytes:
    /// activations, packed weights and outputs together. Without a limit a file of a few hundred
    /// bytes can ask for all the memory that there is.
    #[must_use]
    pub fn with_memory_limit(self, bytes: usize) -> Self {
        Self {
            memory_limit: Some(bytes),
            ..self
        }
    }

    /// Bytes that a session at a point takes at least: activations, outputs, and a byte for each weight.
    /// Nothing of that size is allocated to find out.
    ///
    /// # Errors
    /// [`EngineError::Point`]; [`EngineError::MemoryLimit`] where that is more than allowed;
    /// [`EngineError::Memory`] where it is more than any machine has.
    pub fn session_bytes(&self, point: Point) -> Result<usize, EngineError> {
        least_bytes(self, self.point(point)?)
    }

    /// Whether a point may take this many bytes.
    pub(crate) fn check_memory(&self, point: Point, needed: usize) -> Result<(), EngineError> {
        match self.memory_limit {
            Some(limit) if needed > limit => Err(EngineError::MemoryLimit {
                point: point.to_string(),
                needed,
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// One point.
    ///
    /// # Errors
    /// [`EngineError::Point`] with the points that there are.
    pub fn point(&self, point: Point) -> Result<&PointModel, EngineError> {
        Ok(&self.points[self.point_index(point)?])
    }

    pub(crate) fn point_index(&self, point: Point) -> Result<usize, EngineError> {
        let found = self.points.iter().position(|p| p.point == point);
        found.ok_or_else(|| {
            let held: Vec<String> = self.points.iter().map(|p| p.point.to_string()).collect();
            EngineError::Point {
                wanted: point.to_string(),
                held: held.join(", "),
            }
        })
    }

    pub(crate) fn plans(&self) -> &PlanCache {
        &self.plans
    }
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.graph == other.graph
            && self.grid == other.grid
            && self.input == other.input
            && self.weights == other.weights
            && self.points == other.points
            && self.metadata == other.metadata
    }
}

/// Weight bits of a stage at a point.
pub fn weight_bits(stage: &Stage, point: Point) -> u8 {
    if stage.eight_bit_weights {
        8
    } else {
        point.weight_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu6_ends_at_the_code_of_six() {
        let quant = |scale, zero_point| {
            OutputQuant::Codes(ActQuant {
                scale,
                zero_point,
                bits: 8,
            })
        };
        let relu6 = Some(Activation::Relu6);
        assert_eq!(quant(0.1, 0).clip(relu6), Clip { lo: 0, hi: 60 });
        assert_eq!(quant(0.1, 20).clip(relu6), Clip { lo: 20, hi: 80 });
        assert_eq!(quant(0.01, 0).clip(relu6), Clip { lo: 0, hi: 255 });
        assert_eq!(quant(1e-12, 0).clip(relu6), Clip { lo: 0, hi: 255 });
        assert_eq!(
            quant(0.1, 7).clip(Some(Activation::Relu)),
            Clip { lo: 7, hi: 255 }
        );
    }
}
