use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use slimbit_graph::{Graph, Point, Stage, Width};
use slimbit_num::WeightGrid;

use super::columns::{Columns, InputColumns, Kind, Number, PointColumns, forms};
use super::digest::Digest;
use super::{DIGEST, FORMAT, VERSION, checksum, checksum_digits, is_reserved, nibbles, unique};
use crate::layout::{layouts, weight_shape};
use crate::mmap::FileBytes;
use crate::model::weight_bits;
use crate::{ChannelCodes, CodeArray, Codes, EngineError, Model, Weights};

/// Reads and checks a file. Allocates in proportion to the file, whatever the file claims.
pub(crate) fn read(file: &Arc<FileBytes>) -> Result<Model, EngineError> {
    let bytes: &[u8] = file;
    let damaged = |what: String| EngineError::damaged("header", what);
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
    let empty = HashMap::new();
    let text = metadata.metadata().as_ref().unwrap_or(&empty);
    check_identity(bytes, header, text)?;
    unique::check(&bytes[8..8 + header]).map_err(|e| damaged(e.to_string()))?;

    let tensors = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
    let digest = text.get(DIGEST).map(|_| digest(text, &tensors));
    let graph = Graph::from_json(required(text, "graph")?)?;
    let stages = graph.stages()?;
    let names: Vec<String> = list(text, "stages")?;
    if !names.iter().eq(stages.iter().map(|stage| &stage.name)) {
        return Err(damaged("`stages` are not those of the graph".to_owned()));
    }
    let grid = required(text, "grid")?;
    let grid: WeightGrid = grid
        .parse()
        .map_err(|_| damaged(format!("grid `{grid}`")))?;
    let points: Vec<String> = list(text, "points")?;
    let points: Vec<Point> = points
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;

    let mut source = Source {
        file,
        tensors,
        taken: BTreeSet::new(),
        prefix: "input/".to_owned(),
    };
    let mut input = InputColumns::default();
    input.visit(graph.input_shape().channels(), &mut source)?;
    let weights = source.weights(&graph, &stages, grid, &points)?;
    let mut models = Vec::new();
    for (index, &point) in points.iter().enumerate() {
        source.prefix = format!("points/{index}/");
        let layouts = layouts(&graph, &stages, point.width)?;
        let forms = forms(&stages, &layouts);
        let mut columns = PointColumns::default();
        columns.visit(&forms, &mut source)?;
        let model = columns.point(point, &forms).map_err(|(stage, what)| {
            EngineError::damaged(format!("stage `{}` at {point}", stages[stage].name), what)
        })?;
        models.push(model);
    }
    source.finish()?;

    let free = text.iter().filter(|(key, _)| !is_reserved(key));
    let free: BTreeMap<_, _> = free
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let model = Model::new(graph, grid, input.input(), weights, models, free)?;
    if let (Some(stored), Some(found)) = (text.get(DIGEST), digest) {
        if *stored != found {
            let what = format!("stored {stored:.80?}, but the contents give {found}");
            return Err(EngineError::damaged("digest", what));
        }
        model.keep_digest(found);
    }
    Ok(model)
}

/// The digest of what was read.
fn digest(text: &HashMap<String, String>, tensors: &SafeTensors) -> String {
    let mut digest = Digest::of_metadata(|key| text.get(key).map(String::as_str));
    let mut views = tensors.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, view) in &views {
        digest.tensor(
            name,
            &format!("{:?}", view.dtype()),
            view.shape(),
            view.data(),
        );
    }
    digest.finish()
}

/// Format, version, checksum: before anything else is believed.
fn check_identity(
    bytes: &[u8],
    header: usize,
    text: &HashMap<String, String>,
) -> Result<(), EngineError> {
    let format = required(text, "format")?;
    if format != FORMAT {
        let what = format!("format `{format}`, wanted `{FORMAT}`");
        return Err(EngineError::damaged("header", what));
    }
    let version = required(text, "format_version")?;
    if version != VERSION {
        return Err(EngineError::Version {
            found: version.to_owned(),
        });
    }
    let stored = required(text, "checksum")?;
    let digits = checksum_digits(bytes, header)
        .ok_or_else(|| EngineError::damaged("header", "`checksum` is not eight digits"))?;
    let found = checksum(bytes, &digits);
    if found != stored {
        let what = format!("stored {stored}, but the bytes give {found}");
        return Err(EngineError::damaged("checksum", what));
    }
    Ok(())
}

fn required<'a>(text: &'a HashMap<String, String>, key: &str) -> Result<&'a str, EngineError> {
    let value = text.get(key).map(String::as_str);
    value.ok_or_else(|| EngineError::damaged("header", format!("no `{key}` in `__metadata__`")))
}

fn list(text: &HashMap<String, String>, key: &str) -> Result<Vec<String>, EngineError> {
    serde_json::from_str(required(text, key)?)
        .map_err(|e| EngineError::damaged("header", format!("`{key}`: {e}")))
}

/// The tensors of a file, each of which is taken exactly once.
struct Source<'a> {
    file: &'a Arc<FileBytes>,
    tensors: SafeTensors<'a>,
    taken: BTreeSet<String>,
    prefix: String,
}

impl Source<'_> {
    /// Where the bytes of a tensor lie, which must have exactly this type and shape.
    fn range(
        &mut self,
        name: String,
        kind: Kind,
        shape: &[usize],
    ) -> Result<Range<usize>, EngineError> {
        let at = |what: String| EngineError::damaged(format!("tensor `{name}`"), what);
        let view = self
            .tensors
            .tensor(&name)
            .map_err(|_| at("is missing".to_owned()))?;
        let dtype = match kind {
            Kind::U8 => Dtype::U8,
            Kind::I8 => Dtype::I8,
            Kind::I32 => Dtype::I32,
            Kind::I64 => Dtype::I64,
            Kind::F32 => Dtype::F32,
            Kind::F64 => Dtype::F64,
        };
        if view.dtype() != dtype || view.shape() != shape {
            let found = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(at(format!("is {found}, wanted {dtype:?} {shape:?}")));
        }
        let file: &[u8] = self.file;
        let start = view.data().as_ptr().addr() - file.as_ptr().addr();
        let range = start..start + view.data().len();
        self.taken.insert(name);
        Ok(range)
    }

    fn codes(
        &mut self,
        suffix: &str,
        stage: &str,
        bits: u8,
        shape: [usize; 4],
    ) -> Result<ChannelCodes, EngineError> {
        let mut max_abs = Vec::new();
        let magnitudes = format!("max_abs{suffix}/{stage}");
        self.column(&magnitudes, shape[0], 1, &mut max_abs)?;
        let name = format!("codes{suffix}/{stage}");
        let codes = if nibbles::stored_bits(bits) == 8 {
            let range = self.range(name, Kind::I8, &shape)?;
            CodeArray::of_file(self.file.clone(), range)
        } else {
            let [out, rows, columns, inputs] = shape;
            let per_channel = rows * columns * inputs;
            let stored = [out, nibbles::stored_bytes(per_channel, bits)];
            let range = self.range(name.clone(), Kind::U8, &stored)?;
            let codes = nibbles::unpack(&self.file[range], per_channel, bits);
            let damaged = || {
                let what = "has bits after the last code of a channel";
                EngineError::damaged(format!("tensor `{name}`"), what)
            };
            codes.ok_or_else(damaged)?.into()
        };
        Ok(ChannelCodes { max_abs, codes })
    }

    fn weights(
        &mut self,
        graph: &Graph,
        stages: &[Stage],
        grid: WeightGrid,
        points: &[Point],
    ) -> Result<BTreeMap<String, Weights>, EngineError> {
        self.prefix.clear();
        let full = layouts(graph, stages, Width::FULL)?;
        let mut all = BTreeMap::new();
        for (stage, &output) in stages.iter().zip(&full) {
            let input = stage.inputs.first().map(|&input| full[input]);
            let shape = input.and_then(|input| weight_shape(graph, stage, input, output));
            let Some(shape) = shape else {
                continue;
            };
            let name = &stage.name;
            let codes = if grid == WeightGrid::MinMax {
                let bits: BTreeSet<u8> = points.iter().map(|&p| weight_bits(stage, p)).collect();
                let mut by_bits = BTreeMap::new();
                for bits in bits {
                    by_bits.insert(bits, self.codes(&format!(".w{bits}"), name, bits, shape)?);
                }
                Codes::MinMax(by_bits)
            } else {
                Codes::Nested(self.codes("", name, 8, shape)?)
            };
            all.insert(name.clone(), Weights { shape, codes });
        }
        Ok(all)
    }

    /// Refuses tensors that nothing asked for.
    fn finish(self) -> Result<(), EngineError> {
        let mut names = self.tensors.names();
        names.sort_unstable();
        match names.iter().find(|name| !self.taken.contains(**name)) {
            Some(name) => {
                let what = "is not part of the format";
                Err(EngineError::damaged(format!("tensor `{name}`"), what))
            }
            None => Ok(()),
        }
    }
}

impl Columns for Source<'_> {
    type Error = EngineError;

    fn column<T: Number>(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
        values: &mut Vec<T>,
    ) -> Result<(), EngineError> {
        let shape = [rows, width];
        let shape = if width == 1 { &shape[..1] } else { &shape[..] };
        let range = self.range(format!("{}{name}", self.prefix), T::KIND, shape)?;
        *values = self.file[range]
            .chunks_exact(T::KIND.size())
            .map(T::get)
            .collect();
        Ok(())
    }
}
