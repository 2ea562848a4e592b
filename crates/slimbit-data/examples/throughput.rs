//! Images per second that one or more threads turn into two views, for a dataset or for synthetic
//! photographs.
//!
//! ```text
//! cargo run --release -p slimbit-data --example throughput -- [cifar|imagenet] [workers] [path]
//! ```

use std::sync::Arc;
use std::time::Instant;

use slimbit_data::{AugmentConfig, DataError, Dataset, Loader, LoaderConfig, Preprocess};

fn main() -> Result<(), DataError> {
    let mut arguments = std::env::args().skip(1);
    let preset = arguments.next().unwrap_or_else(|| "cifar".into());
    let workers = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let (augment, preprocess, stored, images) = match preset.as_str() {
        "imagenet" => (
            AugmentConfig::imagenet(),
            Preprocess::imagenet(),
            (3, 375, 500),
            64,
        ),
        _ => (
            AugmentConfig::cifar(),
            Preprocess::cifar(),
            (3, 32, 32),
            10_000,
        ),
    };
    let dataset = match arguments.next() {
        Some(path) => Dataset::open(path)?,
        None => {
            let values = images * stored.0 * stored.1 * stored.2;
            let pixels = (0..values)
                .map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect();
            Dataset::from_pixels(stored, pixels, None)?
        }
    };
    let config = LoaderConfig {
        batch: dataset.len().min(64),
        workers,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(Arc::new(dataset), config, augment, preprocess)?;
    let start = Instant::now();
    let mut images = 0;
    for epoch in 0.. {
        for batch in loader.epoch(epoch, 0) {
            images += batch?.n;
        }
        if start.elapsed().as_secs_f64() > 3.0 {
            break;
        }
    }
    let rate = images as f64 / start.elapsed().as_secs_f64();
    println!("{preset}: {rate:.0} images/s, two views each, {workers} workers");
    Ok(())
}
