use std::fmt;

use slimbit_graph::GraphError;

/// What can be wrong with a request made of a network, a head or an optimiser.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum NnError {
    /// The graph, its parameters or the width.
    Graph(GraphError),
    /// A parameter that is not there, or is asked for in a shape that it does not contain.
    Param {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor of another shape than the network takes.
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// What was wanted.
        wanted: String,
    },
    /// Statistics that the mode needs and that were not given.
    Statistics {
        /// The stage or batch-norm node.
        name: String,
        /// What is wrong with them.
        what: String,
    },
    /// Bit-widths that no quantiser has.
    Bits {
        /// Weight bits.
        weight: u8,
        /// Activation bits.
        act: u8,
    },
    /// Two settings of a mode that exclude each other.
    Mode(&'static str),
    /// Bytes that hold no state of these parameters.
    State {
        /// Bytes found.
        got: usize,
        /// Bytes wanted.
        wanted: usize,
    },
    /// Text that names no device, or one that is not there.
    Device {
        /// The text.
        name: String,
        /// What is wrong with it, and the remedy.
        what: String,
    },
}

impl fmt::Display for NnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph(error) => error.fmt(f),
            Self::Param { name, what } => write!(f, "parameter `{name}`: {what}"),
            Self::Shape {
                tensor,
                got,
                wanted,
            } => write!(f, "{tensor} has shape {got:?}, wanted {wanted}"),
            Self::Statistics { name, what } => {
                write!(
                    f,
                    "statistics of `{name}` {what}; calibrate this point first"
                )
            }
            Self::Bits { weight, act } => write!(
                f,
                "W{weight}A{act}: fake quantisation takes 2 to 8 weight bits and 1 to 8 activation bits, or 0 for none"
            ),
            Self::Mode(what) => f.write_str(what),
            Self::State { got, wanted } => write!(
                f,
                "state of {got} bytes, wanted {wanted}: it was saved for other parameters, or is cut short"
            ),
            Self::Device { name, what } => write!(f, "device `{name}`: {what}"),
        }
    }
}

impl std::error::Error for NnError {}

impl From<GraphError> for NnError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}
