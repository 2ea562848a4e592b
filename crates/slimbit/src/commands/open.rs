//! Opens what a command was given. The wrong kind of file is named, with the command that takes it, and every error
//! names the file.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use slimbit_interchange::{FileKind, ImportError, Network};

/// What a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A `.slim` file.
    Slim,
    /// A float network file.
    Network,
    /// A run directory.
    Run,
    /// The folder of a fine-tuning.
    FineTuning,
    /// A checkpoint of somebody else.
    Checkpoint,
    /// An ONNX file.
    Onnx,
}

impl Wanted {
    fn accepts(self, kind: &FileKind) -> bool {
        match self {
            Self::Slim => *kind == FileKind::Slim,
            Self::Network => *kind == FileKind::Network,
            Self::Run => *kind == FileKind::Run,
            Self::FineTuning => *kind == FileKind::FineTuning,
            Self::Checkpoint => kind.is_checkpoint(),
            Self::Onnx => *kind == FileKind::Onnx,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Slim => "a .slim file",
            Self::Network => "a float network file",
            Self::Run => "a run directory",
            Self::FineTuning => "the folder of a fine-tuning",
            Self::Checkpoint => "safetensors, a checkpoint of PyTorch",
            Self::Onnx => "an ONNX file",
        }
    }
}

/// A float network file.
pub(super) fn network(path: &Path) -> Result<Network> {
    expect(path, &[Wanted::Network])?;
    Network::open(path).map_err(|error| match error {
        ImportError::Io { .. } => anyhow!(error),
        error => anyhow!(error).context(path.display().to_string()),
    })
}

/// What a path is, where that is among the kinds that are wanted.
///
/// # Errors
/// What it is instead, and what to do with it.
pub(super) fn expect(path: &Path, wanted: &[Wanted]) -> Result<FileKind> {
    let kind = FileKind::of(path).with_context(|| path.display().to_string())?;
    if wanted.iter().any(|wanted| wanted.accepts(&kind)) {
        return Ok(kind);
    }
    let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name()).collect();
    let names = match &names[..] {
        [only] => format!("not {only}"),
        [names @ .., last] => format!("neither {} nor {last}", names.join(", ")),
        [] => String::new(),
    };
    let first = wanted.first().copied().unwrap_or(Wanted::Slim);
    bail!(
        "{} is {kind}, {names}; {}",
        path.display(),
        next(path, &kind, first)
    )
}

/// What to do next with a file of this kind that is not to be imported.
pub(super) fn remark(path: &Path, kind: &FileKind) -> String {
    format!("it is {kind}; {}", next(path, kind, Wanted::Checkpoint))
}

/// What to do with a file of this kind to come to the kind that is wanted.
fn next(path: &Path, kind: &FileKind, wanted: Wanted) -> String {
    let shown = path.display();
    let beside = |name: &str| Some(path.join(name)).filter(|file| file.exists());
    let stem = path.file_stem().unwrap_or(path.as_os_str()).display();
    let quantize = |network: &dyn Display, stem: &dyn Display| {
        format!("`slimbit quantize {network} --images PHOTOS -o {stem}.slim`")
    };
    match kind {
        FileKind::Slim => match wanted {
            Wanted::Checkpoint | Wanted::Onnx => format!(
                "it is quantised already: `slimbit inspect {shown}`, `predict` and `bench` take it as it is"
            ),
            _ => "it is quantised already; give what it was made of".to_owned(),
        },
        FileKind::Network => match wanted {
            Wanted::Slim => format!("make one with {}", quantize(&shown, &stem)),
            Wanted::Checkpoint | Wanted::Onnx => {
                format!("it is imported already; next: {}", quantize(&shown, &stem))
            }
            _ => "`slimbit pretrain` writes one".to_owned(),
        },
        FileKind::SafeTensors | FileKind::TorchZip | FileKind::TorchLegacy | FileKind::Onnx => {
            let network = format!("{stem}.network.safetensors");
            let import = format!("`slimbit import {shown} -o {network}`");
            match wanted {
                Wanted::Slim => format!(
                    "import it with {import} and then quantise it with {}",
                    quantize(&network, &stem)
                ),
                Wanted::Network | Wanted::Checkpoint | Wanted::Onnx => {
                    format!("import it first, with {import}")
                }
                Wanted::Run | Wanted::FineTuning => {
                    format!("`slimbit pretrain` writes one; to deploy this file, {import}")
                }
            }
        }
        FileKind::TrainingCheckpoint => {
            let run = path.parent().and_then(Path::parent).unwrap_or(path);
            match wanted {
                Wanted::Run => format!("give the run itself, {}", run.display()),
                _ => format!("export the run with `slimbit export {}`", run.display()),
            }
        }
        FileKind::Run => match (wanted, beside("model.slim")) {
            (Wanted::Slim, Some(file)) => format!("its .slim file is {}", file.display()),
            (Wanted::FineTuning, _) => {
                format!("continue the run with `slimbit pretrain --resume {shown}`")
            }
            _ => format!("make a .slim file of it with `slimbit export {shown}`"),
        },
        FileKind::FineTuning => match (wanted, beside("network.safetensors"), beside("model.slim"))
        {
            (Wanted::Slim, _, Some(file)) => format!("its .slim file is {}", file.display()),
            (Wanted::Slim, Some(network), _) => {
                format!(
                    "make one with {}",
                    quantize(&network.display(), &path.join("model").display())
                )
            }
            (_, Some(network), _) => format!("its network is {}", network.display()),
            (_, None, _) => format!("finish it with `slimbit finetune --resume {shown}`"),
        },
        FileKind::Image => {
            format!("with a .slim file, `slimbit predict MODEL.slim {shown}` tells what is in it")
        }
        FileKind::ImageFolder => {
            "give the model here, and images with --images or --data".to_owned()
        }
        FileKind::Folder => "it holds neither a run nor a fine-tuning".to_owned(),
        FileKind::Foreign(foreign) => foreign.remedy(),
        _ => "check the path, and whether the file was copied whole".to_owned(),
    }
}
