use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::TrainError;

/// Writes a file that is either all there or not there at all, even when the power goes: a temporary file in the
/// same folder, synchronised, then renamed. An older file of the name stays until the new one is complete.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let temporary = path.with_added_extension("tmp");
    let written = write_synchronised(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| synchronise_folder(path));
    written.map_err(|error| {
        // The error that is reported is the one that matters; the leftover is harmless.
        let _ = fs::remove_file(&temporary);
        TrainError::io("write", path, error)
    })
}

fn write_synchronised(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the rename itself durable, where the system lets a folder be opened.
fn synchronise_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) && !folder.as_os_str().is_empty() => {
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}
