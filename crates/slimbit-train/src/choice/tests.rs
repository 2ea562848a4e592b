use super::settings::rounded;
use super::*;

fn chooser(images: usize, (height, width): (usize, usize), overrides: &[&str]) -> Chooser {
    Chooser {
        asked: asked("config", "", overrides).unwrap(),
        survey: Survey {
            images,
            channels: 3,
            typical: (height, width),
            aspect: height.max(width) as f64 / height.min(width) as f64,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            seconds: 1e-4,
        },
        source: None,
    }
}

const TWO_CORES: Machine = Machine {
    cores: 2,
    memory: 8e9,
    speed: 4e10,
};

fn pick(chooser: &Chooser, machine: Machine) -> Picked {
    let picked = chooser
        .pick(&chooser.candidates().unwrap(), machine)
        .unwrap();
    picked.config.validate().unwrap();
    picked
}

#[test]
fn the_time_is_kept_from_twenty_photos_to_a_hundred_thousand_and_on_any_machine() {
    for images in [2, 20, 620, 5_000, 50_000, 100_000] {
        for size in [(28, 28), (32, 32), (64, 64), (480, 640), (3000, 2000)] {
            for speed in [4e9, 4e10, 1e12] {
                let machine = Machine { speed, ..TWO_CORES };
                let chooser = chooser(images, size, &[]);
                let picked = pick(&chooser, machine);
                let config = &picked.config;
                let seconds = picked.epoch * config.epochs as f64;
                let budget = HOUR.min(SECONDS_PER_IMAGE * images as f64);
                let told = format!(
                    "{images} of {size:?} at {speed:e}: {} {} {} {seconds}",
                    config.model.backbone, config.preprocess.height, config.epochs
                );
                assert!(seconds <= budget || config.epochs == 1, "{told}");
                assert!(config.batch >= 2 && config.batch <= images, "{told}");
                let side = config.preprocess.height;
                assert!(side <= size.0.min(size.1).max(LEAST_SIDE), "{told}");
                let oblong = matches!(config.preprocess.resize, slimbit_data::Resize::Shorter(_));
                assert_eq!(oblong, size.0 != size.1, "{told}");
            }
        }
    }
}

#[test]
fn a_faster_machine_and_fewer_images_get_larger_networks() {
    let macs = |images, speed| {
        let machine = Machine { speed, ..TWO_CORES };
        pick(&chooser(images, (480, 640), &[]), machine)
            .candidate
            .macs
    };
    assert!(macs(620, 1e12) > macs(620, 4e10));
    assert!(macs(5_000, 4e10) > macs(500_000, 4e10));
    // A slow reader leaves less time for the network.
    let mut slow = chooser(5_000, (480, 640), &[]);
    slow.survey.seconds = 0.03;
    assert!(pick(&slow, TWO_CORES).candidate.macs < macs(5_000, 4e10));
}

#[test]
fn what_is_asked_for_wins_and_the_rest_follows() {
    let overrides = [
        "model.backbone=resnet18",
        "batch=10",
        "preprocess.height=96",
        "optim.momentum=0.8",
    ];
    let picked = pick(&chooser(620, (480, 640), &overrides), TWO_CORES);
    let config = &picked.config;
    assert_eq!(config.model.backbone, "resnet18");
    assert_eq!((config.batch, config.optim.momentum), (10, 0.8));
    let input = &config.preprocess;
    assert_eq!((input.height, input.width), (96, 96));
    // In proportion to the batch that was asked for.
    assert_eq!(config.optim.lr, 0.016);
    let few = pick(&chooser(620, (480, 640), &["epochs=3"]), TWO_CORES);
    assert_eq!(few.config.epochs, 3);
}

#[test]
fn memory_bounds_the_batch_and_the_network() {
    let memory = |memory| Machine {
        memory,
        ..TWO_CORES
    };
    let chooser = chooser(620, (480, 640), &[]);
    for bytes in [3e7, 1e8, 4e8, 8e9] {
        let picked = pick(&chooser, memory(bytes));
        let needed = step_bytes(&picked.config, &picked.graph).unwrap() as f64;
        assert!(needed <= bytes, "{needed} of {bytes}");
    }
}

#[test]
fn numbers_are_round() {
    assert_eq!(round_epochs(0), 1);
    assert_eq!(round_epochs(161), 150);
    assert_eq!(round_epochs(9000), 200);
    assert_eq!(rounded(0.2 * 48.0 / 128.0), 0.075);
    assert_eq!(rounded(0.015625), 0.016);
    let speed = steady(3.9e10);
    assert!((speed / 3.9e10 - 1.0).abs() < 0.12);
    assert_eq!(steady(speed * 1.03), speed);
}
