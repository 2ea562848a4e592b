use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use slimbit_data::{DataError, Dataset, Holdout, Parts, Split, printable};
use slimbit_interchange::Network;
use slimbit_train::finetune::{FineTuneConfig, FineTuner, Freeze, Tuned};
use slimbit_train::{Outcome as Ending, RunDir};

use super::classes::Classes;
use super::evaluate::interval;
use super::features::{Images, PREPROCESS, holdout_metadata, say_held_out};
use super::interrupt::Interrupt;
use super::open::{self, Wanted};
use super::output::{self, Product};
use super::{Outcome, classify, pretrain, progress, quantize};
use crate::cli::FinetuneArgs;
use crate::console::{self, count, note, say};

/// The tuned network, in the folder of the fine-tuning.
const NETWORK: &str = "network.safetensors";

/// Learning rate of a linear probe for a batch of 512 (spec section 3.9).
const PROBE_LR: f64 = 30.0;

pub(super) fn execute(args: &FinetuneArgs) -> Result<Outcome> {
    let folder = args.resume.as_ref().unwrap_or(&args.out);
    output::check_folder(folder)?;
    if folder.is_dir() {
        output::check_file(&folder.join(NETWORK), Product::Network, &[])?;
    }
    let mut tuner = match &args.resume {
        Some(folder) => {
            open::expect(folder, &[Wanted::FineTuning])?;
            FineTuner::resume_with(folder, args.epochs, args.allow_changed_data)?
        }
        None => FineTuner::new(config(args)?, folder)?,
    };
    if let Some((holdout, seed)) = tuner.config().held_out() {
        let data = &tuner.config().data;
        let parts = Parts::open(data, Some((holdout, seed)))?;
        say_held_out(data, &parts.test, parts.train.len(), seed);
    }
    let (images, classes) = tuner.labels();
    note!(
        "{} of {}, at {}",
        count(images, "labelled image"),
        count(classes, "class"),
        tuner.config().width
    );
    let resume = format!("slimbit finetune --resume {}", folder.display());
    if train(&mut tuner, &resume)? == Ending::Interrupted {
        let (step, _) = tuner.progress();
        let folder = folder.display();
        note!("{folder}: saved at step {step}; continue with: {resume}");
        return Ok(Outcome::Interrupted);
    }
    let (data, holdout) = (tuner.config().data.clone(), tuner.config().held_out());
    let mut network = network(tuner.tuned()?)?;
    network.metadata.extend(holdout.map(holdout_metadata));
    let file = folder.join(NETWORK);
    network.write(&file)?;
    let top1 = test(&network, &data, holdout)?;
    if args.json {
        let top1 = top1.map(|(correct, of)| {
            json!({
                "correct": correct, "images": of, "percent": percent(correct, of),
                "interval": confidence(correct, of),
            })
        });
        console::print_json(
            &json!({ "file": printable(&file), "labels": images, "classes": classes, "top1": top1 }),
        )?;
    } else {
        match top1 {
            Some((correct, of)) => {
                let [low, high] = confidence(correct, of);
                say!(
                    "float top-1 {:.2} %, {correct} of {} (95 % interval {low:.1} to {high:.1} %)",
                    percent(correct, of),
                    count(of, "test image")
                )?;
            }
            None => say!(
                "{} has no test split, so the accuracy is not known; hold images out to measure it with --holdout 20%",
                data.display()
            )?,
        }
        let (file, data) = (file.display(), data.display());
        say!(
            "{file}; next: slimbit quantize {file} --images {data} -o {}",
            folder.join("model.slim").display()
        )?;
        if let Some((_, options)) = holdout.map(holdout_metadata) {
            say!("measure it on what was held out with --data {data} {options}")?;
        }
    }
    Ok(Outcome::Done)
}

fn percent(correct: usize, of: usize) -> f64 {
    100.0 * correct as f64 / of.max(1) as f64
}

/// Wilson's interval, in per cent.
fn confidence(correct: usize, of: usize) -> [f64; 2] {
    interval(correct as u64, of as u64).map(|share| 100.0 * share)
}

fn config(args: &FinetuneArgs) -> Result<FineTuneConfig> {
    let required =
        |path: &Option<PathBuf>| path.clone().context("clap requires it without --resume");
    let (run, data) = (required(&args.run)?, required(&args.data)?);
    for path in [&run, &data] {
        pretrain::as_setting(path)?;
    }
    open::expect(&run, &[Wanted::Run])?;
    let (_, pretrained) = RunDir::open(&run)?;
    let default = FineTuneConfig::new(
        &run,
        &data,
        [pretrained.preprocess.height, pretrained.preprocess.width],
    );
    let linear = args.freeze == Freeze::All;
    let batch = args.batch.unwrap_or(default.batch);
    let lr = if linear {
        PROBE_LR * batch as f64 / 512.0
    } else {
        default.lr
    };
    let decay = if linear { 0.0 } else { default.weight_decay };
    let mut augment = default.augment.clone();
    if args.no_flip {
        augment.flip_p = 0.0;
    }
    Ok(FineTuneConfig {
        holdout: args.holdout.holdout,
        holdout_seed: args.holdout.holdout_seed,
        width: args.width,
        labels: args.labels,
        seed: args.seed,
        epochs: args.epochs.unwrap_or(default.epochs),
        batch,
        lr: args.lr.unwrap_or(lr),
        weight_decay: args.weight_decay.unwrap_or(decay),
        freeze: args.freeze,
        warm_head: args.warm_head,
        layer_decay: args.layer_decay,
        augment,
        ..default
    })
}

/// Trains to the end or to Ctrl-C, with a progress bar. `resume` is the command that continues it.
fn train(tuner: &mut FineTuner, resume: &str) -> Result<Ending> {
    let interrupt = Interrupt::install()?;
    let training = interrupt.during(tuner.saved(), resume.to_owned(), None);
    let (done, steps) = tuner.progress();
    let bar = progress::training(done, steps);
    let stop = tuner.stop_flag();
    let (batch, mut last) = (tuner.config().batch as f64, Instant::now());
    let ending = tuner.run(&mut |record| {
        let seconds = std::mem::replace(&mut last, Instant::now()).elapsed();
        let seconds = seconds.as_secs_f64();
        bar.set_position(record.step + 1);
        bar.set_message(format!(
            "{:.0} images/s, {seconds:.2} s a step | epoch {} | loss {:.3} | batch top-1 {:.1} % | lr {:.4}",
            batch / seconds.max(1e-9),
            record.epoch + 1,
            record.loss,
            100.0 * record.accuracy,
            record.lr
        ));
        stop.fetch_or(interrupt.is_raised(), Ordering::Relaxed);
    });
    drop(training);
    bar.finish_and_clear();
    Ok(ending?)
}

fn network(tuned: Tuned) -> Result<Network> {
    let Tuned {
        graph,
        params,
        norms,
        preprocess,
        classes,
    } = tuned;
    let mut network = Network::new(graph, params, norms)?;
    network.set_classes(&classes)?;
    network
        .metadata
        .insert(PREPROCESS.to_owned(), serde_json::to_string(&preprocess)?);
    Ok(network)
}

/// Test images that the float network's classifier gets right, of how many; nothing where there is no
/// test part.
fn test(
    network: &Network,
    data: &Path,
    holdout: Option<(Holdout, u64)>,
) -> Result<Option<(usize, usize)>> {
    let dataset = match holdout {
        Some(_) => Dataset::open_test(data, holdout)?,
        None => match Dataset::open_split(data, Split::Test) {
            Err(DataError::NoSplit { .. }) => return Ok(None),
            dataset => dataset?,
        },
    };
    let preprocess = quantize::preprocess_of(network, Path::new(NETWORK))?;
    let images = Images::load(&dataset, &preprocess, None)?;
    let file = Path::new(NETWORK);
    let classes = Classes::of(&network.graph, network.classes()?, None, file)?;
    let truths = classify::truths(&classes, &dataset, &images, &[], data)?;
    let answers = classify::by_float(network, &preprocess, &images)?;
    Ok(Some((answers.correct(&truths), images.len())))
}
