//! The crate's behaviour, in one binary: linking a tensor library takes longer than all of these tests.

mod collapse;
mod config_fuzz;
mod finetune;
mod frozen;
#[cfg(feature = "gpu")]
mod gpu;
mod longer;
mod methods;
mod resume;
mod step;
mod tiny;
