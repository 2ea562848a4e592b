//! Rust engines for ONNX behind the pipe that `benches/peers/run` speaks: `rust-peers MODEL
//! INPUT SHAPE THREADS rten|tract`, where the input holds floats, NCHW, little-endian.

#[path = "../../protocol.rs"]
mod protocol;
mod rten_engine;
mod tract_engine;

use protocol::{Arguments, Result};

fn main() {
    let arguments = Arguments::parse(std::env::args().skip(1));
    match arguments.as_ref().map(|arguments| arguments.which.as_str()) {
        Ok("tract") => protocol::serve(tract_engine::load, arguments),
        _ => protocol::serve(rten_engine::load, arguments),
    }
}

/// All batches of the input file.
fn batches(arguments: &Arguments) -> Result<Vec<Vec<f32>>> {
    let bytes = std::fs::read(&arguments.input)?;
    let values: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    Ok(values
        .chunks_exact(arguments.shape.iter().product())
        .map(<[f32]>::to_vec)
        .collect())
}

/// The version of a dependency, from the lock file that this was built with.
fn version(package: &str) -> &'static str {
    let name = format!("name = \"{package}\"\nversion = \"");
    let after = include_str!("../Cargo.lock").split(&name).nth(1);
    after
        .and_then(|text| text.split('"').next())
        .unwrap_or("unknown")
}
