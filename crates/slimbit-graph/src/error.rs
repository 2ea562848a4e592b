use std::fmt;

use crate::Shape;

/// What can be wrong with a graph, its parameters, or a request made of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GraphError {
    /// Two operands of a node do not fit together.
    ShapeMismatch {
        /// The node at fault.
        node: String,
        /// Its operator.
        op: &'static str,
        /// Shape of the first operand.
        left: Shape,
        /// Shape of the offending operand.
        right: Shape,
    },
    /// A node's operand has a shape that its operator cannot take.
    Operand {
        /// The node at fault.
        node: String,
        /// Its operator.
        op: &'static str,
        /// Shape of the operand.
        shape: Shape,
        /// What the operator wanted.
        wanted: String,
    },
    /// A node has the wrong number of operands, or one that does not precede it.
    Wiring {
        /// The node at fault.
        node: String,
        /// What is wrong.
        what: String,
    },
    /// A name is used twice, or is not there.
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A parameter is missing, unexpected, or of another shape than its node needs.
    Param {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A width multiplier outside `(0, 1]`.
    Width(String),
    /// A bit-width outside 2..=8.
    Bits {
        /// Requested weight bits.
        weight_bits: u8,
        /// Requested activation bits.
        act_bits: u8,
    },
    /// Text that is not a point.
    Point(String),
    /// A graph that cannot be read from JSON.
    Json(String),
    /// Class names that cannot be those of a network.
    Classes(String),
    /// A backbone that is not known.
    Backbone {
        /// The name asked for.
        name: String,
        /// What there is instead.
        known: String,
    },
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShapeMismatch {
                node,
                op,
                left,
                right,
            } => {
                write!(
                    f,
                    "node `{node}` ({op}): operand shapes {left} and {right} do not fit"
                )
            }
            Self::Operand {
                node,
                op,
                shape,
                wanted,
            } => {
                write!(
                    f,
                    "node `{node}` ({op}): operand shape {shape}, wanted {wanted}"
                )
            }
            Self::Wiring { node, what } => write!(f, "node `{node}`: {what}"),
            Self::Name { name, what } => write!(f, "name `{name}` {what}"),
            Self::Param { name, what } => write!(f, "parameter `{name}`: {what}"),
            Self::Width(text) => {
                write!(
                    f,
                    "width `{text}` is not a number above 0 and at most 1 (such as 0.5x)"
                )
            }
            Self::Bits {
                weight_bits,
                act_bits,
            } => write!(
                f,
                "W{weight_bits}A{act_bits}: weights and activations take 2 to 8 bits"
            ),
            Self::Point(text) => {
                write!(
                    f,
                    "`{text}` is not a point; write width and bits as in `0.5x W4A8`"
                )
            }
            Self::Json(what) => write!(f, "graph description: {what}"),
            Self::Classes(what) => write!(f, "class names: {what}"),
            Self::Backbone { name, known } => {
                write!(f, "no backbone is called `{name}`; there are {known}")
            }
        }
    }
}

impl std::error::Error for GraphError {}
