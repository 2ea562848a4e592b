//! Iterations on the GPU against the same on the CPU. They run on the default adapter, which may be
//! one in software; without any they fail.

use std::path::Path;
use std::sync::atomic::Ordering;

use burn::tensor::Device;
use slimbit_nn::parse_device;
use slimbit_train::config::Course;
use slimbit_train::{Checkpoint, StepRecord, TrainConfig, Trainer};

use crate::tiny::{bits, config, images, network, run_until};

fn device(name: &str) -> Device {
    parse_device(name).unwrap_or_else(|error| panic!("{error}"))
}

fn trainer(config: &TrainConfig, path: &Path, on: &str) -> Trainer {
    let trainer = Trainer::with_graph(config.clone(), network(), path).unwrap();
    trainer.on_device(&device(on)).unwrap()
}

/// One iteration of a recipe on a device: the state before and after it, and what it recorded.
fn step(recipe: &str, on: &str, change: impl Fn(&mut TrainConfig)) -> Step {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(recipe, images(folder.path()));
    // The first iteration already has narrow and coarse students.
    config.objective.widths.schedule = Course::Static;
    config.run.log_every = 1;
    change(&mut config);
    let mut trainer = trainer(&config, &folder.path().join("run"), on);
    let start = trainer.checkpoint();
    run_until(&mut trainer, 1);
    Step {
        start,
        end: trainer.checkpoint(),
        record: trainer.run_dir().metrics().unwrap().remove(0),
    }
}

struct Step {
    start: Checkpoint,
    end: Checkpoint,
    record: StepRecord,
}

/// How far apart the parameters of two checkpoints lie, beside how far the first moved.
fn distance(step: &Step, other: &Checkpoint) -> f64 {
    let (mut apart, mut moved) = (0.0, 0.0);
    for (name, array) in &step.end.tensors {
        let Some(start) = step.start.tensors.get(name) else {
            continue;
        };
        let values = array.data.iter().zip(&other.tensors[name].data);
        for ((end, other), start) in values.zip(&start.data) {
            apart += f64::from(end - other).powi(2);
            moved += f64::from(end - start).powi(2);
        }
    }
    (apart / moved).sqrt()
}

/// Losses, measures and every updated parameter. Where codes are rounded, a float's last bit may
/// decide which one a value gets; in the combined method the weights that are rounded have just been
/// moved by a step of their own. What a change of the rate by as much as the GPU's rounding does on
/// the CPU is printed beside each: in the combined method, more than the GPU.
#[test]
fn an_iteration_is_that_of_the_cpu() {
    for (recipe, tolerance) in [
        ("simsiam/resnet18-cifar10", 1e-4),
        ("us3l/resnet18-cifar100", 1e-4),
        ("moco/resnet18-cifar10", 1e-4),
        ("ssql/resnet18-cifar10", 1e-3),
        ("combined/resnet18-cifar10", 2e-2),
    ] {
        let change = |config: &mut TrainConfig| config.objective.queue = 24;
        let (cpu, gpu) = (step(recipe, "cpu", change), step(recipe, "gpu", change));
        assert_eq!(bits(&cpu.start), bits(&gpu.start), "{recipe}");
        let apart = distance(&cpu, &gpu.end);
        let disturbed = step(recipe, "cpu", |config| {
            change(config);
            config.optim.lr *= 1.0 + 2e-5;
        });
        println!(
            "{recipe}: parameters {apart:.1e} of the step; on the CPU, a rate changed by 2e-5: {:.1e}",
            distance(&cpu, &disturbed.end)
        );
        assert!(apart < tolerance, "{recipe}: {apart:e} of the step");
        let networks = cpu.record.networks.iter().zip(&gpu.record.networks);
        for (cpu, gpu) in networks {
            println!("  {:.7} {:.7}", cpu.loss, gpu.loss);
            assert_eq!((cpu.width, cpu.bits), (gpu.width, gpu.bits), "{recipe}");
            for (cpu, gpu) in [
                (cpu.loss, gpu.loss),
                (cpu.feature_std, gpu.feature_std),
                (cpu.effective_rank, gpu.effective_rank),
                (cpu.agreement, gpu.agreement),
            ] {
                let error = (cpu - gpu).abs() / cpu.abs().max(1.0);
                assert!(error < tolerance, "{recipe}: {cpu} and {gpu}");
            }
        }
    }
}

/// Computing tensors again, LARS and distilled maps have nothing of the CPU in them either.
#[test]
fn an_iteration_with_every_setting_is_that_of_the_cpu() {
    let change = |config: &mut TrainConfig| {
        config.gradient_checkpointing = true;
        config.optim.clip = 0.5;
        config.micro_batch = 4;
    };
    let maps = |config: &mut TrainConfig| {
        config.objective.map_weight = 1.0;
        config.objective.maps = vec!["b.bn".to_owned()];
        config.optim.algorithm = slimbit_train::config::Algorithm::Lars;
    };
    let recipe = "us3l/resnet18-cifar100";
    for change in [&change as &dyn Fn(&mut TrainConfig), &maps] {
        let (cpu, gpu) = (step(recipe, "cpu", change), step(recipe, "gpu", change));
        let apart = distance(&cpu, &gpu.end);
        println!("parameters {apart:.1e} of the step");
        assert!(apart < 1e-4, "{apart:e} of the step");
    }
}

/// Convolutions in 16-bit floats are near those in 32 bits, and are not those; stopped and resumed,
/// such a run ends with the same bits.
#[test]
fn mixed_precision_is_near_and_resumes() {
    for recipe in ["us3l/resnet18-cifar100", "combined/resnet18-cifar10"] {
        let mixed = |config: &mut TrainConfig| config.mixed_precision = true;
        let (full, half) = (step(recipe, "gpu", |_| {}), step(recipe, "gpu", mixed));
        let apart = distance(&full, &half.end);
        println!("{recipe}: parameters {apart:.1e} of the step");
        assert!((1e-5..0.1).contains(&apart), "{recipe}: {apart:e}");
        assert!(half.end.tensors["loss_scale"].data[1] > 0.0);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("us3l/resnet18-cifar100", images(folder.path()));
    config.mixed_precision = true;
    let mut whole = trainer(&config, &folder.path().join("whole"), "gpu");
    run_until(&mut whole, 4);
    let path = folder.path().join("stopped");
    run_until(&mut trainer(&config, &path, "gpu"), 2);
    let mut resumed = Trainer::resume(&path).unwrap();
    let error = resumed.run(&mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("mixed_precision"), "{error}");
    let mut resumed = resumed.on_device(&device("gpu")).unwrap();
    run_until(&mut resumed, 4);
    assert!(bits(&resumed.checkpoint()) == bits(&whole.checkpoint()));
}

/// Stopped and resumed, on one device: the weights of an uninterrupted run, bit for bit. On another:
/// those weights within rounding.
#[test]
fn a_resumed_run_ends_with_the_same_bits_on_the_same_device() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("combined/resnet18-cifar10", images(folder.path()));
    let mut whole = trainer(&config, &folder.path().join("whole"), "gpu");
    run_until(&mut whole, 4);
    let path = folder.path().join("stopped");
    run_until(&mut trainer(&config, &path, "gpu"), 2);
    let mut resumed = Trainer::resume(&path)
        .unwrap()
        .on_device(&device("gpu"))
        .unwrap();
    resumed.stop_flag().store(false, Ordering::Relaxed);
    run_until(&mut resumed, 4);
    assert!(bits(&resumed.checkpoint()) == bits(&whole.checkpoint()));
    let log = std::fs::read_to_string(path.join("log.txt")).unwrap();
    assert!(log.contains("starting at 2 on gpu ("), "{log}");

    let mut elsewhere = Trainer::resume(&path).unwrap();
    let before = elsewhere.checkpoint();
    assert_eq!(before.step, 4);
    assert!(bits(&before) == bits(&whole.checkpoint()));
    run_until(&mut elsewhere, 5);
    assert_eq!(elsewhere.checkpoint().step, 5);
}
