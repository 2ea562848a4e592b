use std::fmt;

use slimbit_engine::EngineError;
use slimbit_graph::{GraphError, Point};
use slimbit_nn::NnError;
use slimbit_num::{AccumulatorOverflow, SolveError};

/// Why a network could not be calibrated, lowered or compared.
#[derive(Debug)]
#[non_exhaustive]
pub enum QuantError {
    /// The graph or its parameters.
    Graph(GraphError),
    /// Means or deviations that say nothing about this network's pixels.
    Normalisation(String),
    /// Calibration images that do not fit the network, or none at all.
    Images(String),
    /// Nothing to quantise to.
    NoPoints,
    /// Values of a stage of the float network that are infinite or not a number.
    NotFinite {
        /// The stage.
        stage: String,
        /// How many.
        values: u64,
    },
    /// A point without usable statistics.
    Statistics {
        /// The point.
        point: Point,
        /// The stage or batch-norm node.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// No integer form equals the rescaling of a stage.
    Unsolved {
        /// The point.
        point: Point,
        /// The stage.
        stage: String,
        /// The output channel, where the stage has one rescaling per channel.
        channel: Option<usize>,
        /// Why.
        source: SolveError,
    },
    /// A channel's sum could leave 32 bits.
    Overflow {
        /// The point.
        point: Point,
        /// The stage.
        stage: String,
        /// The output channel.
        channel: usize,
        /// How far it reaches.
        source: AccumulatorOverflow,
    },
    /// Two networks that are not the same, stage by stage: the first stages that differ, with their
    /// operators and shapes. One of them may have none left.
    Structure {
        /// The model's stage.
        model: Option<String>,
        /// The reference's.
        reference: Option<String>,
    },
    /// The float network could not be run.
    Network(NnError),
    /// The engine refuses the result.
    Engine(EngineError),
}

impl fmt::Display for QuantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(error) => write!(f, "network: {error}"),
            Self::Normalisation(what) => write!(f, "normalisation of the pixels: {what}"),
            Self::Images(what) => write!(f, "calibration images: {what}"),
            Self::NoPoints => f.write_str("no points were asked for; name at least one"),
            Self::NotFinite { stage, values } => write!(
                f,
                "the float network gives {values} infinite or undefined {} at stage `{stage}` on the \
                 calibration images; its weights, its batch-norm statistics or the normalisation of \
                 its input are broken",
                if *values == 1 { "value" } else { "values" }
            ),
            Self::Statistics { point, name, what } => {
                write!(
                    f,
                    "statistics of `{name}` at {point}: {what}; calibrate this point again"
                )
            }
            Self::Unsolved {
                point,
                stage,
                channel: Some(channel),
                source,
            } => {
                write!(
                    f,
                    "stage `{stage}`, channel {channel}, at {point}: {source}"
                )
            }
            Self::Unsolved {
                point,
                stage,
                channel: None,
                source,
            } => {
                write!(f, "stage `{stage}` at {point}: {source}")
            }
            Self::Overflow {
                point,
                stage,
                channel,
                source,
            } => {
                write!(
                    f,
                    "stage `{stage}`, channel {channel}, at {point}: {source}"
                )
            }
            Self::Structure { model, reference } => {
                let name = |stage: &Option<String>| stage.clone().unwrap_or("nothing".into());
                write!(
                    f,
                    "the networks differ: where the .slim file has {}, the reference has {}; compare \
                     a file with the network that it was made of",
                    name(model),
                    name(reference)
                )
            }
            Self::Network(error) => write!(f, "float network: {error}"),
            Self::Engine(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for QuantError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Graph(error) => Some(error),
            Self::Unsolved { source, .. } => Some(source),
            Self::Overflow { source, .. } => Some(source),
            Self::Network(error) => Some(error),
            Self::Engine(error) => Some(error),
            Self::Normalisation(_)
            | Self::Images(_)
            | Self::NoPoints
            | Self::NotFinite { .. }
            | Self::Structure { .. }
            | Self::Statistics { .. } => None,
        }
    }
}

impl From<GraphError> for QuantError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<NnError> for QuantError {
    fn from(error: NnError) -> Self {
        Self::Network(error)
    }
}

impl From<EngineError> for QuantError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
