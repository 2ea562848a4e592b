use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_graph::{Channels, GraphBuilder, backbones};
use slimbit_interchange::onnx::{FloatOptions, QdqOptions, export_float, export_qdq, import};
use slimbit_num::WeightGrid;

use crate::{lowering, random_network};

/// A float file and a quantised one, small enough to damage often.
pub(crate) fn files() -> Vec<Vec<u8>> {
    let mut b = GraphBuilder::new("tiny");
    let x = b.input(3, 8, 8);
    let x = b.conv_bn_relu("stem", x, Channels::Fixed(4), 3, 2);
    let y = b.depthwise_bn("spread", x, 3, 1);
    let x = b.add("sum", x, y);
    let x = b.max_pool("pool", x, 3, 2, 1);
    let x = b.global_avg_pool("mean", x);
    let x = b.linear("fc", x, Channels::Fixed(3));
    let graph = b.finish(&[("logits", x)]).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let point = "1x W4A8".parse().unwrap();
    let model = lowering::lower(graph.clone(), WeightGrid::Nested, &[point], &mut rng);
    let options = FloatOptions {
        keep_norms: true,
        batch: None,
    };
    let shortcut = backbones::by_name("resnet8", 1, 8, 8, None).unwrap();
    vec![
        export_float(&random_network(graph, 2), options).unwrap(),
        export_qdq(&model, point, QdqOptions::default())
            .unwrap()
            .bytes,
        export_float(&random_network(shortcut, 3), options).unwrap(),
    ]
}

/// Damage of every kind gives an error or a network that can be written, never a panic.
#[test]
fn damaged_files_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(0x0dd);
    let (mut refused, mut read) = (0, 0);
    for file in files() {
        assert!(import(&file, None).is_ok());
        // Weights are most of a file; the structure around them is what can go wrong.
        let structure: Vec<usize> = (0..file.len())
            .filter(|&at| file[at.saturating_sub(8)..(at + 8).min(file.len())].is_ascii())
            .collect();
        for _ in 0..3_000 {
            let mut damaged = file.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = match structure.is_empty() || rng.random_bool(0.2) {
                    true => rng.random_range(0..damaged.len()),
                    false => structure[rng.random_range(0..structure.len())].min(damaged.len() - 1),
                };
                match rng.random_range(0..4) {
                    0 => damaged[at] ^= 1 << rng.random_range(0..8),
                    1 => damaged[at] = rng.random(),
                    2 => {
                        damaged.remove(at);
                    }
                    _ => damaged.insert(at, [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)]),
                }
            }
            match import(&damaged, None) {
                Ok(imported) => {
                    imported.network.to_bytes().unwrap();
                    read += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
        for _ in 0..200 {
            let cut = rng.random_range(0..file.len());
            let _ = import(&file[..cut], None);
        }
    }
    assert!(
        refused > 1_000 && read > 100,
        "{refused} refused, {read} read"
    );
}
