use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;
use slimbit_train::{Event, Outcome as Ending, StepRecord, TrainConfig, Trainer};

use super::{Outcome, interrupt, progress};
use crate::cli::PretrainArgs;

pub(super) fn execute(args: &PretrainArgs) -> Result<Outcome> {
    let mut trainer = match &args.resume {
        Some(run) => Trainer::resume(run)?,
        None => {
            let config = config(args)?;
            if args.print_config {
                print!("{}", config.to_toml());
                return Ok(Outcome::Done);
            }
            Trainer::new(config, &args.out)?
        }
    };
    let outcome = train(&mut trainer, &interrupt::flag()?)?;
    let run = trainer.run_dir().path().display();
    match outcome {
        Outcome::Done => eprintln!("{run}: trained; next: slimbit export {run}"),
        Outcome::Interrupted => {
            eprintln!("{run}: saved; continue with: slimbit pretrain --resume {run}");
        }
    }
    Ok(outcome)
}

fn config(args: &PretrainArgs) -> Result<TrainConfig> {
    let mut overrides = args.overrides.clone();
    if let Some(data) = &args.data {
        overrides.push(format!(
            "data.path={}",
            toml::Value::String(data.display().to_string())
        ));
    }
    Ok(match &args.config {
        Some(path) => TrainConfig::load(path, &overrides)?,
        None => TrainConfig::from_toml("", &overrides)?,
    })
}

/// Runs a trainer to its end or to Ctrl-C, with a progress bar.
pub(super) fn train(trainer: &mut Trainer, interrupted: &Arc<AtomicBool>) -> Result<Outcome> {
    let (done, steps) = trainer.progress();
    let bar = progress::training(done, steps);
    let stop = trainer.stop_flag();
    let ending = trainer.run(&mut |event| {
        if let Event::Step { record, .. } = &event {
            tell(&bar, record);
        }
        stop.fetch_or(interrupted.load(Ordering::Relaxed), Ordering::Relaxed);
    });
    bar.finish_and_clear();
    Ok(match ending? {
        Ending::Finished => Outcome::Done,
        Ending::Interrupted => Outcome::Interrupted,
    })
}

/// Position, loss, and per network of the iteration its width, bits and feature deviation.
fn tell(bar: &ProgressBar, record: &StepRecord) {
    bar.set_position(record.step);
    let networks: Vec<String> = record
        .networks
        .iter()
        .map(|network| {
            let bits = network
                .bits
                .map_or_else(String::new, |[w, a]| format!(" W{w}A{a}"));
            format!(
                "{:.2}x{bits} {:.3} (std {:.2})",
                network.width, network.loss, network.feature_std
            )
        })
        .collect();
    bar.set_message(format!(
        "{:.0} images/s | {}",
        record.images_per_second,
        networks.join(" | ")
    ));
}
