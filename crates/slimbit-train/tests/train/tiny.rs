//! A run that is small enough to be trained many times.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use slimbit_data::Preprocess;
use slimbit_graph::{Activation, Channels, Graph, GraphBuilder};
use slimbit_train::config::{Pace, Target};
use slimbit_train::{Checkpoint, Event, Outcome, TrainConfig, Trainer};

/// Iterations of the run: two epochs of three batches.
pub(crate) const STEPS: u64 = 6;

/// 24 grey images of 8 × 8 as an IDX file: three batches of 8 per epoch.
pub(crate) fn images(folder: &Path) -> PathBuf {
    let mut bytes = vec![0, 0, 8, 3];
    for side in [24_u32, 8, 8] {
        bytes.extend(side.to_be_bytes());
    }
    bytes.extend((0..24 * 64_u32).map(|i| (i * i / 7 % 251) as u8));
    fs::write(folder.join("train-images-idx3-ubyte"), bytes).unwrap();
    folder.to_owned()
}

/// A residual block, four channels to a group of the narrowest width.
pub(crate) fn network() -> Graph {
    let mut b = GraphBuilder::new("tiny");
    let x = b.input(1, 8, 8);
    let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
    let y = b.conv_bn_relu("a", x, Channels::slim(16), 3, 1);
    let y = b.conv_bn("b", y, Channels::slim(16), 3, 1);
    let z = b.add("sum", x, y);
    let z = b.activation("sum", z, Activation::Relu);
    let z = b.global_avg_pool("pool", z);
    b.finish(&[("features", z)]).unwrap()
}

/// The input of [`network`].
fn preprocess() -> Preprocess {
    Preprocess {
        height: 8,
        width: 8,
        ..Preprocess::fashion_mnist()
    }
}

/// A finished run beside the images, of a network unlike [`network`].
pub(crate) fn finished(recipe: &str, data: &Path) -> PathBuf {
    let path = data.join(recipe.replace('/', "-"));
    let mut config = config(recipe, data.to_owned());
    config.heads.hidden = 24;
    let mut b = GraphBuilder::new("teacher");
    let x = b.input(1, 8, 8);
    let x = b.conv_bn_relu("only", x, Channels::slim(32), 3, 2);
    let x = b.global_avg_pool("pool", x);
    let graph = b.finish(&[("features", x)]).unwrap();
    let mut trainer = Trainer::with_graph(config, graph, &path).unwrap();
    assert_eq!(run_until(&mut trainer, u64::MAX), Outcome::Finished);
    path
}

/// A recipe at the size of [`images`] and [`network`], with phases that move at every iteration. Where it has a frozen
/// teacher, that is [`finished`] first.
pub(crate) fn config(recipe: &str, data: PathBuf) -> TrainConfig {
    let mut config = TrainConfig::recipe(recipe).unwrap();
    if config.objective.target == Target::Frozen {
        config.objective.teacher = finished("simsiam/resnet18-cifar10", &data);
        config.objective.queue = 20;
    }
    config.data.path = data;
    config.preprocess = preprocess();
    config.epochs = 2;
    config.batch = 8;
    config.micro_batch = 0;
    config.schedule.per = Pace::Step;
    config.heads.hidden = 32;
    config.heads.dim = 16;
    config.optim.lr = 0.05;
    config.run.checkpoint_every = 2;
    config
}

/// Trains until `step` iterations are done, or to the end.
pub(crate) fn run_until(trainer: &mut Trainer, step: u64) -> Outcome {
    let stop = trainer.stop_flag();
    let outcome = trainer.run(&mut |event| {
        if let Event::Step { record, .. } = event {
            stop.store(record.step + 1 == step, Ordering::Relaxed);
        }
    });
    outcome.unwrap()
}

/// Every tensor's bits, which tell zeros of either sign apart.
pub(crate) fn bits(checkpoint: &Checkpoint) -> Vec<(&str, Vec<u32>)> {
    let tensors = checkpoint.tensors.iter();
    tensors
        .map(|(name, a)| (name.as_str(), a.data.iter().map(|v| v.to_bits()).collect()))
        .collect()
}
