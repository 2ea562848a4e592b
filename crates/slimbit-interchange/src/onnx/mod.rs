//! ONNX files, read and written without a protobuf compiler.
//!
//! [`export_float`] writes a float [`Network`](crate::Network), [`export_qdq`] one point of a
//! `.slim` model in the quantise-dequantise form that ONNX Runtime and OpenVINO execute in 8 bits,
//! and [`import`] reads what other tools exported.

mod float;
mod import;
mod proto;
mod qdq;
mod wire;
mod writer;

pub use float::{FloatOptions, export_float};
pub use import::{
    Normalisation, OnnxImport, OnnxOutput, QUANTISERS, UnsupportedNode, import, import_in,
    with_outputs,
};
pub use qdq::{QdqExport, QdqOptions, export_qdq};
