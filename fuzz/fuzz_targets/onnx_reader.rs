//! Arbitrary bytes as an ONNX file, with elements in other files of its corpus: an error or a
//! network that can be written, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use slimbit_interchange::onnx::{FloatOptions, export_float, import_in};

fuzz_target!(|data: &[u8]| {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/onnx_reader"));
    if let Ok(imported) = import_in(folder, data, Some([8, 8])) {
        export_float(&imported.network, FloatOptions::default()).expect("what was read is whole");
    }
});
