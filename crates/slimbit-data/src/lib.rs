//! Images: datasets, decoding, augmentation and deterministic loading.
#![forbid(unsafe_code)]
