//! Operators, shapes, slim dimensions, the network builder and the backbones.
#![forbid(unsafe_code)]
