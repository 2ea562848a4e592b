use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use slimbit_data::{Dataset, Loader, LoaderConfig, ViewBatch};
use slimbit_graph::{Array, Graph, Shape, Width, backbones};
use slimbit_nn::{describe_device, parse_device};

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::config::{Loss, WatchAction};
use crate::run_dir::{Recorder, RunDir, StepRecord};
use crate::schedule::Timeline;
use crate::ssl::{Learner, Moment, Networks, find_frozen};
use crate::watch::{Finding, Watch};
use crate::{TrainConfig, TrainError};

/// What a run reports while it trains.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An iteration is done.
    Step {
        /// What it did.
        record: StepRecord,
        /// Iterations of the whole run.
        steps: u64,
        /// Time to the end at the recent pace.
        remaining: Duration,
    },
    /// A checkpoint is on the disk.
    Saved {
        /// Iterations done.
        step: u64,
        /// The file.
        path: PathBuf,
    },
    /// The representation collapsed.
    Collapsed(Finding),
    /// The run was rolled back, and continues at a lower rate.
    RolledBack {
        /// Iterations done now.
        step: u64,
        /// Factor on the learning rate from here on.
        lr_factor: f32,
    },
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All iterations are done.
    Finished,
    /// The stop flag was raised; a checkpoint was saved.
    Interrupted,
}

/// A training run: the network, its data and its run directory.
///
/// A run that is killed at any moment and resumed ends with the same bits as one that is not: draws are functions of
/// the iteration's number, and a checkpoint holds everything else. It trains on the CPU unless it is told
/// [another device](Trainer::on_device).
pub struct Trainer {
    config: TrainConfig,
    run: RunDir,
    checkpoints: Checkpoints,
    timeline: Timeline,
    loader: Loader,
    learner: Learner,
    watch: Watch,
    step: u64,
    stop: Arc<AtomicBool>,
}

impl Trainer {
    /// Begins a run of the backbone that the settings name, in a folder that holds no run yet.
    ///
    /// # Errors
    /// Settings, data or a folder that cannot be used.
    pub fn new(config: TrainConfig, run_dir: &Path) -> Result<Self, TrainError> {
        config.validate()?;
        let input = &config.preprocess;
        let graph = backbones::by_name(
            &config.model.backbone,
            input.channels,
            input.height,
            input.width,
            None,
        )?;
        Self::with_graph(config, graph, run_dir)
    }

    /// Begins a run of a network of one's own; `model.backbone` is not looked at. The network needs the output
    /// `features`, a vector.
    ///
    /// # Errors
    /// As [`Trainer::new`], and where the network does not fit the input of the settings.
    pub fn with_graph(
        config: TrainConfig,
        graph: Graph,
        run_dir: &Path,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        check_fit(&config, &graph)?;
        let loader = open_loader(&config)?;
        let teacher = find_frozen(&config)?;
        let learner = Learner::init(graph, &config, teacher.as_ref(), &parse_device("cpu")?)?;
        let run = RunDir::create(run_dir, &config)?;
        // Before the first checkpoint, without which there is nothing to resume.
        if let Some(teacher) = &teacher {
            run.keep_teacher(teacher)?;
        }
        let trainer = Self::assemble(config, run, loader, learner, Watch::default(), 0);
        trainer.save()?;
        Ok(trainer)
    }

    /// Resumes a run from its last intact checkpoint.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where there is no run or its settings were changed; [`TrainError::Checkpoint`] where
    /// no checkpoint is intact; data that cannot be used.
    pub fn resume(run_dir: &Path) -> Result<Self, TrainError> {
        let (run, config) = RunDir::open(run_dir)?;
        let refuse = |what: &str| TrainError::RunDir {
            path: run_dir.to_owned(),
            what: what.to_owned(),
        };
        let checkpoint = run
            .checkpoints(config.run.keep)
            .latest()?
            .ok_or_else(|| refuse("has no checkpoint; remove the folder and start again"))?;
        if !config.trains_the_same_as(&checkpoint.config) {
            return Err(refuse(
                "config.toml was changed since the last checkpoint; restore it, or start a new run \
                 (only workers, data.path and run.* may change)",
            ));
        }
        let loader = open_loader(&config)?;
        let step = checkpoint.step;
        let teacher = run.teacher(&config)?;
        let device = parse_device("cpu")?;
        let learner = Learner::from_checkpoint(&checkpoint, &config, teacher.as_ref(), &device)?;
        let watch = watch_of(&checkpoint);
        Ok(Self::assemble(config, run, loader, learner, watch, step))
    }

    fn assemble(
        config: TrainConfig,
        run: RunDir,
        loader: Loader,
        learner: Learner,
        watch: Watch,
        step: u64,
    ) -> Self {
        let timeline = Timeline::new(config.schedule, config.epochs, loader.batches() as u64);
        let checkpoints = run.checkpoints(config.run.keep);
        let stop = Arc::new(AtomicBool::new(false));
        Self {
            config,
            run,
            checkpoints,
            timeline,
            loader,
            learner,
            watch,
            step,
            stop,
        }
    }

    /// Moves training to another device; the state stays bit-identical. The device is not part of the run: neither the
    /// settings nor the checkpoints name it, and each resumed part may be on another. Bits are reproduced on one and
    /// the same device only.
    ///
    /// # Errors
    /// A frozen teacher of the run that cannot be read.
    pub fn on_device(mut self, device: &Device) -> Result<Self, TrainError> {
        if *device == self.learner.device() {
            return Ok(self);
        }
        let teacher = self.run.teacher(&self.config)?;
        let state = self.checkpoint();
        self.learner = Learner::from_checkpoint(&state, &self.config, teacher.as_ref(), device)?;
        Ok(self)
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The run directory.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// Iterations done, and iterations of the whole run.
    pub fn progress(&self) -> (u64, u64) {
        (self.step, self.timeline.steps())
    }

    /// Raise this flag, from any thread, to save and stop before the next iteration.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The run as it is now.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut checkpoint = self.learner.to_checkpoint(&self.config, self.step);
        let watch = (Checkpoint::WATCH.to_owned(), self.watch.to_array());
        checkpoint.tensors.extend([watch]);
        checkpoint
    }

    /// Trains to the end, or until the stop flag is raised.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] where training diverges and [`TrainError::Collapsed`] where the networks collapse, unless the
    /// watch may roll back; [`TrainError::Io`] where something cannot be written; [`TrainError::Data`]. The last
    /// checkpoint is intact in every case.
    pub fn run(&mut self, on_event: &mut dyn FnMut(Event)) -> Result<Outcome, TrainError> {
        self.config.check_device(&self.learner.device())?;
        let mut recorder = Recorder::open(&self.run, self.step)?;
        let (done, steps) = self.progress();
        recorder.log(&format!(
            "{} images, {} epochs, {steps} iterations; starting at {done} on {}",
            self.loader.dataset().len(),
            self.timeline.epochs(),
            describe_device(&self.learner.device()),
        ))?;
        let result = self.train(&mut recorder, on_event);
        let told = recorder.log(&match &result {
            Ok(Outcome::Finished) => "finished".to_owned(),
            Ok(Outcome::Interrupted) => format!("interrupted after {} iterations", self.step),
            Err(error) => format!("stopped: {error}"),
        });
        let outcome = result?;
        told.map(|()| outcome)
    }

    fn train(
        &mut self,
        recorder: &mut Recorder,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<Outcome, TrainError> {
        let steps = self.timeline.steps();
        let mut pace = Pace::start();
        while self.step < steps {
            let (epoch, batch) = self.timeline.position(self.step);
            for views in self.loader.epoch(epoch, batch as usize) {
                if self.stop.load(Ordering::Relaxed) {
                    self.save_and_tell(recorder, on_event)?;
                    return Ok(Outcome::Interrupted);
                }
                let record = match self.iterate(&views?, &mut pace) {
                    Err(error @ TrainError::NotFinite { .. })
                        if self.config.watch.action == WatchAction::Rollback =>
                    {
                        recorder.log(&error.to_string())?;
                        self.roll_back(recorder, on_event, error)?;
                        break;
                    }
                    other => other?,
                };
                if record.step.is_multiple_of(self.config.run.log_every) || self.step == steps {
                    recorder.record(&record)?;
                }
                let finding = self.watch(&record);
                let remaining = pace.remaining(steps - self.step);
                on_event(Event::Step {
                    record,
                    steps,
                    remaining,
                });
                if let Some(finding) = finding {
                    recorder.log(&finding.to_string())?;
                    on_event(Event::Collapsed(finding.clone()));
                    match self.config.watch.action {
                        WatchAction::Off | WatchAction::Warn => {}
                        WatchAction::Stop => return Err(TrainError::Collapsed(finding)),
                        WatchAction::Rollback => {
                            self.roll_back(recorder, on_event, TrainError::Collapsed(finding))?;
                            break;
                        }
                    }
                }
                if self.step.is_multiple_of(self.config.run.checkpoint_every) && self.step < steps {
                    self.save_and_tell(recorder, on_event)?;
                }
            }
        }
        self.save_and_tell(recorder, on_event)?;
        Ok(Outcome::Finished)
    }

    fn watch(&mut self, record: &StepRecord) -> Option<Finding> {
        match self.config.watch.action {
            WatchAction::Off => None,
            _ => self.watch.see(&self.config, record),
        }
    }

    /// Goes back to the last healthy checkpoint, or to the beginning, and lowers the rate; gives up with `cause` after
    /// so many times.
    fn roll_back(
        &mut self,
        recorder: &mut Recorder,
        on_event: &mut dyn FnMut(Event),
        cause: TrainError,
    ) -> Result<(), TrainError> {
        let settings = &self.config.watch;
        let Watch {
            lr_factor,
            rollbacks,
            ..
        } = self.watch;
        if rollbacks == settings.most_rollbacks {
            return Err(cause);
        }
        let teacher = self.run.teacher(&self.config)?;
        let device = self.learner.device();
        match self.run.healthy().latest() {
            Ok(Some(checkpoint)) => {
                let teacher = teacher.as_ref();
                self.learner =
                    Learner::from_checkpoint(&checkpoint, &self.config, teacher, &device)?;
                self.watch = watch_of(&checkpoint);
                self.step = checkpoint.step;
            }
            _ => {
                let graph = self.learner.graph().clone();
                self.learner = Learner::init(graph, &self.config, teacher.as_ref(), &device)?;
                self.watch = Watch::default();
                self.step = 0;
            }
        }
        self.watch.lr_factor = lr_factor * settings.lower_lr as f32;
        self.watch.rollbacks = rollbacks + 1;
        self.checkpoints.go_back_to(&self.checkpoint())?;
        let (step, lr_factor) = (self.step, self.watch.lr_factor);
        *recorder = Recorder::open(&self.run, step)?;
        recorder.log(&format!(
            "rolled back to iteration {step}; the learning rate is {lr_factor} of the schedule's from here on"
        ))?;
        on_event(Event::RolledBack { step, lr_factor });
        Ok(())
    }

    fn iterate(&mut self, views: &ViewBatch, pace: &mut Pace) -> Result<StepRecord, TrainError> {
        let (step, config) = (self.step, &self.config);
        let (epoch, _) = self.timeline.position(step);
        let lr = self.lr();
        let quarter = self.timeline.quarter(step);
        let drawn = Networks::draw(&config.objective, config.seed, step, quarter);
        let images = views.n as f64;
        let classes = match config.objective.base_loss {
            Loss::CrossEntropy => Some(self.classes(views)?),
            _ => None,
        };
        let moment = Moment { step, epoch, lr };
        let networks = self
            .learner
            .iterate(config, &drawn, views, classes.as_deref(), moment)?;
        self.step += 1;
        let images_per_second = images / pace.lap().as_secs_f64().max(1e-9);
        Ok(StepRecord {
            step,
            epoch,
            lr,
            networks,
            images_per_second,
        })
    }

    /// The rate of the coming iteration.
    fn lr(&self) -> f64 {
        self.timeline.lr(self.config.optim.lr, self.step) * f64::from(self.watch.lr_factor)
    }

    fn classes(&self, views: &ViewBatch) -> Result<Vec<u32>, TrainError> {
        let (dataset, most) = (self.loader.dataset(), self.config.heads.dim);
        let class = |&index: &usize| match dataset.label(index) {
            Some(class) if (class as usize) < most => Ok(class),
            Some(class) => Err(TrainError::value(
                "heads.dim",
                format!("{most} classes are too few for label {class}"),
            )),
            None => Err(TrainError::value(
                "data.path",
                format!(
                    "{} has no labels, which base_loss = \"crossentropy\" needs",
                    dataset.name(index)
                ),
            )),
        };
        views.indices.iter().map(class).collect()
    }

    fn save(&self) -> Result<PathBuf, TrainError> {
        let checkpoint = self.checkpoint();
        let broken = |array: &Array| array.data.iter().any(|v| !v.is_finite());
        if let Some((name, _)) = checkpoint.tensors.iter().find(|(_, array)| broken(array)) {
            return Err(TrainError::NotFinite {
                step: self.step,
                place: "before it was saved".to_owned(),
                lr: self.lr(),
                what: format!("`{name}` is not finite"),
            });
        }
        let settings = &self.config.watch;
        if settings.action == WatchAction::Rollback && self.watch.is_healthy(&self.config) {
            self.run.healthy().save(&checkpoint)?;
        }
        self.checkpoints.save(&checkpoint)
    }

    fn save_and_tell(
        &self,
        recorder: &mut Recorder,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(), TrainError> {
        let (step, path) = (self.step, self.save()?);
        recorder.log(&format!("saved {}", path.display()))?;
        on_event(Event::Saved { step, path });
        Ok(())
    }
}

/// The time that iterations take, smoothed.
struct Pace {
    last: Instant,
    smoothed: Option<f64>,
}

impl Pace {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            smoothed: None,
        }
    }

    fn lap(&mut self) -> Duration {
        let lap = self.last.elapsed();
        self.last = Instant::now();
        let seconds = lap.as_secs_f64();
        self.smoothed = Some(
            self.smoothed
                .map_or(seconds, |old| 0.95 * old + 0.05 * seconds),
        );
        lap
    }

    fn remaining(&self, steps: u64) -> Duration {
        let seconds = self.smoothed.unwrap_or(0.0) * steps as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

fn watch_of(checkpoint: &Checkpoint) -> Watch {
    let array = checkpoint.tensors.get(Checkpoint::WATCH);
    array.and_then(Watch::from_array).unwrap_or_default()
}

fn open_loader(config: &TrainConfig) -> Result<Loader, TrainError> {
    if config.data.path.as_os_str().is_empty() {
        let what = "is empty; name the folder with the images (--data)";
        return Err(TrainError::value("data.path", what));
    }
    let dataset = Dataset::open(&config.data.path)?;
    if config.batch > dataset.len() {
        let what = format!(
            "{} is more than the {} images; choose a smaller batch",
            config.batch,
            dataset.len()
        );
        return Err(TrainError::value("batch", what));
    }
    let settings = LoaderConfig {
        batch: config.batch,
        workers: config.workers,
        seed: config.seed,
        ..LoaderConfig::default()
    };
    Ok(Loader::new(
        Arc::new(dataset),
        settings,
        config.augment.clone(),
        config.preprocess.clone(),
    )?)
}

fn check_fit(config: &TrainConfig, graph: &Graph) -> Result<(), TrainError> {
    let input = &config.preprocess;
    let wanted = Shape::Map {
        channels: input.channels,
        height: input.height,
        width: input.width,
    };
    if graph.input_shape() != wanted {
        let what = format!(
            "{wanted} is not the network's input {}",
            graph.input_shape()
        );
        return Err(TrainError::value("preprocess", what));
    }
    match graph.output_shape("features", Width::FULL)? {
        Shape::Vector { .. } => Ok(()),
        shape => Err(TrainError::value(
            "model.backbone",
            format!(
                "the output `features` of {} has shape {shape}, wanted a vector",
                graph.name()
            ),
        )),
    }
}
