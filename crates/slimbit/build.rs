//! Tells `slimbit --version` which commit it is built from; without git, or outside a checkout, it is unknown.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Some(top) = git(&workspace, &["rev-parse", "--show-toplevel"]) else {
        return;
    };
    // Sources that were unpacked inside another repository are not that repository's.
    let same = |a: &Path, b: &Path| a.canonicalize().ok() == b.canonicalize().ok();
    if !same(Path::new(&top), &workspace) {
        return;
    }
    // What changes when another commit is checked out, or a commit is added to the branch.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&workspace, &["rev-parse", "--git-path", name]);
        if let Some(path) = path.map(|path| workspace.join(path)) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    let format = ["log", "-1", "--format=%h (%cs)", "--abbrev=12"];
    if let Some(commit) = git(&workspace, &format) {
        println!("cargo:rustc-env=SLIMBIT_COMMIT={commit}");
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    let output = command
        .arg("-C")
        .arg(folder)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
