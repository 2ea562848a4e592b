//! Batches are a function of (seed, epoch, number), whoever makes them and wherever one starts.

use std::sync::Arc;

use slimbit_data::{
    AugmentConfig, DataError, Dataset, Loader, LoaderConfig, Preprocess, Split, ViewBatch,
    eval_batches,
};

/// 50 RGB images of 12 × 10, all different.
fn synthetic() -> Arc<Dataset> {
    let pixels = (0..50 * 12 * 10 * 3_usize)
        .map(|i| ((i * i) >> 3) as u8)
        .collect();
    Arc::new(
        Dataset::from_pixels((3, 12, 10), pixels, Some((0..50).map(|i| i % 7).collect())).unwrap(),
    )
}

fn loader(config: LoaderConfig) -> Loader {
    let preprocess = Preprocess {
        height: 8,
        width: 8,
        ..Preprocess::cifar()
    };
    Loader::new(synthetic(), config, AugmentConfig::imagenet(), preprocess).unwrap()
}

fn config(workers: usize) -> LoaderConfig {
    LoaderConfig {
        batch: 6,
        workers,
        seed: 11,
        ..LoaderConfig::default()
    }
}

fn batches(loader: &Loader, epoch: u64, start: usize) -> Vec<ViewBatch> {
    loader.epoch(epoch, start).map(Result::unwrap).collect()
}

#[test]
fn the_number_of_workers_does_not_change_a_byte() {
    let alone = batches(&loader(config(0)), 3, 0);
    assert_eq!(alone.len(), 8);
    for workers in [1, 2, 5] {
        assert_eq!(
            batches(&loader(config(workers)), 3, 0),
            alone,
            "{workers} workers"
        );
    }
}

#[test]
fn an_epoch_can_be_entered_anywhere() {
    let whole = batches(&loader(config(2)), 1, 0);
    for start in [1, 5, 8, 100] {
        assert_eq!(batches(&loader(config(2)), 1, start), whole[start.min(8)..]);
    }
}

#[test]
fn an_epoch_visits_every_image_once_in_an_order_of_its_own() {
    let loader = loader(LoaderConfig {
        drop_last: false,
        ..config(2)
    });
    let order = |epoch| -> Vec<usize> {
        batches(&loader, epoch, 0)
            .into_iter()
            .flat_map(|batch| batch.indices)
            .collect()
    };
    let (first, second) = (order(0), order(1));
    assert_ne!(first, second);
    for mut order in [first, second] {
        order.sort_unstable();
        assert!(order.into_iter().eq(0..50));
    }
    assert_eq!(batches(&loader, 0, 0).last().unwrap().n, 2);
}

#[test]
fn views_of_an_image_differ_from_each_other_and_between_epochs_and_seeds() {
    let view = |seed, epoch| {
        let loader = loader(LoaderConfig { seed, ..config(1) });
        let (slot, batch) = loader
            .epoch(epoch, 0)
            .map(Result::unwrap)
            .find_map(|batch| Some((batch.indices.iter().position(|&index| index == 4)?, batch)))
            .unwrap();
        let len = batch.c * batch.h * batch.w;
        batch
            .views
            .map(|values| values[slot * len..][..len].to_vec())
    };
    // Seeds and epochs in which image 4 is not among the two left over.
    let [first, second] = view(11, 0);
    assert_ne!(first, second);
    assert_eq!(view(11, 0)[0], first);
    assert_ne!(view(11, 1)[0], first);
    assert_ne!(view(12, 0)[0], first);
}

/// Guards what determinism between two runs of one build cannot: that an update of the code or of a
/// dependency changes the views that a resumed run sees.
#[test]
fn the_views_of_a_seed_stay_what_they_are() {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for batch in batches(&loader(config(2)), 0, 0) {
        for byte in batch
            .views
            .iter()
            .flatten()
            .flat_map(|value| value.to_le_bytes())
        {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(hash, 0xb7b4_cb59_67fd_bed1, "{hash:#018x}");
}

#[test]
fn views_are_normalised_planes() {
    let still = AugmentConfig {
        crop_scale: [1.0, 1.0],
        crop_ratio: [1.0, 1.0],
        jitter_p: 0.0,
        grey_p: 0.0,
        flip_p: 0.0,
        ..AugmentConfig::cifar()
    };
    let dataset = Arc::new(Dataset::from_pixels((1, 1, 1), vec![0, 255], None).unwrap());
    let preprocess = Preprocess {
        height: 1,
        width: 1,
        ..Preprocess::cifar()
    };
    let config = LoaderConfig {
        batch: 2,
        ..config(1)
    };
    let batch = Loader::new(dataset, config, still, preprocess.clone())
        .unwrap()
        .epoch(0, 0)
        .next()
        .unwrap()
        .unwrap();
    for view in &batch.views {
        for (&index, values) in batch.indices.iter().zip(view.chunks_exact(3)) {
            for channel in 0..3 {
                let expected = (index as f32 - preprocess.mean[channel]) / preprocess.std[channel];
                assert_eq!(values[channel], expected);
            }
        }
    }
}

#[test]
fn dropping_an_epoch_halfway_leaves_no_thread_behind() {
    let loader = loader(config(5));
    let mut epoch = loader.epoch(0, 0);
    epoch.next().unwrap().unwrap();
    drop(epoch);
    assert_eq!(Arc::strong_count(loader.dataset()), 1);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let make = |config, augment| {
        Loader::new(synthetic(), config, augment, Preprocess::cifar())
            .err()
            .unwrap()
    };
    for (error, part) in [
        (
            make(
                LoaderConfig {
                    batch: 51,
                    ..config(1)
                },
                AugmentConfig::cifar(),
            ),
            "51 does not fit 50",
        ),
        (
            make(
                LoaderConfig {
                    batch: 0,
                    ..config(1)
                },
                AugmentConfig::cifar(),
            ),
            "loader.batch",
        ),
        (
            make(config(100_000), AugmentConfig::cifar()),
            "loader.workers",
        ),
        (
            make(
                LoaderConfig {
                    prefetch: usize::MAX,
                    ..config(1)
                },
                AugmentConfig::cifar(),
            ),
            "loader.prefetch",
        ),
        (
            make(
                config(1),
                AugmentConfig {
                    flip_p: 2.0,
                    ..AugmentConfig::cifar()
                },
            ),
            "flip_p",
        ),
    ] {
        assert!(
            matches!(error, DataError::Setting { .. }) && error.to_string().contains(part),
            "{error}"
        );
    }
}

#[test]
fn evaluation_goes_through_the_images_in_order() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/fashion-mnist");
    let test = Dataset::open_split(path, Split::Test).unwrap();
    let preprocess = Preprocess::fashion_mnist();
    let mut seen = 0;
    for batch in eval_batches(&test, &preprocess, 300) {
        let batch = batch.unwrap();
        assert!(batch.indices.iter().copied().eq(seen..seen + batch.len()));
        assert_eq!(batch.labels.as_ref().unwrap()[0], test.label(seen).unwrap());
        assert_eq!(batch.codes[..28 * 28], test.image(seen).unwrap().pixels);
        assert_eq!(batch.normalise(&preprocess).len(), batch.len() * 28 * 28);
        seen += batch.len();
    }
    assert_eq!(seen, 2000);
    assert!(eval_batches(&test, &preprocess, 0).next().unwrap().is_err());
}
