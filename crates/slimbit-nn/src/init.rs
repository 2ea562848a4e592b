use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_graph::{Graph, Op, ParamSpec, Width};

use crate::NnError;

/// Initial distribution of convolution weights (spec section 1.4). Linear layers and biases are
/// `U(±1/√fan_in)`, batch-norms 1 and 0, whatever is chosen here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// `U(±1/√fan_in)`, PyTorch's default (Kaiming-uniform with `a = √5`): the CIFAR networks.
    #[default]
    KaimingUniform,
    /// `N(0, 2/fan_out)` with `fan_out = out · kernel rows · kernel columns`: the ImageNet networks
    /// and MobileNetV2.
    KaimingNormalFanOut,
}

/// The batch-norms that end the main branch of every residual block: the deeper operand of an
/// addition. With a scale of 0 a block begins as the identity (Goyal et al. 2017).
pub(crate) fn residual_ends(graph: &Graph) -> Vec<&str> {
    let nodes = graph.nodes();
    let mut depth = vec![0; nodes.len()];
    let mut ends = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let inputs = node.inputs.iter().map(|id| id.index());
        depth[index] = 1 + inputs.clone().map(|i| depth[i]).max().unwrap_or(0);
        if matches!(node.op, Op::Add)
            && let Some(deepest) = inputs.max_by_key(|&i| depth[i])
            && matches!(nodes[deepest].op, Op::BatchNorm { .. })
        {
            ends.push(nodes[deepest].name.as_str());
        }
    }
    ends
}

/// Full-width parameters of `graph`, in the order of their specifications.
pub(crate) fn graph_params(
    graph: &Graph,
    init: Init,
    seed: u64,
) -> Result<(Vec<ParamSpec>, Vec<Vec<f32>>), NnError> {
    let specs = graph.params(Width::FULL)?;
    let mut data = Vec::with_capacity(specs.len());
    let mut fan_in = 1;
    for spec in &specs {
        let (node, part) = spec.name.rsplit_once('.').unwrap_or((&spec.name, ""));
        let op = graph.nodes().iter().find(|n| n.name == node).map(|n| &n.op);
        let weight = part == "weight";
        if weight {
            fan_in = spec.shape[1..].iter().product();
        }
        data.push(match op {
            Some(Op::BatchNorm { .. }) => norm_param(spec, weight),
            Some(Op::Conv2d(_)) if weight && init == Init::KaimingNormalFanOut => {
                let fan_out = spec.shape[0] * spec.shape[2] * spec.shape[3];
                normal(spec, seed, (2.0 / fan_out as f64).sqrt())
            }
            _ => uniform(spec, seed, fan_in),
        });
    }
    Ok((specs, data))
}

/// 1 for gamma, 0 for beta.
pub(crate) fn norm_param(spec: &ParamSpec, gamma: bool) -> Vec<f32> {
    vec![f32::from(u8::from(gamma)); spec.shape[0]]
}

/// `U(±1/√fan_in)`.
pub(crate) fn uniform(spec: &ParamSpec, seed: u64, fan_in: usize) -> Vec<f32> {
    let bound = (1.0 / fan_in as f64).sqrt() as f32;
    let mut rng = stream(spec, seed);
    let draw = |_| (2.0 * rng.random::<f32>() - 1.0) * bound;
    (0..elements(spec)).map(draw).collect()
}

fn normal(spec: &ParamSpec, seed: u64, std: f64) -> Vec<f32> {
    let mut rng = stream(spec, seed);
    // Box and Muller's method, using one of its two results; 1 - u avoids the logarithm of zero.
    let draw = |_| {
        let (u, v): (f64, f64) = (rng.random(), rng.random());
        let radius = (-2.0 * (1.0 - u).ln()).sqrt();
        (std * radius * (std::f64::consts::TAU * v).cos()) as f32
    };
    (0..elements(spec)).map(draw).collect()
}

fn elements(spec: &ParamSpec) -> usize {
    spec.shape.iter().product()
}

/// A stream per parameter name: neither the order of the parameters nor the number of threads
/// changes a draw, and stores that share a seed do not share draws.
fn stream(spec: &ParamSpec, seed: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // FNV-1a.
    let hash = spec
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| {
            (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    rng.set_stream(hash);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[usize]) -> ParamSpec {
        ParamSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn draws_have_the_moments_of_their_distribution() {
        let spec = spec("a.weight", &[64, 32, 3, 3]);
        let moments = |v: &[f32]| {
            let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
            let square = v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / v.len() as f64;
            (mean, square)
        };
        let uniform = uniform(&spec, 1, 288);
        let (mean, square) = moments(&uniform);
        assert!(mean.abs() < 1e-3 && (square * 3.0 * 288.0 - 1.0).abs() < 0.02);
        assert!(uniform.iter().all(|x| x.abs() <= 1.0 / 288f32.sqrt()));
        let (mean, square) = moments(&normal(&spec, 1, 0.1));
        assert!(mean.abs() < 3e-3 && (square / 0.01 - 1.0).abs() < 0.05);
    }

    #[test]
    fn a_name_and_a_seed_fix_the_draw() {
        let draw = |name: &str, seed| uniform(&spec(name, &[4, 4]), seed, 4);
        assert_eq!(draw("a.weight", 1), draw("a.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("b.weight", 1));
        assert_ne!(draw("a.weight", 1), draw("a.weight", 2));
    }
}
