//! Slimbit: one network, trained once without labels, deployed at any width and any bit-width, on
//! integers only, from one file.
//!
//! This crate joins the workspace's libraries under one name and holds the command line. A device
//! that only runs models needs no more than [`engine`].
#![forbid(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub use slimbit_data as data;
pub use slimbit_engine as engine;
pub use slimbit_graph as graph;
pub use slimbit_interchange as interchange;
pub use slimbit_kernels as kernels;
pub use slimbit_nn as nn;
pub use slimbit_num as num;
pub use slimbit_quant as quant;
pub use slimbit_train as train;

pub mod cli;
pub mod commands;
pub mod console;
pub mod machine;
pub mod page;
pub mod report;
pub mod results;
pub mod table;
pub mod version;
