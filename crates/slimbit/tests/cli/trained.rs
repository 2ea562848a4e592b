//! A network that was trained in seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use slimbit::data::{Dataset, Split};
use tempfile::TempDir;

use crate::command::{succeeds, text};

/// Settings of a network that trains in seconds.
pub(crate) const TINY: [&str; 12] = [
    "recipe=combined/resnet20-cifar10",
    "model.backbone=resnet8-b-s2",
    "epochs=2",
    "batch=32",
    "heads.hidden=32",
    "heads.dim=16",
    "optim.lr=0.1",
    "preprocess.channels=1",
    "preprocess.height=28",
    "preprocess.width=28",
    "preprocess.mean=[0.2862745]",
    "preprocess.std=[0.353]",
];

/// IDX files with the first images of the repository's splits.
fn small_dataset(folder: &Path) {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fashion-mnist");
    for (split, prefix, count) in [(Split::Train, "train", 256), (Split::Test, "t10k", 64)] {
        let dataset = Dataset::open_split(&all, split).unwrap();
        // The split is sorted by nothing in particular; stride over it to meet every class.
        let step = dataset.len() / count;
        let rows: Vec<usize> = (0..count).map(|i| i * step).collect();
        let mut images = vec![0, 0, 8, 3];
        let mut labels = vec![0, 0, 8, 1];
        for size in [count as u32, 28, 28] {
            images.extend(size.to_be_bytes());
        }
        labels.extend((count as u32).to_be_bytes());
        for row in rows {
            images.extend(dataset.image(row).unwrap().pixels);
            labels.push(dataset.label(row).unwrap() as u8);
        }
        fs::write(folder.join(format!("{prefix}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.join(format!("{prefix}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// A trained and exported tiny run, made once.
pub(crate) struct Trained {
    _folder: TempDir,
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) file: PathBuf,
}

pub(crate) fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (data, run) = (folder.path().join("data"), folder.path().join("run"));
        fs::create_dir(&data).unwrap();
        small_dataset(&data);
        let mut arguments = vec!["pretrain", "--data", text(&data), "--out", text(&run)];
        arguments.extend(TINY);
        succeeds(&arguments);
        let bits = "W8A8,W4A4,W2A4";
        succeeds(&[
            "export",
            text(&run),
            "--widths",
            "1,0.5",
            "--bits",
            bits,
            "--calibration-images",
            "128",
        ]);
        let file = run.join("model.slim");
        Trained {
            _folder: folder,
            data,
            run,
            file,
        }
    })
}
