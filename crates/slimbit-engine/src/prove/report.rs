//! What a proof says it has proven.

use std::fmt;

use slimbit_graph::Point;
use slimbit_num::Interval;

use crate::ChannelRequant;

/// What was proven, point by point.
#[derive(Clone, Debug, PartialEq)]
pub struct ProofReport {
    /// One entry per point of the model.
    pub points: Vec<PointProof>,
}

/// What was proven of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct PointProof {
    /// The point.
    pub point: Point,
    /// One entry per stage.
    pub stages: Vec<StageProof>,
}

/// What was proven of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageProof {
    /// The stage.
    pub name: String,
    /// What it executes, in a formula.
    pub arithmetic: &'static str,
    /// Rescalings proven equal to their real map on every value that their accumulator can take.
    pub channels: usize,
    /// Every value that an accumulator of the stage can take, from the weights of this point.
    pub accumulator: Option<Interval>,
    /// Bits of the largest multiplier, its sign not counted.
    pub multiplier_bits: u32,
    /// The smallest and the largest shift.
    pub shifts: Option<(u8, u8)>,
    /// Tables equal, entry by entry, to the real function between their quantisers.
    pub tables: usize,
    /// Operations on floats between the operands and the output: none, because no variant of
    /// [`Arithmetic`](crate::Arithmetic) has one. The match that fills in `arithmetic` names all of them.
    pub float_operations: usize,
}

impl ProofReport {
    /// Rescalings proven, over all points and stages.
    pub fn channels(&self) -> usize {
        self.stages().map(|stage| stage.channels).sum()
    }

    /// Operations on floats, over all points and stages.
    pub fn float_operations(&self) -> usize {
        self.stages().map(|stage| stage.float_operations).sum()
    }

    fn stages(&self) -> impl Iterator<Item = &StageProof> {
        self.points.iter().flat_map(|point| &point.stages)
    }
}

impl fmt::Display for ProofReport {
    /// A line per stage.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for point in &self.points {
            writeln!(f, "{}", point.point)?;
            for stage in &point.stages {
                writeln!(f, "  {stage}")?;
            }
        }
        write!(
            f,
            "{} rescalings proven, {} float operations",
            self.channels(),
            self.float_operations()
        )
    }
}

impl fmt::Display for StageProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {:<34}", self.name, self.arithmetic)?;
        if let Some(Interval { lo, hi }) = self.accumulator {
            write!(f, " acc [{lo}, {hi}]")?;
        }
        if let Some((least, most)) = self.shifts {
            write!(f, " m {} bits, k {least}..={most}", self.multiplier_bits)?;
        }
        if self.channels > 0 {
            write!(f, ", {} proven", self.channels)?;
        }
        if self.tables > 0 {
            write!(f, " {} tables equal", self.tables)?;
        }
        Ok(())
    }
}

impl StageProof {
    pub(super) fn rescale(&mut self, rows: &[ChannelRequant]) {
        self.channels = rows.len();
        self.accumulator = Some(Interval {
            lo: rows.iter().map(|row| row.acc.lo).min().unwrap_or(0),
            hi: rows.iter().map(|row| row.acc.hi).max().unwrap_or(0),
        });
        let largest = rows
            .iter()
            .map(|row| row.requant.m.unsigned_abs())
            .max()
            .unwrap_or(0);
        self.multiplier_bits = u32::BITS - largest.leading_zeros();
        let shifts = || rows.iter().map(|row| row.requant.k);
        self.shifts = shifts().min().zip(shifts().max());
    }
}
