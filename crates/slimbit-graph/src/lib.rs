//! Network descriptions: operators, shapes, slim dimensions, the builder and the backbones.
//!
//! A [`Graph`] is data. Three interpreters walk the same graph: training (float and
//! fake-quantised), the integer reference, and the SIMD engine. The graph therefore also decides
//! *what is one quantised operation*: [`Graph::stages`] groups its nodes (convolution, batch-norm,
//! activation) into [`Stage`]s, each with one output tensor and one [`Precision`], and all three
//! interpreters execute stages.
//!
//! ```
//! use slimbit_graph::{Channels, GraphBuilder, Width};
//!
//! let mut b = GraphBuilder::new("tiny");
//! let x = b.input(3, 32, 32);
//! let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
//! let x = b.global_avg_pool("pool", x);
//! let graph = b.finish(&[("features", x)])?;
//! assert_eq!(graph.output_shape("features", Width::FULL)?.channels(), 16);
//! assert_eq!(graph.output_shape("features", Width::new(0.25)?)?.channels(), 8);
//! # Ok::<(), slimbit_graph::GraphError>(())
//! ```
#![forbid(unsafe_code)]

pub mod backbones;
mod builder;
mod classes;
mod cost;
mod error;
mod graph;
mod op;
mod params;
mod point;
mod shape;
mod stages;
mod statistics;
mod width;

pub use builder::GraphBuilder;
pub use classes::{ClassNames, LOGITS};
pub use cost::Cost;
pub use error::GraphError;
pub use graph::{Graph, Node, NodeId};
pub use op::{Activation, Conv2d, Groups, Linear, Op, Pool};
pub use params::{Array, ParamSpec, Params};
pub use point::Point;
pub use shape::Shape;
pub use stages::{Precision, Stage, StageId, StageKind};
pub use statistics::{PointStatistics, Range};
pub use width::{Channels, Width, round8};
