//! The graph on Burn: parameters, float and fake-quantised forward, fast CPU operators with their gradients.
#![forbid(unsafe_code)]
