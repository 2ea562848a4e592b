use std::fmt;

use serde::{Deserialize, Serialize};

/// The shape of one tensor of one image (the batch dimension is the interpreter's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// A feature map.
    Map {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A vector of features.
    Vector {
        /// Channels.
        channels: usize,
    },
}

impl Shape {
    /// The channel dimension.
    pub fn channels(self) -> usize {
        match self {
            Self::Map { channels, .. } | Self::Vector { channels } => channels,
        }
    }

    /// Rows and columns; `(1, 1)` for a vector.
    pub fn spatial(self) -> (usize, usize) {
        match self {
            Self::Map { height, width, .. } => (height, width),
            Self::Vector { .. } => (1, 1),
        }
    }

    /// Number of elements.
    pub fn elements(self) -> usize {
        let (h, w) = self.spatial();
        self.channels() * h * w
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map {
                channels,
                height,
                width,
            } => write!(f, "[{channels}, {height}, {width}]"),
            Self::Vector { channels } => write!(f, "[{channels}]"),
        }
    }
}
