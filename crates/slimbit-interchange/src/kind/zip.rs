use std::io::{Read, Seek};

use ::zip::ZipArchive;

use super::{FileKind, Foreign};

/// Endings of files that `slimbit import` reads.
const CHECKPOINTS: [&str; 7] = [
    ".pth",
    ".pt",
    ".th",
    ".ckpt",
    ".safetensors",
    ".onnx",
    ".bin",
];

/// What an archive holds.
pub(super) fn kind(file: impl Read + Seek, head: &[u8]) -> FileKind {
    let Ok(archive) = ZipArchive::new(file) else {
        // The first entry of `torch.save` is `NAME/data.pkl`: a file that is cut short still says so.
        let torch = head.windows(9).any(|window| window == b"/data.pkl");
        return match torch {
            true => FileKind::TorchZip,
            false => FileKind::Foreign(Foreign::BrokenZip),
        };
    };
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()))
        .collect();
    let has = |file: &str| {
        names
            .iter()
            .any(|name| name.rsplit('/').next() == Some(file))
    };
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let foreign = if has("archive_format") || has("serialized_exported_program.json") {
        Foreign::TorchExport
    } else if has("data.pkl") && (has("constants.pkl") || ends(".debug_pkl")) {
        Foreign::TorchScript
    } else if has("data.pkl") {
        return FileKind::TorchZip;
    } else if has("model.weights.h5") {
        Foreign::Keras
    } else if ends(".mlmodel") {
        Foreign::CoreMl
    } else if !names.is_empty() && names.iter().all(|name| name.ends_with(".npy")) {
        Foreign::Npz
    } else {
        let inside = |name: &String| CHECKPOINTS.iter().any(|ending| name.ends_with(ending));
        Foreign::Zip(names.into_iter().find(inside))
    };
    FileKind::Foreign(foreign)
}
