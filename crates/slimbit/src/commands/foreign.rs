//! Other runtimes, reached through Python: the same network must mean the same there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use npyz::{AutoSerialize, NpyFile, Serialize, WriterBuilder};
use serde::Deserialize;

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
    /// Whether the file takes the image's codes as they are.
    pub bytes: bool,
    /// The tensors wanted.
    pub outputs: &'a [String],
    /// Those of them that are maps with the channels last; they come back with the channels first.
    pub outputs_last: &'a [String],
}

/// Images of one size, one after the other: HWC bytes, which mean `(p / 255 - mean) / std`.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    pub codes: &'a [u8],
    pub mean: &'a [f32],
    pub std: &'a [f32],
}

/// What came of a request.
pub(super) enum Answer {
    /// The runtime is not installed; why, and what to do.
    Missing(String),
    /// The runtime is there and cannot run the file; in its own words.
    Failed(String),
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
    Failed {
        failed: String,
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
        let Pixels { codes, mean, std } = request.images;
        let count = codes.len() / (height * width * channels);
        write_npy(&images, codes, [count, height, width, channels])?;
        // A name that is no UTF-8 has no place in JSON: such a model is copied beside the request.
        let model = match std::path::absolute(request.model)?.to_str() {
            Some(path) => path.to_owned(),
            None => {
                let copy = folder.path().join("model.onnx");
                fs::copy(request.model, copy)
                    .with_context(|| format!("copying {}", request.model.display()))?;
                "model.onnx".to_owned()
            }
        };
        let outputs = request.outputs.iter();
        let last: Vec<bool> = outputs.map(|o| request.outputs_last.contains(o)).collect();
        let text = serde_json::json!({
            "runtime": runtime.to_string(), "model": model, "mean": mean, "std": std,
            "bytes": request.bytes, "batch": request.batch.unwrap_or(BATCH),
            "fixed": request.batch.is_some(), "channels_last": request.channels_last,
            "outputs": request.outputs, "outputs_last": last,
        });
        let remedy = format!(
            "`pip install numpy {}`, or point --python or SLIMBIT_PYTHON at an interpreter that has it",
            match runtime {
                Runtime::OpenVino => "openvino",
                _ => "onnxruntime",
            }
        );
        // Files, and not pipes: an interpreter that ends before it reads is to be reported with its
        // own words, and one that prints a greeting has not answered with it.
        let request_file = folder.path().join("request.json");
        fs::write(&request_file, text.to_string())
            .with_context(|| format!("writing {}", request_file.display()))?;
        let interpreter = interpreter(&self.0);
        let ended = Command::new(&interpreter)
            .args(["-c", SCRIPT])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .output();
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let path = self.0.display();
                return Ok(Answer::Missing(format!("`{path}`: {error}; {remedy}")));
            }
        };
        let answer = fs::read(folder.path().join("answer.json"));
        let (Ok(answer), true) = (answer, ended.status.success()) else {
            let words = String::from_utf8_lossy(&ended.stderr);
            let last = words.lines().rev().find(|line| !line.trim().is_empty());
            let last = last.unwrap_or("it said nothing");
            return Ok(Answer::Failed(format!("{}: {last}", ended.status)));
        };
        let reply = serde_json::from_slice(&answer).context("the answer of Python")?;
        let (version, files) = match reply {
            Reply::Missing { missing } => {
                return Ok(Answer::Missing(format!("{missing}; {remedy}")));
            }
            Reply::Failed { failed } => return Ok(Answer::Failed(failed)),
            Reply::Ran { version, files } => (version, files),
        };
        let mut outputs = BTreeMap::new();
        for (name, path) in request.outputs.iter().zip(files) {
            outputs.insert(name.clone(), read_npy(&folder.path().join(path))?);
        }
        Ok(Answer::Ran { version, outputs })
    }
}

/// A relative path to an interpreter holds in any working directory; a plain name is looked up.
fn interpreter(named: &Path) -> PathBuf {
    let is_path = named.components().count() > 1;
    match std::path::absolute(named) {
        Ok(path) if is_path => path,
        _ => named.to_owned(),
    }
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
            images: Pixels {
                codes: &[0; 12],
                mean: &[0.0; 3],
                std: &[1.0; 3],
            },
            shape: [2, 2, 3],
            batch: None,
            channels_last: false,
            bytes: false,
            outputs: &[],
            outputs_last: &[],
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
