//! A run that goes on, perhaps longer, or with images that changed.

use std::path::Path;

use slimbit_nn::parse_device;

use crate::config::{CHANGEABLE, Change};
use crate::images::ImageList;
use crate::lock::RunLock;
use crate::run_dir::RunDir;
use crate::schedule::Timeline;
use crate::ssl::Learner;
use crate::trainer::{open_loader, watch_of};
use crate::{TrainConfig, TrainError, Trainer};

/// What may be different when a run goes on.
///
/// With another number of epochs, everything that follows from the length of a run (the learning rate, the smallest
/// widths and bits, the group penalty) is from here on what it would be in a run of that length. What is done stays
/// done: a run that ended at a rate of 0 and is made twice as long goes on at half of the initial rate.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// `key=value`: `epochs`, `workers`, `data.path`, and all of `run` and `watch`.
    pub overrides: Vec<String>,
    /// Goes on although images were added, removed or replaced. Iterations keep their numbers; an epoch has as many as
    /// the images give from here on.
    pub allow_changed_data: bool,
}

impl Trainer {
    /// Resumes a run from its last intact checkpoint.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where there is no run, its settings or its images were changed, or another process trains
    /// in it; [`TrainError::Checkpoint`] where no checkpoint is intact; data that cannot be used.
    pub fn resume(run_dir: &Path) -> Result<Self, TrainError> {
        Self::resume_with(run_dir, &Resume::default())
    }

    /// Resumes a run with other settings, of those that may change. They become the run's: `config.toml` has them, and
    /// `log.txt` tells since when.
    ///
    /// # Errors
    /// As [`Trainer::resume`], and [`TrainError::ConfigValue`] for a setting that may not change, or for fewer epochs
    /// than are done.
    pub fn resume_with(run_dir: &Path, how: &Resume) -> Result<Self, TrainError> {
        let (run, on_disk) = RunDir::open(run_dir)?;
        let lock = RunLock::take(run_dir)?;
        let refuse = |what: String| TrainError::RunDir {
            path: run_dir.to_owned(),
            what,
        };
        let checkpoint = run.checkpoints(on_disk.run.keep).latest()?.ok_or_else(|| {
            refuse("has no checkpoint; remove the folder and start again".to_owned())
        })?;
        let edited = on_disk.changes_since(&checkpoint.config);
        if let Some(change) = edited.iter().find(|change| !change.is_allowed()) {
            return Err(refuse(format!(
                "config.toml was changed since the last checkpoint: {change}; restore it, or start a new run \
                 (only {CHANGEABLE} may change)"
            )));
        }
        let config = on_disk.with(&how.overrides)?;
        let overridden = config.changes_since(&on_disk);
        if let Some(change) = overridden.iter().find(|change| !change.is_allowed()) {
            let what = format!(
                "{} cannot become {} in a run that has begun; only {CHANGEABLE} may change. \
                 To go on from its weights with other settings, start a new run with model.init={}",
                change.before,
                change.after,
                run_dir.display()
            );
            return Err(TrainError::value(&change.key, what));
        }

        let loader = open_loader(&config)?;
        let step = checkpoint.step;
        let per_epoch = loader.batches() as u64;
        let timeline = Timeline::new(config.schedule, config.epochs, per_epoch);
        let changes = config.changes_since(&checkpoint.config);
        let mut notes = notes_of(&changes, &checkpoint.config, &config, per_epoch, step);

        let now = ImageList::of(loader.dataset())?;
        let then = ImageList::read(&run.images())?;
        let difference = then.as_ref().and_then(|then| then.difference(&now));
        if let Some(difference) = &difference {
            if !how.allow_changed_data {
                return Err(difference.refusal(run_dir));
            }
            notes.push(format!(
                "the images changed: {difference}; iterations of an epoch from {step} on: {per_epoch}"
            ));
        }
        if timeline.steps() < step {
            let what = format!(
                "{} epochs of these images are {} iterations, and {step} are done; choose more",
                config.epochs,
                timeline.steps()
            );
            return Err(TrainError::value("epochs", what));
        }

        let teacher = run.teacher(&config)?;
        let device = parse_device("cpu")?;
        let learner = Learner::from_checkpoint(&checkpoint, &config, teacher.as_ref(), &device)?;
        let watch = watch_of(&checkpoint);
        // Nothing that could be refused is left.
        if !overridden.is_empty() {
            run.change_config(&config)?;
        }
        if then.is_none() || difference.is_some() {
            now.write(&run.images())?;
        }
        Ok(Self::assemble(
            config,
            (run, lock),
            loader,
            learner,
            watch,
            step,
            notes,
        ))
    }
}

/// What to tell about settings that changed since the last checkpoint.
fn notes_of(
    changes: &[Change],
    before: &TrainConfig,
    config: &TrainConfig,
    per_epoch: u64,
    step: u64,
) -> Vec<String> {
    let mut notes: Vec<String> = changes
        .iter()
        .map(|change| format!("changed at iteration {step}: {change}"))
        .collect();
    if before.epochs != config.epochs {
        let rate =
            |epochs| Timeline::new(config.schedule, epochs, per_epoch).lr(config.optim.lr, step);
        let quarter = Timeline::new(config.schedule, config.epochs, per_epoch).quarter(step) + 1;
        notes.push(format!(
            "the learning rate goes on at {:.4} as in a run of {} epochs (it was {:.4} of {}), and widths and bits as in \
             quarter {quarter} of 4",
            rate(config.epochs),
            config.epochs,
            rate(before.epochs),
            before.epochs
        ));
    }
    notes
}
