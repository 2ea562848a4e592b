use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::TrainError;

/// The right to write in a run's folder, which one process has at a time.
///
/// It is an advisory lock of the operating system, so it ends with the process, however that ends. Within one process
/// a folder may be taken more than once: the lock is shared, and released with its last holder.
#[derive(Clone, Debug)]
pub struct RunLock {
    _file: Arc<File>,
}

/// What this process has locked, by the folder's real path.
static HELD: Mutex<Option<HashMap<PathBuf, Weak<File>>>> = Mutex::new(None);

impl RunLock {
    /// The file in a folder that is locked. It stays; only the lock on it means anything.
    pub(crate) const FILE: &'static str = ".lock";

    /// Takes the lock of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] at once where another process has it; [`TrainError::Io`] where the folder cannot be made
    /// or written.
    pub fn take(folder: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(|e| TrainError::io("make the folder", folder, e))?;
        let real =
            fs::canonicalize(folder).map_err(|e| TrainError::io("find the folder", folder, e))?;
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get_or_insert_default();
        if let Some(file) = held.get(&real).and_then(Weak::upgrade) {
            return Ok(Self { _file: file });
        }
        let path = real.join(Self::FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| TrainError::io("write", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(TrainError::RunDir {
                    path: folder.to_owned(),
                    what: "another process is training in this folder; wait for it, stop it, or choose another folder"
                        .to_owned(),
                });
            }
            // Some network file systems have no locks; a run there goes on without.
            Err(TryLockError::Error(error)) => {
                log::warn!(
                    "{} cannot be locked ({error}); do not train in it twice at a time",
                    folder.display()
                );
            }
        }
        let file = Arc::new(file);
        held.retain(|_, file| file.strong_count() > 0);
        held.insert(real, Arc::downgrade(&file));
        Ok(Self { _file: file })
    }
}
