//! Arbitrary bytes as an ONNX file: an error or a network that can be written, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimbit_interchange::onnx::{FloatOptions, export_float, import};

fuzz_target!(|data: &[u8]| {
    if let Ok(imported) = import(data, Some([8, 8])) {
        export_float(&imported.network, FloatOptions::default()).expect("what was read is whole");
    }
});
