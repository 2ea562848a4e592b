//! What a point weighs: the bytes that a device which runs only that point would store.

use anyhow::Result;
use slimbit_engine::{Arithmetic, Model, layouts, weight_bits, weight_shape};
use slimbit_graph::Point;

/// A multiplier (4), an addend (8) and a shift (1).
const RESCALING: u64 = 13;
/// Two multipliers, an addend and a shift.
const SUM: u64 = 17;
/// One table of codes.
const TABLE: u64 = 256;

/// A line per point: its name, its multiply-accumulates in millions, its parameters, its KiB.
pub(super) fn rows(model: &Model, points: &[Point]) -> Result<Vec<[String; 4]>> {
    let row = |&point: &Point| {
        let cost = model.graph().cost(point.width)?;
        Ok([
            point.to_string(),
            format!("{:.2}", cost.macs as f64 / 1e6),
            cost.params.to_string(),
            format!("{:.1}", point_bytes(model, point)? as f64 / 1024.0),
        ])
    };
    points.iter().map(row).collect()
}

/// Bytes of the point's weights, bit-packed at its bit-widths, and of its integer tables.
pub(super) fn point_bytes(model: &Model, point: Point) -> Result<u64> {
    let made = model.point(point)?;
    let layouts = layouts(model.graph(), model.stages(), point.width)?;
    let mut bits = 0;
    let mut bytes = 0;
    for (index, stage) in model.stages().iter().enumerate() {
        let operand = stage
            .inputs
            .first()
            .map_or(layouts[index], |&input| layouts[input]);
        if let Some(shape) = weight_shape(model.graph(), stage, operand, layouts[index]) {
            bits += shape.iter().product::<usize>() as u64 * u64::from(weight_bits(stage, point));
        }
        bytes += match &made.stages[index].arithmetic {
            Arithmetic::Channels { channels, .. } => RESCALING * channels.len() as u64,
            Arithmetic::Add { .. } => SUM,
            Arithmetic::Pool { .. } => RESCALING,
            Arithmetic::Tables(tables) => TABLE * tables.len() as u64,
            Arithmetic::Input => TABLE * model.input().tables.len() as u64,
            Arithmetic::Copy => 0,
        };
    }
    Ok(bytes + bits.div_ceil(8))
}
