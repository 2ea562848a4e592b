//! The order in which nodes can be computed. The standard asks for files in that order, and some
//! are not.

use std::collections::{BTreeMap, BTreeSet};

use crate::ImportError;
use crate::onnx::proto::NodeProto;

use super::refusal::quoted;

/// Indices of all nodes, each after those that it reads from, and otherwise as in the file. `given`
/// are the values that no node writes.
///
/// # Errors
/// [`ImportError::Damaged`] for nodes that read one another's results in a circle.
pub(super) fn execution_order(
    nodes: &[NodeProto],
    given: impl Fn(&str) -> bool,
) -> Result<Vec<usize>, ImportError> {
    let mut writers: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            writers.entry(output).or_insert(index);
        }
    }
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let written = node.input.iter().filter(|name| !given(name));
        for &writer in written.filter_map(|name| writers.get(name.as_str())) {
            readers[writer].push(index);
            missing[index] += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&i| missing[i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &reader in &readers[index] {
            missing[reader] -= 1;
            if missing[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    match missing.iter().position(|&count| count > 0) {
        Some(index) => {
            let node = &nodes[index];
            let name = node.output.first().unwrap_or(&node.name);
            let at = format!("node {}", quoted(name));
            Err(ImportError::damaged(at, "depends on its own result"))
        }
        None => Ok(order),
    }
}
