//! The Slimbit facade and command line.
#![forbid(unsafe_code)]
