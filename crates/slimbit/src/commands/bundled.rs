//! The images of `quickstart`. The program carries them, so that it runs wherever it is installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use slimbit_engine::replace_file;

/// The folder that they are unpacked to, beside what `quickstart` writes.
const FOLDER: &str = "fashion-mnist";

macro_rules! files {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(concat!("../../../../testdata/fashion-mnist/", $name)))),*]
    };
}

/// Name and content. The page says whose the images are and what their licence is.
const FILES: [(&str, &[u8]); 6] = files![
    "README.md",
    "classes.txt",
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz"
];

/// Unpacks the images into `out`, as far as they are not there yet, and gives their folder.
pub(super) fn unpack(out: &Path) -> Result<PathBuf> {
    let folder = out.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, content) in FILES {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|there| there == content) {
            continue;
        }
        replace_file(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_data::{Dataset, Split};

    #[test]
    fn unpacked_images_open_and_a_damaged_file_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let images = unpack(folder.path()).unwrap();
        let path = images.join("t10k-labels-idx1-ubyte.gz");
        fs::write(&path, "damaged").unwrap();
        assert_eq!(unpack(folder.path()).unwrap(), images);
        for (split, count) in [(Split::Train, 10_000), (Split::Test, 2_000)] {
            let dataset = Dataset::open_split(&images, split).unwrap();
            assert_eq!(dataset.len(), count);
            assert!(dataset.label(0).is_some());
        }
    }
}
