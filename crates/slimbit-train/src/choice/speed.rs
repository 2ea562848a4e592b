//! How fast this machine trains, measured.

use std::time::Instant;

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_data::ViewBatch;
use slimbit_graph::Graph;

use crate::config::{Init, Target};
use crate::cost::macs_per_image;
use crate::ssl::{Learner, Moment, Networks};
use crate::{TrainConfig, TrainError};

/// Multiply-accumulates that are timed at least, and seconds after which no further step is begun.
const LEAST_MACS: f64 = 4e9;
const SECONDS: f64 = 0.5;
/// Steps of which the fastest counts.
const MOST_STEPS: usize = 8;

/// Multiply-accumulates per second of training steps with these settings on a device, as the fastest of a few steps of a
/// few images has them. Nothing is written.
///
/// # Errors
/// As one iteration has them.
pub(crate) fn macs_per_second(
    config: &TrainConfig,
    graph: &Graph,
    device: &Device,
) -> Result<f64, TrainError> {
    let mut config = config.clone();
    config.micro_batch = 0;
    config.model.init = Init::Uniform;
    // Stages of another network, perhaps, and next to nothing of the cost.
    config.objective.map_weight = 0.0;
    config.objective.maps.clear();
    // Of the same cost, without another run's network.
    if config.objective.target == Target::Frozen {
        config.objective.target = Target::Ema;
    }
    let [macs, ..] = macs_per_image(&config, graph)?;
    let images = ((LEAST_MACS / macs) as usize).clamp(4, 32);
    let input = &config.preprocess;
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let mut view = || {
        (0..images * input.len())
            .map(|_| rng.random_range(-1.0..1.0))
            .collect::<Vec<f32>>()
    };
    let views = ViewBatch {
        views: [view(), view()],
        indices: (0..images).collect(),
        n: images,
        c: input.channels,
        h: input.height,
        w: input.width,
    };
    let mut learner = Learner::init(graph.clone(), &config, None, device)?;
    let drawn = Networks::draw(&config.objective, config.seed, 0, 0);
    let moment = Moment {
        step: 0,
        epoch: 0,
        lr: 0.0,
    };
    let classes = vec![0; images];
    let mut step = || {
        let started = Instant::now();
        learner.iterate(&config, &drawn, &views, Some(&classes), moment)?;
        Ok::<f64, TrainError>(started.elapsed().as_secs_f64())
    };
    // Compiles kernels on a GPU, and fills caches elsewhere.
    let mut fastest = step()?;
    let started = Instant::now();
    for _ in 0..MOST_STEPS {
        fastest = fastest.min(step()?);
        if started.elapsed().as_secs_f64() > SECONDS {
            break;
        }
    }
    Ok(macs * images as f64 / fastest)
}
