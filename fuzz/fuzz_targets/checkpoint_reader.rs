//! Arbitrary bytes as a checkpoint of safetensors or PyTorch, and what they hold as a network: an
//! error or tensors that are whole, never a panic and never code that runs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::names;

fuzz_target!(|data: &[u8]| {
    let Ok(tensors) = Tensors::from_bytes(data) else {
        return;
    };
    for array in tensors.floats.values() {
        assert_eq!(array.shape.iter().product::<usize>(), array.data.len());
    }
    if let Ok(name) = names::guess(&tensors) {
        let _ = names::import(&tensors, &name, [32; 2]);
    }
});
