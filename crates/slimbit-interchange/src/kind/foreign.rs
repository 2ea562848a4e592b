use std::fmt;

use crate::error::plain;

/// The line of Python that writes an ONNX file which `slimbit import` reads, the way in for every network
/// that has no reader here.
const TORCH_ONNX: &str = crate::names::ONNX_ROUTE;

/// A file that other programs write and no command reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// No bytes at all.
    Empty,
    /// The text that Git leaves where Git LFS has not fetched the file.
    LfsPointer,
    /// A web page, as a failed download leaves it.
    Html,
    /// XML: a server's error, or OpenVINO's description of a network.
    Xml,
    /// The index of a checkpoint that is cut into several files.
    ShardIndex,
    /// Other JSON.
    Json,
    /// Other text.
    Text,
    /// One file, compressed: the program's name.
    Compressed(&'static str),
    /// An archive of files: the program's name.
    Archive(&'static str),
    /// A zip archive, and the checkpoint in it.
    Zip(Option<String>),
    /// A zip archive without its directory, which comes last.
    BrokenZip,
    /// `torch.jit.save`: a program and its weights.
    TorchScript,
    /// `torch.export.save` (`.pt2`).
    TorchExport,
    /// A Python pickle that `torch.save` did not write.
    Pickle,
    /// HDF5, in which Keras keeps weights.
    Hdf5,
    /// A Keras archive.
    Keras,
    /// TensorFlow Lite.
    TfLite,
    /// TensorFlow's SavedModel, or a graph of it.
    SavedModel,
    /// One NumPy array.
    Npy,
    /// NumPy arrays by name.
    Npz,
    /// Weights of a language model.
    Gguf,
    /// Core ML.
    CoreMl,
    /// Anything else with a known signature: its MIME type.
    Other(&'static str),
}

impl Foreign {
    /// Kinds with a signature in the first bytes.
    pub(super) fn of_head(head: &[u8]) -> Option<Self> {
        let at = |offset: usize, bytes: &[u8]| {
            head.get(offset..)
                .is_some_and(|rest| rest.starts_with(bytes))
        };
        // SavedModel: schema version 1, then a meta graph with its own first field. GraphDef: a node with a
        // name and an operator.
        let saved_model = at(0, b"\x08\x01\x12")
            && head[3..]
                .iter()
                .position(|byte| byte & 0x80 == 0)
                .is_some_and(|end| at(4 + end, b"\x0a"));
        let window = &head[..head.len().min(512)];
        let has = |text: &[u8]| window.windows(text.len()).any(|bytes| bytes == text);
        let graph = at(0, b"\x0a") && (has(b"\x12\x0bPlaceholder") || has(b"\x12\x05Const"));
        let known = [
            (at(0, b"version https://git-lfs"), Self::LfsPointer),
            (at(0, b"\x89HDF\r\n\x1a\n"), Self::Hdf5),
            (at(4, b"TFL3"), Self::TfLite),
            (at(0, b"\x93NUMPY"), Self::Npy),
            (at(0, b"GGUF"), Self::Gguf),
            (matches!(head, [0x80, 2..=5, ..]), Self::Pickle),
            (saved_model || graph, Self::SavedModel),
            (is_html(head), Self::Html),
        ];
        known.into_iter().find(|(is, _)| *is).map(|(_, kind)| kind)
    }

    /// Kinds of text; nothing where it is none. Of a `cut` head, the last character may be halved.
    pub(super) fn of_text(head: &[u8], cut: bool) -> Option<Self> {
        let text = match std::str::from_utf8(head) {
            Ok(text) => text,
            Err(error) if cut && error.valid_up_to() + 4 > head.len() => {
                std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
            }
            Err(_) => return None,
        };
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
            return None;
        }
        Some(match text.as_bytes() {
            [b'{' | b'[', ..] if text.contains("\"weight_map\"") => Self::ShardIndex,
            [b'{' | b'[', ..] => Self::Json,
            _ if text.starts_with("<?xml") => Self::Xml,
            _ => Self::Text,
        })
    }

    /// A kind that the `infer` crate knows, by its usual ending.
    pub(super) fn named(extension: &str, mime: &'static str) -> Self {
        match extension {
            "gz" => Self::Compressed("gzip"),
            "bz2" => Self::Compressed("bzip2"),
            "xz" => Self::Compressed("xz"),
            "zst" => Self::Compressed("zstd"),
            "lz4" => Self::Compressed("lz4"),
            "tar" => Self::Archive("tar"),
            "7z" => Self::Archive("7-Zip"),
            "rar" => Self::Archive("RAR"),
            "html" => Self::Html,
            "xml" => Self::Xml,
            _ => Self::Other(mime),
        }
    }

    /// What to do with it, as a clause of a message.
    pub fn remedy(&self) -> String {
        let fixed = match self {
            Self::Empty => "the download or the copy did not happen; fetch it again",
            Self::LfsPointer => "fetch the file itself with `git lfs pull`",
            Self::Html | Self::Xml => {
                "a download that failed leaves such a page; fetch the file itself, by its direct link"
            }
            Self::ShardIndex => {
                "load the model in Python and save it as one file, with `safetensors.torch.save_file` or `torch.save`"
            }
            Self::Json | Self::Text => "the weights are in another file; give that one",
            Self::Compressed(_) => "unpack it and give the file inside",
            Self::Archive(_) | Self::Zip(None) => "unpack it and give the checkpoint inside",
            Self::Zip(Some(inside)) => {
                return format!("unpack it and give `{}`", plain(inside, 200));
            }
            Self::BrokenZip => "it is cut short or damaged; download or copy it again",
            Self::TorchScript | Self::TorchExport => {
                return format!(
                    "it is a program, and slimbit never runs code from a checkpoint: save the weights alone with \
                     `torch.save(model.state_dict(), path)`, or convert it with {TORCH_ONNX}"
                );
            }
            Self::Pickle => {
                "load it in Python and save the weights with `torch.save(model.state_dict(), path)` or as safetensors"
            }
            Self::Hdf5 | Self::Keras | Self::SavedModel => {
                "convert it to ONNX with `python -m tf2onnx.convert` (--keras or --saved-model, and --opset 17), then \
                 `slimbit import model.onnx`"
            }
            Self::TfLite => {
                "convert it to ONNX with `python -m tf2onnx.convert --tflite model.tflite --opset 17 --output \
                 model.onnx`, then `slimbit import model.onnx`"
            }
            Self::Npy | Self::Npz => {
                "save the arrays by the network's own tensor names with `safetensors.numpy.save_file`"
            }
            Self::Gguf | Self::CoreMl | Self::Other(_) => {
                "give a checkpoint or an ONNX file of the network"
            }
        };
        fixed.to_owned()
    }
}

fn is_html(head: &[u8]) -> bool {
    let text = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let begins = |tag: &[u8]| {
        text.get(..tag.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(tag))
    };
    [&b"<!doctype html"[..], b"<html", b"<head", b"<body"]
        .into_iter()
        .any(begins)
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Empty => "an empty file",
            Self::LfsPointer => {
                "a Git LFS pointer, a few lines of text in place of the file itself"
            }
            Self::Html => "a web page (HTML)",
            Self::Xml => "XML",
            Self::ShardIndex => "the index of a checkpoint in several files (JSON)",
            Self::Json => "a JSON file",
            Self::Text => "a text file",
            Self::Compressed(program) => return write!(f, "compressed with {program}"),
            Self::Archive(program) => return write!(f, "a {program} archive"),
            Self::Zip(_) => "a zip archive, and not one of `torch.save`",
            Self::BrokenZip => "a zip archive without its directory",
            Self::TorchScript => "a TorchScript archive (`torch.jit.save`)",
            Self::TorchExport => "a PyTorch program (`torch.export.save`, .pt2)",
            Self::Pickle => "a Python pickle that `torch.save` did not write",
            Self::Hdf5 => "an HDF5 file, in which Keras keeps weights",
            Self::Keras => "a Keras archive",
            Self::TfLite => "a TensorFlow Lite model",
            Self::SavedModel => "a TensorFlow model (SavedModel or GraphDef)",
            Self::Npy => "a NumPy array (.npy)",
            Self::Npz => "an archive of NumPy arrays (.npz)",
            Self::Gguf => "a GGUF file",
            Self::CoreMl => "a Core ML model",
            Self::Other(mime) => return write!(f, "of type {mime}"),
        };
        f.write_str(text)
    }
}
