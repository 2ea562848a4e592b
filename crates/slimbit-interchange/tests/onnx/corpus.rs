//! The seeds of the fuzzer, replayed without one.

use std::fs;
use std::path::PathBuf;

use slimbit_interchange::onnx::{FloatOptions, export_float, import, import_in};

use crate::damage::files;

/// Of the files that are damaged, the small ones.
const NAMES: [&str; 2] = ["float.onnx", "quantised.onnx"];

/// `SLIMBIT_BLESS=1 cargo test -p slimbit-interchange corpus` writes the seeds anew.
#[test]
fn the_fuzz_corpus_is_read_or_refused() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/onnx_reader");
    for (name, bytes) in NAMES.into_iter().zip(files()) {
        import(&bytes, None).unwrap();
        let path = folder.join(name);
        if std::env::var_os("SLIMBIT_BLESS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(
            fs::read(&path).unwrap() == bytes,
            "{}: written otherwise today",
            path.display()
        );
    }
    // Fuzzing adds files of its own.
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        if let Ok(imported) = import_in(&folder, &bytes, Some([8, 8])) {
            export_float(&imported.network, FloatOptions::default()).unwrap();
        }
    }
}
