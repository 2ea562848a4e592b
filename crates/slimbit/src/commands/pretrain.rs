use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burn::tensor::Device;
use indicatif::HumanDuration;
use slimbit_data::printable;
use slimbit_nn::parse_device;
use slimbit_train::{
    Choice, Event, Outcome as Ending, Resume, RunDir, StepRecord, TrainConfig, Trainer,
};

use super::dashboard::Dashboard;
use super::interrupt::Interrupt;
use super::open::{self, Wanted};
use super::progress::Meter;
use super::{Outcome, output, progress};
use crate::cli::PretrainArgs;
use crate::console::{self, note};

pub(super) fn execute(args: &PretrainArgs) -> Result<Outcome> {
    // A device that is not there must not leave a run behind that never began.
    let device = parse_device(&args.device)?;
    let overrides = overrides(args)?;
    if args.print_config {
        let (config, why) = settings(args, &overrides, &device)?;
        why.iter().for_each(|line| note!("{line}"));
        console::print_exactly(&config.to_commented_toml())?;
        return Ok(Outcome::Done);
    }
    let trainer = match &args.resume {
        Some(run) => {
            open::expect(run, &[Wanted::Run])?;
            output::check_folder(run)?;
            let allow_changed_data = args.allow_changed_data;
            Trainer::resume_with(
                run,
                &Resume {
                    overrides,
                    allow_changed_data,
                },
            )?
        }
        None => {
            output::check_folder(&args.out)?;
            RunDir::vacant(&args.out)?;
            let (config, why) = settings(args, &overrides, &device)?;
            config.check_device(&device)?;
            let mut trainer = Trainer::new(config, &args.out)?;
            why.into_iter().for_each(|line| trainer.note(line));
            trainer
        }
    };
    for line in trainer.notes() {
        note!("{line}");
    }
    let mut trainer = trainer.on_device(&device)?;
    let device = match args.device.as_str() {
        "cpu" => String::new(),
        device => format!(" --device {device}"),
    };
    let run = trainer.run_dir().path().display().to_string();
    let resume = format!("slimbit pretrain --resume {run}{device}");
    let interrupt = Interrupt::install()?;
    let display = match args.dashboard {
        true => Display::Dashboard(Box::new(Dashboard::open(run.clone(), interrupt.clone())?)),
        false => Display::bar(&trainer),
    };
    let outcome = train(&mut trainer, &interrupt, &resume, display)?;
    match outcome {
        Outcome::Done | Outcome::Incomplete => note!("{run}: trained; next: slimbit export {run}"),
        Outcome::Interrupted => {
            let (step, _) = trainer.progress();
            note!("{run}: saved at iteration {step}; continue with: {resume}");
        }
    }
    Ok(outcome)
}

/// What the command line says about settings.
fn overrides(args: &PretrainArgs) -> Result<Vec<String>> {
    let mut overrides = args.overrides.clone();
    if let Some(data) = &args.data {
        overrides.push(data_override(data)?);
    }
    Ok(overrides)
}

/// The settings of a run: those of one that is resumed, of a file, of a recipe, or chosen ones. And what to tell of them.
fn settings(
    args: &PretrainArgs,
    overrides: &[String],
    device: &Device,
) -> Result<(TrainConfig, Vec<String>)> {
    let plain = |config| Ok((config, Vec::new()));
    if let Some(run) = &args.resume {
        let (_, config) = RunDir::open(run)?;
        return plain(TrainConfig::from_toml(&config.to_toml(), overrides)?);
    }
    if let Some(path) = &args.config {
        return plain(TrainConfig::load(path, overrides)?);
    }
    let sets = |key: &str| {
        let mut keys = overrides.iter().filter_map(|text| text.split_once('='));
        keys.any(|(set, _)| set.trim() == key)
    };
    if sets("recipe") {
        return plain(TrainConfig::from_toml("", overrides)?);
    }
    if !sets("data.path") {
        let config = TrainConfig::from_toml("", overrides)?;
        let told = format!(
            "these are the settings of recipe {}; with --data, a run's are chosen by the images and the machine",
            config.recipe
        );
        return Ok((config, vec![told]));
    }
    let choice = Choice::make(overrides, device)?;
    let why = choice.explanation().to_vec();
    Ok((choice.config, why))
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

    /// How to give the terminal back in a hurry.
    fn restore(&self) -> Option<fn()> {
        match self {
            Self::Bar(_) => None,
            Self::Dashboard(_) => Some(ratatui::restore),
        }
    }

    /// Shows an event.
    fn tell(&mut self, event: Event) -> Result<()> {
        let bar = match self {
            Self::Bar(bar) => bar,
            Self::Dashboard(dashboard) => return Ok(dashboard.tell(event)?),
        };
        match event {
            Event::Step {
                record, remaining, ..
            } => bar.tell(&record, remaining),
            Event::Paced {
                per_step,
                steps_left,
                remaining,
            } => note!("{}", pace(per_step, steps_left, remaining)),
            Event::Saved { .. } => {}
            Event::Collapsed(finding) => log::warn!("{finding}"),
            Event::RolledBack { step, lr_factor } => log::warn!(
                "rolled back to iteration {step}; the rate is {lr_factor} of the schedule's"
            ),
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Bar(bar) => bar.meter.finish_and_clear(),
            Self::Dashboard(dashboard) => dashboard.close()?,
        }
        Ok(())
    }
}

/// The measured time of a step, and what follows from it.
pub(super) fn pace(per_step: Duration, steps_left: u64, remaining: Duration) -> String {
    format!(
        "{} per step, {} left: about {} (measured over the first steps)",
        seconds(per_step),
        console::count(steps_left as usize, "step"),
        HumanDuration(remaining)
    )
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 1.0 => format!("{:.0} ms", 1e3 * short),
        long => format!("{long:.1} s"),
    }
}

/// Runs a trainer to its end, to Ctrl-C or to the dashboard's `q`. `resume` is the command that continues it.
pub(super) fn train(
    trainer: &mut Trainer,
    interrupt: &Interrupt,
    resume: &str,
    mut display: Display,
) -> Result<Outcome> {
    let stop = trainer.stop_flag();
    let mut failed = None;
    let training = interrupt.during(trainer.saved(), resume.to_owned(), display.restore());
    let ending = trainer.run(&mut |event| {
        // What cannot be shown any more is saved all the same.
        if let Err(error) = display.tell(event) {
            failed.get_or_insert(error);
        }
        let stopped = failed.is_some() || interrupt.is_raised();
        stop.fetch_or(stopped, Ordering::Relaxed);
    });
    drop(training);
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
