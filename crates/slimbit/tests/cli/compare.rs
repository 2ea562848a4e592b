//! `slimbit compare` as a user sees it.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{json, message, run, succeeds, text};

struct Files {
    folder: TempDir,
    images: PathBuf,
    model: PathBuf,
}

impl Files {
    /// A random network, quantised on a few images.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = Self {
            images: manifest.join("../../testdata/fashion-mnist"),
            model: folder.path().join("net.slim"),
            folder,
        };
        let network = files.import("net.safetensors", "--random 3 --arch resnet8");
        let images = text(&files.images);
        let mut arguments = vec!["quantize", &network, "--images", images];
        arguments.extend(["--calibration-images", "16", "--bits", "W8A8"]);
        arguments.extend(["-o", text(&files.model)]);
        succeeds(&arguments);
        files
    }

    fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name)).to_owned()
    }

    fn import(&self, name: &str, what: &str) -> String {
        let path = self.path(name);
        let mut arguments = vec!["import", "--classes", "10", "--input", "28", "-o", &path];
        arguments.extend(what.split(' '));
        succeeds(&arguments);
        path
    }

    fn compare(&self, reference: &str, more: &[&str]) -> Output {
        let [model, images] = [&self.model, &self.images].map(|path| text(path));
        let mut arguments = vec!["compare", reference, model, "--images", images];
        arguments.extend(["--limit", "6"]);
        arguments.extend(more);
        run(&arguments)
    }

    fn json(&self, reference: &str) -> Value {
        let output = self.compare(reference, &["--json"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        json(&String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn a_file_stays_with_its_network_and_parts_from_others() {
    let files = Files::new();
    let network = files.path("net.safetensors");
    let same = files.json(&network);
    assert_eq!(same["finding"], Value::Null, "{same:#}");
    assert_eq!(same["images"], 6);

    // The same network with its batch-norms folded, and other names.
    let onnx = files.path("net.onnx");
    succeeds(&["export", &network, "--onnx", &onnx]);
    let folded = files.json(&onnx);
    assert_eq!(folded["finding"], Value::Null, "{folded:#}");
    let stages = |report: &Value| report["stages"].as_array().unwrap().len();
    assert_eq!(stages(&folded), stages(&same));

    let constants = "--random 3 --arch resnet8 --mean 0.1,0.1,0.1 --std 0.5,0.5,0.5";
    let other = files.json(&files.import("mean.safetensors", constants));
    assert_eq!(other["finding"]["cause"], "preprocessing");
    assert_eq!(other["finding"]["stage"], "input");
    let detail = other["finding"]["detail"].as_str().unwrap();
    assert!(detail.contains("deviation 0.50"), "{detail}");

    let random = files.import("other.safetensors", "--random 4 --arch resnet8");
    assert_eq!(files.json(&random)["finding"]["cause"], "weights");
    let table = String::from_utf8(files.compare(&random, &[]).stdout).unwrap();
    assert!(
        table.contains("the networks diverge at `stem.act`"),
        "{table}"
    );

    let deeper = files.import("deep.safetensors", "--random 3 --arch resnet20");
    for (output, part) in [
        (
            files.compare(&network, &["--fail-below", "200"]),
            "below 200",
        ),
        (files.compare(&network, &["--point", "1x W4A4"]), "1x W4A4"),
        (
            files.compare(&network, &["--point", "0.5x W8A8"]),
            "compare a 1x point",
        ),
        (files.compare(&deeper, &[]), "where the .slim file has"),
    ] {
        assert_eq!(output.status.code(), Some(1), "{part}");
        let error = message(&output, &[part]);
        assert!(error.contains(part), "{error}");
    }
}
