use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use slimbit_graph::{Array, ClassNames, Graph, GraphError, Op, Params, Width};

use crate::ImportError;

/// Running mean and biased variance of every batch-norm, by node name: what
/// `slimbit_nn::NormMode::Given` takes.
pub type Norms = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// What the `format` key of a network file says.
const FORMAT: &str = "slimbit-network";

/// The version of the format that this crate writes and reads.
const VERSION: &str = "1";

/// Metadata keys that belong to the format.
const RESERVED: [&str; 3] = ["format", "format_version", "graph"];

/// A float network: its graph, its parameters, and what its batch-norms expect.
///
/// The file is one safetensors file of `f32` tensors `{node}.weight`, `{node}.bias`,
/// `{node}.running_mean` and `{node}.running_var`, with the graph as JSON and the free metadata in
/// `__metadata__`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Operators and shapes. The classifier's output is called `logits`, the pooled vector before it
    /// `features`.
    pub graph: Graph,
    /// Parameters at full width.
    pub params: Params,
    /// Running mean and biased variance of every batch-norm node; a network without batch-norms has
    /// none.
    pub norms: Norms,
    /// Free text by key. `preprocess` is the evaluation transform as JSON, `classes` the classes' names:
    /// see [`Network::classes`].
    pub metadata: BTreeMap<String, String>,
}

impl Network {
    /// Joins the parts of a network that carries no metadata yet.
    ///
    /// # Errors
    /// As [`Network::check`].
    pub fn new(graph: Graph, params: Params, norms: Norms) -> Result<Self, ImportError> {
        let network = Self {
            graph,
            params,
            norms,
            metadata: BTreeMap::new(),
        };
        network.check()?;
        Ok(network)
    }

    /// Checks that the parameters and statistics are exactly those of the graph, finite, and that
    /// no variance is negative.
    ///
    /// # Errors
    /// [`ImportError::Graph`] for a parameter, [`ImportError::Invalid`] for a statistic or a
    /// metadata key that belongs to the format.
    pub fn check(&self) -> Result<(), ImportError> {
        self.params.check(&self.graph)?;
        let channels = norm_channels(&self.graph)?;
        for (node, &count) in &channels {
            let Some((mean, variance)) = self.norms.get(node) else {
                return Err(ImportError::invalid(
                    node,
                    "a batch-norm without statistics",
                ));
            };
            for (part, values) in [("running_mean", mean), ("running_var", variance)] {
                let at = || format!("tensor `{node}.{part}`");
                if values.len() != count {
                    let what = format!("{} values for {count} channels", values.len());
                    return Err(ImportError::invalid(at(), what));
                }
                let least = if part == "running_var" { 0.0 } else { f32::MIN };
                let usable = |v: f32| v.is_finite() && v >= least;
                if let Some(index) = values.iter().position(|&v| !usable(v)) {
                    let what = format!("holds {} at element {index}", values[index]);
                    return Err(ImportError::invalid(at(), what));
                }
            }
        }
        if let Some(node) = self.norms.keys().find(|node| !channels.contains_key(*node)) {
            return Err(ImportError::invalid(
                node,
                "statistics for a node that is not a batch-norm",
            ));
        }
        match RESERVED
            .iter()
            .find(|key| self.metadata.contains_key(**key))
        {
            Some(key) => {
                let what = "belongs to the format, not to the free metadata";
                Err(ImportError::invalid(format!("metadata key `{key}`"), what))
            }
            None => Ok(()),
        }
    }

    /// The names of the classifier's classes, in the order of the logits; nothing where the file has none.
    ///
    /// # Errors
    /// [`ImportError::Graph`] where the metadata's list cannot be read or is not as long as the logits.
    pub fn classes(&self) -> Result<Option<ClassNames>, ImportError> {
        Ok(ClassNames::of_metadata(&self.metadata, &self.graph)?)
    }

    /// Names the classifier's classes.
    ///
    /// # Errors
    /// [`ImportError::Graph`] where there are not as many names as logits.
    pub fn set_classes(&mut self, names: &ClassNames) -> Result<(), ImportError> {
        names.check(&self.graph)?;
        self.metadata
            .insert(ClassNames::KEY.to_owned(), names.to_json());
        Ok(())
    }

    /// Reads a network file.
    ///
    /// # Errors
    /// As [`Network::from_bytes`], and [`ImportError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| ImportError::io(path, source))?;
        Self::from_bytes(&bytes)
    }

    /// Reads a network from the bytes of its file. Allocates in proportion to them, whatever they
    /// claim.
    ///
    /// # Errors
    /// [`ImportError::Damaged`] naming the tensor or key that is missing, unexpected, misshapen or
    /// of another type than `F32`; otherwise as [`Network::check`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImportError> {
        let header = |what: String| ImportError::damaged("header", what);
        let (_, parsed) =
            SafeTensors::read_metadata(bytes).map_err(|error| header(error.to_string()))?;
        let text = parsed.metadata().clone().unwrap_or_default();
        let key = |key: &str| {
            let value = text.get(key).map(String::as_str);
            value.ok_or_else(|| {
                header(format!(
                    "no `{key}` in `__metadata__`, so this is not a network file; \
                     make one with `slimbit import`"
                ))
            })
        };
        if key("format")? != FORMAT {
            return Err(header(format!(
                "format `{}`, wanted `{FORMAT}`",
                key("format")?
            )));
        }
        if key("format_version")? != VERSION {
            let found = key("format_version")?;
            return Err(ImportError::invalid(
                "header",
                format!(
                    "format version `{found}` is not `{VERSION}`; import the network again or update slimbit"
                ),
            ));
        }
        let graph = Graph::from_json(key("graph")?)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| header(error.to_string()))?;
        let mut taken = 0;
        let mut take = |name: &str, shape: &[usize]| {
            taken += 1;
            tensor(&tensors, name, shape)
        };
        let mut params = Params::default();
        for spec in graph.params(Width::FULL)? {
            let data = take(&spec.name, &spec.shape)?;
            let array = Array {
                shape: spec.shape,
                data,
            };
            params.0.insert(spec.name, array);
        }
        let mut norms = Norms::new();
        for (node, channels) in norm_channels(&graph)? {
            let mean = take(&format!("{node}.running_mean"), &[channels])?;
            let variance = take(&format!("{node}.running_var"), &[channels])?;
            norms.insert(node, (mean, variance));
        }
        let mut metadata: BTreeMap<_, _> = text.into_iter().collect();
        metadata.retain(|key, _| !RESERVED.contains(&key.as_str()));
        let network = Self {
            graph,
            params,
            norms,
            metadata,
        };
        if taken != tensors.len() {
            let wanted = network.tensors();
            let mut names = tensors.names();
            names.sort_unstable();
            let extra = names.iter().find(|name| !wanted.contains_key(**name));
            let at = format!("tensor `{}`", extra.copied().unwrap_or_default());
            return Err(ImportError::damaged(at, "belongs to no node of the graph"));
        }
        network.check()?;
        Ok(network)
    }

    /// The bytes of the network's file. The same network always gives the same bytes.
    ///
    /// # Errors
    /// As [`Network::check`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ImportError> {
        self.check()?;
        let tensors = self.tensors();
        let mut header = BTreeMap::from([("__metadata__", Entry::Metadata(self.text()))]);
        let mut end = 0;
        for (name, (shape, values)) in &tensors {
            let start = end;
            end += 4 * values.len();
            let entry = Entry::Tensor {
                dtype: "F32",
                shape,
                data_offsets: [start, end],
            };
            header.insert(name, entry);
        }
        let mut text = serde_json::to_vec(&header).expect("maps of strings and numbers are JSON");
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut bytes = Vec::with_capacity(8 + text.len() + end);
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&text);
        for (_, values) in tensors.values() {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(bytes)
    }

    /// Writes the whole file or nothing: an older file of the name stays until the new one is
    /// complete.
    ///
    /// # Errors
    /// As [`Network::check`], and [`ImportError::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), ImportError> {
        let path = path.as_ref();
        slimbit_engine::replace_file(path, &self.to_bytes()?)
            .map_err(|source| ImportError::io(path, source))
    }

    fn text(&self) -> BTreeMap<&str, String> {
        let free = self.metadata.iter();
        let mut text: BTreeMap<_, _> = free.map(|(k, v)| (k.as_str(), v.clone())).collect();
        text.insert("format", FORMAT.to_owned());
        text.insert("format_version", VERSION.to_owned());
        text.insert("graph", self.graph.to_json());
        text
    }

    /// Every tensor of the file, by name: shape and values.
    fn tensors(&self) -> BTreeMap<String, (Vec<usize>, &[f32])> {
        let params = self.params.0.iter();
        let mut tensors: BTreeMap<_, _> = params
            .map(|(name, array)| (name.clone(), (array.shape.clone(), &array.data[..])))
            .collect();
        for (node, (mean, variance)) in &self.norms {
            for (part, values) in [("running_mean", mean), ("running_var", variance)] {
                let tensor = (vec![values.len()], &values[..]);
                tensors.insert(format!("{node}.{part}"), tensor);
            }
        }
        tensors
    }
}

/// One entry of a safetensors header.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Metadata(BTreeMap<&'a str, String>),
    Tensor {
        dtype: &'static str,
        shape: &'a [usize],
        data_offsets: [usize; 2],
    },
}

/// Channels of every batch-norm node at full width.
fn norm_channels(graph: &Graph) -> Result<BTreeMap<String, usize>, GraphError> {
    let shapes = graph.shapes(Width::FULL)?;
    let nodes = graph.nodes().iter().zip(shapes);
    let norms = nodes.filter(|(node, _)| matches!(node.op, Op::BatchNorm { .. }));
    Ok(norms
        .map(|(node, shape)| (node.name.clone(), shape.channels()))
        .collect())
}

fn tensor(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
    let at = |what: String| ImportError::damaged(format!("tensor `{name}`"), what);
    let view = tensors
        .tensor(name)
        .map_err(|_| at("is missing".to_owned()))?;
    if view.dtype() != Dtype::F32 || view.shape() != shape {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(at(format!("is {found}, wanted F32 {shape:?}")));
    }
    let words = view.data().chunks_exact(4);
    Ok(words
        .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}
