use slimbit_graph::{Precision, Stage, StageKind};

use crate::layout::Layout;

/// Which [`Arithmetic`](crate::Arithmetic) a stage has, and how many rows of tables that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Input,
    /// One rescaling per output channel.
    Channels(usize),
    Add,
    Pool,
    /// One table per operand.
    Tables(usize),
    Copy,
}

impl Form {
    pub(crate) fn of(stage: &Stage, output: Layout) -> Self {
        match stage.kind {
            StageKind::Input => Self::Input,
            StageKind::Conv { .. } | StageKind::Linear { .. } => Self::Channels(output.channels),
            StageKind::Add => Self::Add,
            StageKind::Concat => Self::Tables(stage.inputs.len()),
            StageKind::Pointwise => Self::Tables(1),
            StageKind::GlobalAvgPool if stage.precision == Precision::Wide => Self::Copy,
            StageKind::AvgPool(_) | StageKind::GlobalAvgPool => Self::Pool,
            StageKind::MaxPool(_) | StageKind::PadShortcut(_) | StageKind::Flatten => Self::Copy,
        }
    }

    /// Rescalings of accumulators.
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Channels(n) => n,
            Self::Pool => 1,
            _ => 0,
        }
    }

    /// Tables of 256 codes.
    pub(crate) fn tables(self) -> usize {
        match self {
            Self::Tables(n) => n,
            _ => 0,
        }
    }
}
