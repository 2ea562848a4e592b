//! Where the codes of a grid lie, and what the largest of them stands for.

use std::collections::{BTreeMap, BTreeSet};

use slimbit_num::WeightGrid;

use super::rounding::Lattice;

/// Magnitudes tried for the largest code of a channel, in hundredths of its largest weight.
const MAGNITUDES: std::ops::RangeInclusive<u32> = 40..=112;

/// Place of a code among those of its bit-width.
pub(super) fn index(grid: WeightGrid, code: i8, bits: u8) -> i32 {
    match grid.is_odd_at(bits) {
        true => (i32::from(code) - 1) / 2,
        false => code.into(),
    }
}

pub(super) fn lattice(grid: WeightGrid, max_abs: f32, bits: u8) -> Lattice {
    let scale = f64::from(grid.scale(max_abs, bits));
    match grid.is_odd_at(bits) {
        true => Lattice {
            step: 2.0 * scale,
            offset: 0.5,
        },
        false => Lattice {
            step: scale,
            offset: 0.0,
        },
    }
}

/// The first and the last 8-bit code of each code of `bits`.
pub(super) fn ends(grid: WeightGrid, bits: u8) -> BTreeMap<i32, [i8; 2]> {
    let mut ends: BTreeMap<i32, [i8; 2]> = BTreeMap::new();
    for code in i8::MIN..=i8::MAX {
        let own = ends
            .entry(grid.narrow(code, bits).into())
            .or_insert([code; 2]);
        own[1] = code;
    }
    ends
}

pub(super) fn largest(row: &[f64]) -> f32 {
    row.iter().fold(0.0, |max: f64, w| max.max(w.abs())) as f32
}

/// OMSE over the magnitude of the largest code, each squared error weighted by its `importance`, or
/// all alike.
pub(super) fn squared_error(
    row: &[f64],
    importance: Option<&[f64]>,
    grid: WeightGrid,
    max_abs: f32,
    bits: u8,
) -> f64 {
    let lattice = lattice(grid, max_abs, bits);
    // The first and the last index, where odd codes end one step earlier than their lattice.
    let half = 1 << (bits - 1);
    let square = |w: f64| {
        let error = w - lattice.value(lattice.nearest(w, [-half, half - 1]));
        error * error
    };
    match importance {
        Some(importance) => {
            let pairs = row.iter().zip(importance);
            pairs.map(|(&w, importance)| square(w) * importance).sum()
        }
        None => row.iter().map(|&w| square(w)).sum(),
    }
}

/// One magnitude for all bit-widths: the least product of their squared errors, so that no bit-width
/// counts for more because its steps are wider.
pub(super) fn shared_magnitude(row: &[f64], grid: WeightGrid, bits: &BTreeSet<u8>) -> f32 {
    best_magnitude(row, |magnitude| {
        let errors = bits
            .iter()
            .map(|&bits| squared_error(row, None, grid, magnitude, bits).max(f64::MIN_POSITIVE));
        errors.map(f64::ln).sum()
    })
}

pub(super) fn best_magnitude(row: &[f64], error: impl Fn(f32) -> f64) -> f32 {
    let largest = largest(row);
    let mut best = (f64::INFINITY, largest);
    for hundredths in MAGNITUDES {
        let magnitude = largest * hundredths as f32 / 100.0;
        let error = error(magnitude);
        if error < best.0 {
            best = (error, magnitude);
        }
    }
    best.1
}
