use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;
use slimbit_nn::parse_device;
use slimbit_train::{Event, Outcome as Ending, StepRecord, TrainConfig, Trainer};

use super::dashboard::Dashboard;
use super::{Outcome, interrupt, output, progress};
use crate::cli::PretrainArgs;

pub(super) fn execute(args: &PretrainArgs) -> Result<Outcome> {
    // A device that is not there must not leave a run behind that never began.
    let device = parse_device(&args.device)?;
    let trainer = match &args.resume {
        Some(run) => {
            output::check_folder(run)?;
            Trainer::resume(run)?
        }
        None => {
            let config = config(args)?;
            if args.print_config {
                print!("{}", config.to_toml());
                return Ok(Outcome::Done);
            }
            config.check_device(&device)?;
            output::check_folder(&args.out)?;
            Trainer::new(config, &args.out)?
        }
    };
    let mut trainer = trainer.on_device(&device)?;
    let display = match args.dashboard {
        true => {
            let title = trainer.run_dir().path().display().to_string();
            Display::Dashboard(Box::new(Dashboard::open(title)?))
        }
        false => Display::bar(&trainer),
    };
    let outcome = train(&mut trainer, &interrupt::flag()?, display)?;
    let run = trainer.run_dir().path().display();
    match outcome {
        Outcome::Done => eprintln!("{run}: trained; next: slimbit export {run}"),
        Outcome::Interrupted => {
            let device = match args.device.as_str() {
                "cpu" => String::new(),
                device => format!(" --device {device}"),
            };
            eprintln!("{run}: saved; continue with: slimbit pretrain --resume {run}{device}");
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

/// How a run is shown while it goes on.
pub(super) enum Display {
    Bar(ProgressBar),
    Dashboard(Box<Dashboard>),
}

impl Display {
    /// A progress bar that begins where the run stands.
    pub(super) fn bar(trainer: &Trainer) -> Self {
        let (done, steps) = trainer.progress();
        Self::Bar(progress::training(done, steps))
    }

    /// Shows an event, and says whether the user asked to stop.
    fn tell(&mut self, event: Event) -> Result<bool> {
        let bar = match self {
            Self::Bar(bar) => bar,
            Self::Dashboard(dashboard) => return Ok(dashboard.tell(event)?),
        };
        match event {
            Event::Step { record, .. } => tell(bar, &record),
            Event::Saved { .. } => {}
            Event::Collapsed(finding) => bar.suspend(|| eprintln!("{finding}")),
            Event::RolledBack { step, lr_factor } => bar.suspend(|| {
                eprintln!(
                    "rolled back to iteration {step}; the rate is {lr_factor} of the schedule's"
                );
            }),
        }
        Ok(false)
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Dashboard(dashboard) => dashboard.close()?,
        }
        Ok(())
    }
}

/// Runs a trainer to its end, to Ctrl-C or to the dashboard's `q`.
pub(super) fn train(
    trainer: &mut Trainer,
    interrupted: &Arc<AtomicBool>,
    mut display: Display,
) -> Result<Outcome> {
    let stop = trainer.stop_flag();
    let mut failed = None;
    let ending = trainer.run(&mut |event| {
        // What cannot be shown any more is saved all the same.
        let asked = display.tell(event).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            true
        });
        let stopped = asked || interrupted.load(Ordering::Relaxed);
        stop.fetch_or(stopped, Ordering::Relaxed);
    });
    display.close()?;
    if let Some(error) = failed {
        return Err(error.context("showing progress; the run is saved"));
    }
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
