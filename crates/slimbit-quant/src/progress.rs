use slimbit_graph::Point;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Measuring a point; the unit is one batch through the network.
    Calibrate,
    /// Rounding weights and correcting outputs; the unit is a million multiplications, by estimate, so
    /// that a layer which takes long makes up as much of the whole.
    Reconstruct,
    /// Solving for integers; the unit is one stage at one point, in no particular order.
    Lower,
}

/// How far a task has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The task.
    pub task: Task,
    /// The point at work; the first of its width while passes are shared.
    pub point: Point,
    /// The stage at work or just finished; empty while measuring.
    pub stage: &'a str,
    /// Units finished.
    pub done: usize,
    /// Units in all.
    pub total: usize,
}
