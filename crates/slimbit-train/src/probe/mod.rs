//! How good features are, told with labels that training never saw.

mod features;
mod knn;
mod linear;
mod matrix;

pub use features::{Features, ProbeReport};
pub use knn::Knn;
pub use linear::LinearProbe;
