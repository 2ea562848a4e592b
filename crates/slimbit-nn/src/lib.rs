//! The graph on Burn: parameters, float and fake-quantised forward, fast CPU operators with their gradients.
#![forbid(unsafe_code)]

mod deployed;
mod device;
mod diagnostics;
mod ema;
mod error;
mod forward;
mod group_reg;
mod heads;
mod init;
pub mod losses;
mod mode;
mod net;
mod observer;
pub mod ops;
mod optim;
mod params;
mod value;

pub use deployed::StageCodes;
pub use device::parse_device;
pub use diagnostics::{effective_rank, feature_std};
pub use ema::ema_update;
pub use error::NnError;
pub use group_reg::GroupReg;
pub use heads::{Head, HeadSpec};
pub use init::Init;
pub use mode::{Bits, Mode, NormMode, Quantisation};
pub use net::Net;
pub use observer::{Averaging, Observer};
pub use optim::{Penalty, Sgd};
pub use params::{ParamStore, WeightRounding};
pub use value::{Outputs, Value};
