//! Arbitrary bytes as a `.slim` file: an error or a consistent model, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimbit_engine::Model;

#[path = "../../crates/slimbit-engine/tests/engine/reseal.rs"]
mod reseal;

fuzz_target!(|data: &[u8]| {
    let _ = Model::from_bytes(data);
    // Behind the checksum lie all the other checks.
    let mut sealed = data.to_vec();
    reseal::reseal(&mut sealed);
    if let Ok(model) = Model::from_bytes(sealed) {
        let again = Model::from_bytes(model.to_bytes()).expect("a model writes what it reads");
        assert!(again == model);
    }
});
