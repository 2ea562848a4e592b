//! The numeric contract: quantisers, exact fixed-point requantisation and tables, as pure integer functions.
#![forbid(unsafe_code)]
