//! A network that was tuned to class folders in seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use slimbit::data::{Dataset, Split};
use tempfile::TempDir;

use crate::command::{json, succeeds, text};
use crate::trained::trained;

/// Class folders, two of them with names that CSV and SVG have to escape, and the labels of their images in Fashion-MNIST.
pub(crate) const CLASSES: [(&str, u32); 3] = [
    ("bag, \"big\" & <round>", 8),
    ("trouser", 1),
    ("Ankle boot", 9),
];

/// Training and test images of each class.
const IMAGES: [(Split, &str, usize); 2] = [(Split::Train, "train", 24), (Split::Test, "test", 12)];

/// A network that was tuned in seconds to three class folders, in float and in integers.
pub(crate) struct Tuned {
    _folder: TempDir,
    pub(crate) data: PathBuf,
    pub(crate) network: PathBuf,
    pub(crate) file: PathBuf,
}

pub(crate) fn tuned() -> &'static Tuned {
    static TUNED: OnceLock<Tuned> = OnceLock::new();
    TUNED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("labelled");
        for (split, name, count) in IMAGES {
            for (class, label) in CLASSES {
                write_images(&data.join(name).join(class), split, label, count);
            }
        }
        let out = folder.path().join("tuned");
        let mut arguments = vec!["finetune", text(&trained().run), "--data", text(&data)];
        arguments.extend(["--out", text(&out), "--freeze", "all", "--warm-head", "30"]);
        arguments.extend(["--epochs", "1", "--no-flip"]);
        succeeds(&arguments);
        let (network, file) = (out.join("network.safetensors"), out.join("tuned.slim"));
        let mut arguments = vec!["quantize", text(&network), "--images", text(&data)];
        arguments.extend(["-o", text(&file), "--bits", "W8A8,W4A4"]);
        succeeds(&arguments);
        Tuned {
            _folder: folder,
            data,
            network,
            file,
        }
    })
}

fn write_images(folder: &Path, split: Split, label: u32, count: usize) {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fashion-mnist");
    let dataset = Dataset::open_split(all, split).unwrap();
    fs::create_dir_all(folder).unwrap();
    let of_class = (0..dataset.len()).filter(|&image| dataset.label(image) == Some(label));
    for (number, image) in of_class.take(count).enumerate() {
        let pixels = dataset.image(image).unwrap().pixels;
        let bytes = [&b"P5 28 28 255\n"[..], &pixels].concat();
        fs::write(folder.join(format!("{number:02}.pgm")), bytes).unwrap();
    }
}

pub(crate) fn evaluate(file: &Path, data: &Path, more: &[&str]) -> Value {
    let arguments = [
        &["evaluate", text(file), "--data", text(data), "--json"],
        more,
    ]
    .concat();
    json(&succeeds(&arguments))
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}
