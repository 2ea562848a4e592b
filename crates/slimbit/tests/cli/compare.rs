//! `slimbit compare` as a user sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slimbit"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

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
        let images = files.images.to_str().unwrap();
        let mut arguments = vec!["quantize", &network, "--images", images];
        arguments.extend(["--calibration-images", "16", "--bits", "W8A8"]);
        arguments.extend(["-o", files.model.to_str().unwrap()]);
        succeeds(&arguments);
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn import(&self, name: &str, what: &str) -> String {
        let path = self.path(name);
        let mut arguments = vec!["import", "--classes", "10", "--input", "28", "-o", &path];
        arguments.extend(what.split(' '));
        succeeds(&arguments);
        path
    }

    fn compare(&self, reference: &str, more: &[&str]) -> Output {
        let [model, images] = [&self.model, &self.images].map(|path| path.to_str().unwrap());
        let mut arguments = vec!["compare", reference, model, "--images", images];
        arguments.extend(["--limit", "6"]);
        arguments.extend(more);
        run(&arguments)
    }

    fn json(&self, reference: &str) -> Value {
        let output = self.compare(reference, &["--json"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).unwrap()
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
    let text = String::from_utf8(files.compare(&random, &[]).stdout).unwrap();
    assert!(text.contains("the networks part at `stem.act`"), "{text}");

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
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(part), "{error}");
    }
}
