use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::{FileKind, Foreign};

/// Entries of a folder that are looked at before it is taken for one without pictures.
const LOOK: usize = 64;

/// What a folder is.
pub(super) fn kind(path: &Path) -> io::Result<FileKind> {
    let has = |name: &str| path.join(name).exists();
    if has("finetune.toml") {
        return Ok(FileKind::FineTuning);
    }
    if has("config.toml") && has("checkpoints") {
        return Ok(FileKind::Run);
    }
    if has("saved_model.pb") {
        return Ok(FileKind::Foreign(Foreign::SavedModel));
    }
    // Pictures here, or in a folder of a class or a split.
    for entry in fs::read_dir(path)?.flatten().take(LOOK) {
        let entry = entry.path();
        let inside = |path: &Path| -> bool {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.take(LOOK).any(|entry| is_image(&entry.path()))
        };
        if is_image(&entry) || (entry.is_dir() && inside(&entry)) {
            return Ok(FileKind::ImageFolder);
        }
    }
    Ok(FileKind::Folder)
}

fn is_image(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = path.is_file()
        && File::open(path).is_ok_and(|file| file.take(64).read_to_end(&mut head).is_ok());
    read && (infer::is_image(&head) || super::is_portable_map(&head))
}
