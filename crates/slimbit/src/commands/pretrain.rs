use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use slimbit_data::printable;
use slimbit_nn::parse_device;
use slimbit_train::{Event, Outcome as Ending, StepRecord, TrainConfig, Trainer};

use super::dashboard::Dashboard;
use super::open::{self, Wanted};
use super::progress::Meter;
use super::{Outcome, interrupt, output, progress};
use crate::cli::PretrainArgs;
use crate::console::{self, note};

pub(super) fn execute(args: &PretrainArgs) -> Result<Outcome> {
    // A device that is not there must not leave a run behind that never began.
    let device = parse_device(&args.device)?;
    let trainer = match &args.resume {
        Some(run) => {
            open::expect(run, &[Wanted::Run])?;
            output::check_folder(run)?;
            Trainer::resume(run)?
        }
        None => {
            let config = config(args)?;
            if args.print_config {
                console::print_exactly(&config.to_toml())?;
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
        Outcome::Done | Outcome::Incomplete => note!("{run}: trained; next: slimbit export {run}"),
        Outcome::Interrupted => {
            let device = match args.device.as_str() {
                "cpu" => String::new(),
                device => format!(" --device {device}"),
            };
            note!("{run}: saved; continue with: slimbit pretrain --resume {run}{device}");
        }
    }
    Ok(outcome)
}

fn config(args: &PretrainArgs) -> Result<TrainConfig> {
    let mut overrides = args.overrides.clone();
    if let Some(data) = &args.data {
        overrides.push(data_override(data)?);
    }
    Ok(match &args.config {
        Some(path) => TrainConfig::load(path, &overrides)?,
        None => TrainConfig::from_toml("", &overrides)?,
    })
}

/// The setting that says where the images are.
pub(super) fn data_override(data: &Path) -> Result<String> {
    let path = as_setting(data)?.to_owned();
    Ok(format!("data.path={}", toml::Value::String(path)))
}

/// A path that is kept in settings, which are text.
pub(super) fn as_setting(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| {
        format!(
            "the path {} is not UTF-8, and the settings of a run are text: rename it, or go to its folder and give `.`",
            printable(path)
        )
    })
}

/// How a run is shown while it goes on.
pub(super) enum Display {
    Bar(Pace),
    Dashboard(Box<Dashboard>),
}

impl Display {
    /// A progress bar that begins where the run stands.
    pub(super) fn bar(trainer: &Trainer) -> Self {
        let (done, steps) = trainer.progress();
        Self::Bar(Pace {
            meter: progress::training(done, steps),
            last: Instant::now(),
        })
    }

    /// Shows an event, and says whether the user asked to stop.
    fn tell(&mut self, event: Event) -> Result<bool> {
        let bar = match self {
            Self::Bar(bar) => bar,
            Self::Dashboard(dashboard) => return Ok(dashboard.tell(event)?),
        };
        match event {
            Event::Step {
                record, remaining, ..
            } => bar.tell(&record, remaining),
            Event::Saved { .. } => {}
            Event::Collapsed(finding) => log::warn!("{finding}"),
            Event::RolledBack { step, lr_factor } => log::warn!(
                "rolled back to iteration {step}; the rate is {lr_factor} of the schedule's"
            ),
        }
        Ok(false)
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Bar(bar) => bar.meter.finish_and_clear(),
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

/// Progress that knows how long an iteration takes.
pub(super) struct Pace {
    meter: Meter,
    /// The end of the last iteration.
    last: Instant,
}

impl Pace {
    /// Position, time, loss, and per network of the iteration its width, bits and feature deviation.
    fn tell(&mut self, record: &StepRecord, remaining: Duration) {
        let step = std::mem::replace(&mut self.last, Instant::now()).elapsed();
        self.meter.set_position(record.step + 1);
        self.meter.set_remaining(remaining);
        let networks: Vec<String> = record
            .networks
            .iter()
            .map(|network| {
                let bits = network
                    .bits
                    .map_or_else(String::new, |[w, a]| format!(" W{w}A{a}"));
                format!(
                    "{:.2}x{bits} loss {:.3} (std {:.2})",
                    network.width, network.loss, network.feature_std
                )
            })
            .collect();
        self.meter.set_message(format!(
            "{:.0} images/s, {:.2} s a step | {}",
            record.images_per_second,
            step.as_secs_f64(),
            networks.join(" | ")
        ));
    }
}
