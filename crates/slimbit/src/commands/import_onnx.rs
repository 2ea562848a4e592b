//! An ONNX file as the source of `slimbit import`, and its comparison with ONNX Runtime.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use slimbit_data::{Dataset, Preprocess};
use slimbit_interchange::Network;
use slimbit_interchange::onnx::{self, OnnxImport};

use super::features::Images;
use super::foreign::{Answer, Pixels, Python, Request, Runtime};
use super::forward;
use crate::cli::ImportArgs;

/// Real images of the comparison, at most.
const REAL_IMAGES: usize = 64;

/// Largest difference that the order of float sums explains, relative to the largest output.
const TOLERANCE: f32 = 1e-2;

/// A file that was imported.
pub(super) struct OnnxSource {
    import: OnnxImport,
    bytes: Vec<u8>,
    /// Where its other files are.
    folder: PathBuf,
}

/// How far ONNX Runtime's outputs are from ours.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Comparison {
    /// Nobody to compare with, and why.
    Skipped(String),
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
    /// Reads and imports a file.
    pub(super) fn open(path: &Path, args: &ImportArgs) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let import = onnx::import_in(folder, &bytes, args.input)?;
        for note in &import.notes {
            log::info!("{note}");
        }
        Ok(Self {
            import,
            bytes,
            folder: folder.to_owned(),
        })
    }

    /// The network of the file.
    pub(super) fn network(&self) -> Network {
        self.import.network.clone()
    }

    /// What was left out.
    pub(super) fn notes(&self) -> &[String] {
        &self.import.notes
    }

    /// Compares our float outputs with ONNX Runtime's on random images, `values`, and on real ones
    /// where the arguments name some.
    pub(super) fn compare(
        &self,
        preprocess: &Preprocess,
        values: &[f32],
        args: &ImportArgs,
    ) -> Result<Comparison> {
        let mut sets = vec![("random images", values.to_vec())];
        if let Some(path) = &args.images {
            let images = Images::load(&Dataset::open(path)?, preprocess, Some(REAL_IMAGES))?;
            sets.push(("real images", preprocess.normalise(&images.codes)));
        }
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let model = folder.path().join("model.onnx");
        let tensors: Vec<String> = self.import.outputs.iter().map(|o| o.1.clone()).collect();
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
        for (images, values) in sets {
            let request = Request {
                model: &model,
                images: Pixels::Values(&values),
                shape: [height, width, network.graph.input_shape().channels()],
                batch: self.import.batch,
                channels_last: self.import.channels_last,
                outputs: &tensors,
            };
            let (version, theirs) = match python.run(runtime, &request)? {
                Answer::Missing(why) => return Ok(Comparison::Skipped(why)),
                Answer::Ran { version, outputs } => (version, outputs),
            };
            let ours = forward::float_values(network, &values)?;
            for (name, tensor) in &self.import.outputs {
                let Some(ours) = ours.get(name) else { continue };
                let theirs = &theirs[tensor];
                ensure!(
                    ours.len() == theirs.len(),
                    "output `{name}` has {} values, `{tensor}` of the file {}",
                    ours.len(),
                    theirs.len()
                );
                let pairs = ours.iter().zip(theirs);
                let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
                let difference = Difference {
                    runtime: format!("{runtime} {version}"),
                    images: images.to_owned(),
                    output: name.clone(),
                    difference: largest(&mut pairs.map(|(a, b)| (a - b).abs())),
                    largest: largest(&mut theirs.iter().map(|v| v.abs())),
                };
                ensure!(
                    quantised || difference.difference <= TOLERANCE * difference.largest.max(1e-3),
                    "{difference}: the network does not compute what the file computes; please \
                     report it with the file",
                );
                differences.push(difference);
            }
        }
        Ok(Comparison::Compared(differences))
    }
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
            Self::Compared(all) => {
                let lines: Vec<String> = all.iter().map(Difference::to_string).collect();
                f.write_str(&lines.join("\n              "))
            }
        }
    }
}
