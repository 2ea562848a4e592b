//! What a float pass takes, before it is begun.

use anyhow::{Result, ensure};
use slimbit_graph::{Graph, Op, Width};

/// Refuses a network whose activations, for `images` at a time, take more than `limit` MiB.
pub(super) fn check(graph: &Graph, images: usize, limit: usize) -> Result<()> {
    let mebibytes = (peak(graph)? * images as u128 * 4).div_ceil(1 << 20);
    ensure!(
        mebibytes <= limit as u128,
        "the activations of {images} images take {mebibytes} MiB, over the limit of {limit} MiB; use \
         smaller images (--input) or raise the limit (--memory)"
    );
    Ok(())
}

/// Most elements that are alive at once for one image: the operands and the result of a node, what
/// later nodes still read, and a convolution's operand with its border.
fn peak(graph: &Graph) -> Result<u128> {
    let shapes = graph.shapes(Width::FULL)?;
    let elements = |channels: usize, height: usize, width: usize| {
        channels as u128 * height as u128 * width as u128
    };
    let sizes: Vec<u128> = shapes
        .iter()
        .map(|shape| {
            let (height, width) = shape.spatial();
            elements(shape.channels(), height, width)
        })
        .collect();
    let mut last_use: Vec<usize> = (0..sizes.len()).collect();
    for (index, node) in graph.nodes().iter().enumerate() {
        for input in &node.inputs {
            last_use[input.index()] = index;
        }
    }
    for (_, id) in graph.outputs() {
        last_use[id.index()] = usize::MAX;
    }
    let (mut alive, mut peak) = (0, 0);
    for (index, node) in graph.nodes().iter().enumerate() {
        alive += sizes[index];
        let bordered = match &node.op {
            Op::Conv2d(conv) => {
                let shape = shapes[node.inputs[0].index()];
                let (height, width) = shape.spatial();
                let [top, left, bottom, right] = conv.padding;
                elements(
                    shape.channels(),
                    height + top + bottom,
                    width + left + right,
                )
            }
            _ => 0,
        };
        peak = peak.max(alive + bordered);
        let mut inputs = node.inputs.clone();
        inputs.sort_unstable();
        inputs.dedup();
        for input in inputs {
            if last_use[input.index()] == index {
                alive -= sizes[input.index()];
            }
        }
        if last_use[index] == index {
            alive -= sizes[index];
        }
    }
    Ok(peak)
}

#[cfg(test)]
mod tests {
    use slimbit_graph::{Channels, GraphBuilder};

    use super::*;

    #[test]
    fn the_largest_moment_counts() {
        let mut b = GraphBuilder::new("pair");
        let x = b.input(3, 8, 8);
        let x = b.conv_bn_relu("wide", x, Channels::Fixed(16), 3, 1);
        let x = b.global_avg_pool("pool", x);
        let graph = b.finish(&[("features", x)]).unwrap();
        // At the convolution, the image, the image with its border, and the result; then two maps.
        assert_eq!(peak(&graph).unwrap(), 2 * 16 * 64);
        assert!(check(&graph, 4, 1).is_ok());
        let error = check(&graph, 4096, 1).unwrap_err().to_string();
        assert!(
            error.contains("32 MiB") && error.contains("--memory"),
            "{error}"
        );
    }
}
