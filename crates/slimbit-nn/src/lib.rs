//! The graph on Burn: parameters, float and fake-quantised forward, fast CPU operators with their
//! gradients.
//!
//! A [`Net`] is a graph and a [`ParamStore`] of full-width parameters; a [`Mode`] chooses which of
//! the networks inside it runs: the width, what is rounded, and where batch-norm statistics come
//! from. Around it are what self-supervised training needs: projection and prediction [`Head`]s,
//! [`losses`], [`Sgd`] in the papers' exact recurrence, [`GroupReg`], and a momentum teacher
//! ([`Net::teacher`], [`ema_update`]).
//!
//! ```
//! use slimbit_graph::{Channels, GraphBuilder, Width};
//! use slimbit_nn::{Averaging, Mode, Net, Observer, parse_device};
//!
//! let mut b = GraphBuilder::new("tiny");
//! let x = b.input(1, 8, 8);
//! let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
//! let x = b.global_avg_pool("pool", x);
//! let net = Net::init(b.finish(&[("features", x)])?, 1, &parse_device("cpu")?)?;
//!
//! let images = burn::Tensor::ones([2, 1, 8, 8], net.store().device());
//! let mut observer = Observer::new(Averaging::Cumulative);
//! let narrow = Mode::float(Width::new(0.5)?);
//! let features = net.forward(&images, &narrow, Some(&mut observer))?.vector("features")?;
//! assert_eq!(features.dims(), [2, 8]);
//! assert_eq!(observer.norms()["stem.bn"].0.len(), 8);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
mod loss_scale;
pub mod losses;
mod map_projector;
mod mode;
mod net;
mod observer;
pub mod ops;
mod optim;
mod params;
mod recompute;
mod stagewise;
mod value;

pub use deployed::StageCodes;
pub use device::{describe_device, has_half_floats, parse_device};
pub use diagnostics::{effective_rank, feature_std};
pub use ema::ema_update;
pub use error::NnError;
pub use group_reg::GroupReg;
pub use heads::{Head, HeadSpec};
pub use init::Init;
pub use map_projector::MapProjector;
pub use mode::{Bits, Mode, NormMode, Quantisation};
pub use net::Net;
pub use observer::{Averaging, Observer};
pub use optim::{Penalty, Sgd};
pub use params::{ParamStore, WeightRounding};
pub use recompute::Recomputed;
pub use value::{Outputs, Value};
