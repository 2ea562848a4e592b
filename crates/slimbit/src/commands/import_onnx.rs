//! An ONNX file as the source of `slimbit import`, and its comparison with ONNX Runtime.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use slimbit_data::{Dataset, Preprocess};
use slimbit_graph::Graph;
use slimbit_interchange::Network;
use slimbit_interchange::onnx::{self, Normalisation, OnnxImport};

use super::features::{Images, PREPROCESS};
use super::foreign::{Answer, Pixels, Python, Request, Runtime};
use super::forward;
use super::input_range::{self, Input};
use crate::cli::{ImportArgs, PreprocessArgs};

/// Real images of the comparison, at most.
const REAL_IMAGES: usize = 64;

/// Largest difference that the order of float sums explains, relative to the largest output.
const TOLERANCE: f32 = 1e-2;

/// A file that was imported.
pub(super) struct OnnxSource {
    import: OnnxImport,
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where its other files are.
    folder: PathBuf,
    /// What it is fed, and what the network is.
    input: Input,
}

/// How far ONNX Runtime's outputs are from ours.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Comparison {
    /// Nobody to compare with, and why.
    Skipped(String),
    /// ONNX Runtime is there and cannot run the file.
    Failed(String),
    /// By output: the largest difference.
    Compared(Vec<Difference>),
}

/// The largest difference of one output.
#[derive(Serialize)]
pub(super) struct Difference {
    runtime: String,
    images: String,
    output: String,
    difference: f32,
    /// Largest magnitude of the output.
    largest: f32,
}

impl OnnxSource {
    /// Reads and imports a file. `default` gives what the flags say about the images of a graph, and
    /// else what networks like it were published with.
    pub(super) fn open(
        path: &Path,
        args: &ImportArgs,
        default: impl Fn(&Graph, &PreprocessArgs) -> Result<Preprocess>,
    ) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut import = onnx::import_in(folder, &bytes, args.input)?;
        let given = args.preprocess.mean.is_some() || args.preprocess.std.is_some();
        let default = default(&import.network.graph, &args.preprocess)?;
        let input = match own_preprocess(&import, &args.preprocess) {
            Some(input) => input,
            None => {
                let takes_bytes = import.takes_bytes;
                input_range::resolve(default, given, takes_bytes, &import.normalisation)?
            }
        };
        if input.assumed {
            log::warn!(
                "{} does not say how its input is normalised; assuming the mean {:?} and the \
                 deviation {:?} of pixels in 0 to 1: give --mean and --std if it was trained \
                 otherwise",
                path.display(),
                input.preprocess.mean,
                input.preprocess.std
            );
        }
        import.notes.push(format!("normalisation {}", input.origin));
        for note in &import.notes {
            log::info!("{note}");
        }
        Ok(Self {
            import,
            path: path.to_owned(),
            bytes,
            folder: folder.to_owned(),
            input,
        })
    }

    /// The network of the file.
    pub(super) fn network(&self) -> Network {
        self.import.network.clone()
    }

    /// How images become the network's input.
    pub(super) fn preprocess(&self) -> &Preprocess {
        &self.input.preprocess
    }

    /// What was left out, and what was read or assumed.
    pub(super) fn notes(&self) -> &[String] {
        &self.import.notes
    }

    /// Compares our float outputs with ONNX Runtime's on random images, of which `codes` are the
    /// pixels, and on real ones where the arguments name some.
    pub(super) fn compare(&self, codes: Vec<u8>, args: &ImportArgs) -> Result<Comparison> {
        let preprocess = self.preprocess();
        let mut sets = vec![("random images", codes)];
        if let Some(path) = &args.images {
            let images = Images::load(&Dataset::open(path)?, preprocess, Some(REAL_IMAGES))?;
            sets.push(("real images", images.codes));
        }
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let model = folder.path().join("model.onnx");
        let outputs = &self.import.outputs;
        let tensors: Vec<String> = outputs.iter().map(|o| o.tensor.clone()).collect();
        let last = outputs.iter().filter(|output| output.channels_last);
        let last: Vec<String> = last.map(|output| output.tensor.clone()).collect();
        let more = tensors.iter().map(String::as_str);
        std::fs::write(&model, onnx::with_outputs(&self.bytes, more))?;
        for data in &self.import.data {
            let copy = folder.path().join(data);
            std::fs::create_dir_all(copy.parent().unwrap_or(folder.path()))?;
            std::fs::copy(self.folder.join(data), &copy)
                .with_context(|| format!("copying {}", data.display()))?;
        }
        let network = &self.import.network;
        let (height, width) = network.graph.input_shape().spatial();
        // A quantised file rounds where its float meaning does not, but need not saturate.
        let quantised = network.metadata.contains_key(onnx::QUANTISERS);
        let runtime = match quantised {
            true => Runtime::OrtExact,
            false => Runtime::Ort,
        };
        let python = Python::find(args.python.as_deref());
        let mut differences = Vec::new();
        for (images, codes) in sets {
            let request = Request {
                model: &model,
                images: Pixels {
                    codes: &codes,
                    mean: &self.input.feed.mean,
                    std: &self.input.feed.std,
                },
                shape: [height, width, network.graph.input_shape().channels()],
                batch: self.import.batch,
                channels_last: self.import.channels_last,
                bytes: self.import.takes_bytes,
                outputs: &tensors,
                outputs_last: &last,
            };
            let (version, theirs) = match python.run(runtime, &request)? {
                Answer::Missing(why) => return Ok(Comparison::Skipped(why)),
                Answer::Failed(why) => return Ok(Comparison::Failed(why)),
                Answer::Ran { version, outputs } => (version, outputs),
            };
            let ours = forward::float_outputs(network, preprocess, &codes)?;
            for output in outputs {
                let (name, tensor) = (&output.name, &output.tensor);
                let (ours, theirs) = (&ours[name], &theirs[tensor]);
                ensure!(
                    ours.len() == theirs.len(),
                    "{}: output `{name}` has {} values, `{tensor}` of the file {}",
                    self.path.display(),
                    ours.len(),
                    theirs.len()
                );
                let pairs = ours.iter().zip(theirs);
                let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
                let difference = Difference {
                    runtime: format!("{runtime} {version}"),
                    images: images.to_owned(),
                    output: name.clone(),
                    difference: largest(&mut pairs.map(|(a, b)| match (a - b).abs() {
                        // A maximum passes over what is no number.
                        difference if difference.is_nan() => f32::INFINITY,
                        difference => difference,
                    })),
                    largest: largest(&mut theirs.iter().map(|v| v.abs())),
                };
                ensure!(
                    quantised || difference.difference <= TOLERANCE * difference.largest.max(1e-3),
                    "{}: {difference}: the network does not compute what the file computes; please \
                     report it with the file",
                    self.path.display()
                );
                if quantised && difference.difference > 0.5 * difference.largest {
                    log::warn!(
                        "{}: {difference}: the network is what the quantised file means in float, \
                         without its rounding and saturation, which change its outputs much",
                        self.path.display()
                    );
                }
                differences.push(difference);
            }
        }
        Ok(Comparison::Compared(differences))
    }
}

/// The evaluation transform of a file that Slimbit wrote itself, which carries it along, unless the
/// flags say otherwise.
fn own_preprocess(import: &OnnxImport, args: &PreprocessArgs) -> Option<Input> {
    let flags =
        args.mean.is_some() || args.std.is_some() || args.resize.is_some() || args.filter.is_some();
    if flags || import.takes_bytes || import.normalisation != Normalisation::None {
        return None;
    }
    let preprocess: Preprocess = serde_json::from_str(import.metadata.get(PREPROCESS)?).ok()?;
    preprocess.validate().ok()?;
    let shape = import.network.graph.input_shape();
    let of_graph = (shape.channels(), shape.spatial());
    let fits = of_graph == (preprocess.channels, (preprocess.height, preprocess.width));
    fits.then(|| Input {
        feed: input_range::Feed {
            mean: preprocess.mean.clone(),
            std: preprocess.std.clone(),
        },
        preprocess,
        origin: "read from the file's metadata".to_owned(),
        assumed: false,
    })
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            runtime,
            images,
            output,
            difference,
            largest,
        } = self;
        write!(
            f,
            "{runtime}, {images}: {output} differs by {difference:.3e} at most, of {largest:.3e}"
        )
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skipped(why) => write!(f, "against ONNX Runtime skipped: {why}"),
            Self::Failed(why) => write!(
                f,
                "against ONNX Runtime not done, as it cannot run the file itself: {why}"
            ),
            Self::Compared(all) => {
                let lines: Vec<String> = all.iter().map(Difference::to_string).collect();
                f.write_str(&lines.join("\n              "))
            }
        }
    }
}
