//! Exact multipliers, each problem solved once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use slimbit_engine::AddTruth;
use slimbit_num::{AddRequant, Affine, Clip, Interval, Requant, SolveError, solve, solve_add};

/// Stages that do not depend on a point's bits (the stem) pose the same problems at many points.
#[derive(Default)]
pub(crate) struct Solver {
    lines: Cache<(u32, u64, Interval, Clip), Requant>,
    sums: Cache<(u32, u32, u64, [Clip; 3]), AddRequant>,
}

type Cache<P, S> = Mutex<HashMap<P, S>>;

impl Solver {
    /// The integers that equal `clip(floor(a·x + b + 1/2))` on all of `domain`.
    pub(crate) fn line(
        &self,
        a: f32,
        b: f64,
        domain: Interval,
        clip: Clip,
    ) -> Result<Requant, SolveError> {
        once(
            &self.lines,
            (a.to_bits(), b.to_bits(), domain, clip),
            || Ok(solve(&Affine::from_floats(a, b)?, domain, clip)?.requant),
        )
    }

    /// The integers that equal a sum on every pair of operand codes.
    pub(crate) fn sum(
        &self,
        truth: AddTruth,
        operands: [Clip; 2],
        clip: Clip,
    ) -> Result<AddRequant, SolveError> {
        let AddTruth { a, b, c } = truth;
        let clips = [operands[0], operands[1], clip];
        once(
            &self.sums,
            (a.to_bits(), b.to_bits(), c.to_bits(), clips),
            || solve_add(&truth.affine()?, operands[0], operands[1], clip),
        )
    }
}

/// Two threads may solve the same problem at the same time; both find the same answer, and neither
/// waits for the other.
fn once<P: Eq + Hash, S: Copy>(
    cache: &Cache<P, S>,
    problem: P,
    solve: impl FnOnce() -> Result<S, SolveError>,
) -> Result<S, SolveError> {
    let known = || cache.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known().get(&problem).copied();
    if let Some(solution) = found {
        return Ok(solution);
    }
    let solution = solve()?;
    known().insert(problem, solution);
    Ok(solution)
}
