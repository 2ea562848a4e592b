//! Other runtimes, reached through Python: the same network must mean the same there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use npyz::{AutoSerialize, NpyFile, Serialize, WriterBuilder};
use serde::Deserialize;
use slimbit_data::printable;

/// The script that the Python interpreter runs.
const SCRIPT: &str = include_str!("foreign.py");

/// Images per run where the file does not fix them.
const BATCH: usize = 16;

/// Who executes an ONNX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    /// ONNX Runtime as it comes.
    Ort,
    /// ONNX Runtime told not to saturate sums of products at 16 bits, which its default kernels do
    /// on processors without VNNI.
    OrtExact,
    /// OpenVINO on the CPU.
    OpenVino,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ort => "onnxruntime",
            Self::OrtExact => "onnxruntime-exact",
            Self::OpenVino => "openvino",
        })
    }
}

/// What a runtime is to run.
pub(super) struct Request<'a> {
    /// The ONNX file.
    pub model: &'a Path,
    /// The images.
    pub images: Pixels<'a>,
    /// Dimensions of one image: rows, columns, channels.
    pub shape: [usize; 3],
    /// Images per run, where the file fixes them.
    pub batch: Option<usize>,
    /// Whether the file takes its image with the channels last.
    pub channels_last: bool,
    /// The tensors wanted.
    pub outputs: &'a [String],
}

/// Images of one size, one after the other.
#[derive(Clone, Copy)]
pub(super) enum Pixels<'a> {
    /// HWC bytes, which mean `(p / 255 - mean) / std`.
    Codes {
        codes: &'a [u8],
        mean: &'a [f32],
        std: &'a [f32],
    },
    /// CHW values.
    Values(&'a [f32]),
}

/// What came of a request.
pub(super) enum Answer {
    /// The runtime is not installed; why, and what to do.
    Missing(String),
    /// The runtime's version and its outputs by name, one row per image.
    Ran {
        version: String,
        outputs: BTreeMap<String, Vec<f32>>,
    },
}

/// A Python interpreter.
pub(super) struct Python(PathBuf);

#[derive(Deserialize)]
#[serde(untagged)]
enum Reply {
    Missing {
        missing: String,
    },
    Ran {
        version: String,
        files: Vec<PathBuf>,
    },
}

impl Python {
    /// The interpreter asked for, that of `SLIMBIT_PYTHON`, or `python3`.
    pub(super) fn find(asked: Option<&Path>) -> Self {
        let named = || std::env::var_os("SLIMBIT_PYTHON").map(PathBuf::from);
        let path = asked.map(Path::to_owned).or_else(named);
        Self(path.unwrap_or_else(|| "python3".into()))
    }

    /// Runs a file.
    pub(super) fn run(&self, runtime: Runtime, request: &Request) -> Result<Answer> {
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        let images = folder.path().join("images.npy");
        let [height, width, channels] = request.shape;
        let size = height * width * channels;
        let (mean, std): (&[f32], &[f32]) = match request.images {
            Pixels::Codes { codes, mean, std } => {
                let count = codes.len() / size;
                write_npy(&images, codes, [count, height, width, channels])?;
                (mean, std)
            }
            Pixels::Values(values) => {
                let count = values.len() / size;
                write_npy(&images, values, [count, channels, height, width])?;
                (&[], &[])
            }
        };
        let text = serde_json::json!({
            "runtime": runtime.to_string(), "model": utf8(request.model)?, "images": utf8(&images)?,
            "mean": mean, "std": std, "batch": request.batch.unwrap_or(BATCH),
            "fixed": request.batch.is_some(), "channels_last": request.channels_last,
            "outputs": request.outputs, "folder": utf8(folder.path())?,
        });
        let remedy = format!(
            "`pip install numpy {}`, or point --python or SLIMBIT_PYTHON at an interpreter that has it",
            match runtime {
                Runtime::OpenVino => "openvino",
                _ => "onnxruntime",
            }
        );
        // A file, and not a pipe: an interpreter that ends before it reads is to be reported with its own words.
        let request_file = folder.path().join("request.json");
        fs::write(&request_file, text.to_string())
            .with_context(|| format!("writing {}", request_file.display()))?;
        let ended = Command::new(&self.0)
            .args(["-c", SCRIPT])
            .stdin(File::open(&request_file).context("reading the request for Python")?)
            .output();
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let path = self.0.display();
                return Ok(Answer::Missing(format!("`{path}`: {error}; {remedy}")));
            }
        };
        if !ended.status.success() {
            let words = String::from_utf8_lossy(&ended.stderr);
            let last = words.lines().rev().find(|line| !line.trim().is_empty());
            bail!(
                "{runtime} cannot run {}: {}",
                request.model.display(),
                last.unwrap_or("it said nothing")
            );
        }
        let reply = serde_json::from_slice(&ended.stdout).context("the answer of Python")?;
        let (version, files) = match reply {
            Reply::Missing { missing } => {
                return Ok(Answer::Missing(format!("{missing}; {remedy}")));
            }
            Reply::Ran { version, files } => (version, files),
        };
        let mut outputs = BTreeMap::new();
        for (name, path) in request.outputs.iter().zip(files) {
            outputs.insert(name.clone(), read_npy(&path)?);
        }
        Ok(Answer::Ran { version, outputs })
    }
}

/// A path as Python is told it.
fn utf8(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| {
        format!(
            "the path {} is not UTF-8, and Python is told it as text; rename it",
            printable(path)
        )
    })
}

fn write_npy<T: AutoSerialize + Serialize + Copy>(
    path: &Path,
    values: &[T],
    shape: [usize; 4],
) -> Result<()> {
    let context = || format!("writing {}", path.display());
    let mut file = BufWriter::new(File::create(path).with_context(context)?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape.map(|d| d as u64))
        .writer(&mut file)
        .begin_nd()
        .with_context(context)?;
    writer
        .extend(values.iter().copied())
        .with_context(context)?;
    writer.finish().with_context(context)?;
    file.flush().with_context(context)
}

fn read_npy(path: &Path) -> Result<Vec<f32>> {
    let context = || format!("reading {}", path.display());
    let file = BufReader::new(File::open(path).with_context(context)?);
    let values = NpyFile::new(file).with_context(context)?;
    values.into_vec().with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interpreter_is_an_answer() {
        let python = Python::find(Some(Path::new("/nowhere/python")));
        let request = Request {
            model: Path::new("net.onnx"),
            images: Pixels::Values(&[0.0; 12]),
            shape: [2, 2, 3],
            batch: None,
            channels_last: false,
            outputs: &[],
        };
        let answer = python.run(Runtime::Ort, &request).unwrap();
        let Answer::Missing(why) = answer else {
            panic!("nothing there to run")
        };
        assert!(
            why.contains("/nowhere/python") && why.contains("pip install"),
            "{why}"
        );
    }
}
