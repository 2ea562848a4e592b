//! Calibration per point and lowering of a trained network to a .slim file.
#![forbid(unsafe_code)]
