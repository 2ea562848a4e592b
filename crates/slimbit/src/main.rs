//! The Slimbit command line.
#![forbid(unsafe_code)]

fn main() {}
