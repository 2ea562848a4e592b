use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use slimbit_data::{Dataset, Loader, LoaderConfig, ViewBatch};
use slimbit_graph::{Array, Graph, Shape, Width, backbones};
use slimbit_nn::{describe_device, parse_device};

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::config::{Init, Loss, WatchAction};
use crate::cost::macs_per_image;
use crate::event::{Event, Outcome};
use crate::images::ImageList;
use crate::lock::RunLock;
use crate::pace::Pace;
use crate::run_dir::{Recorder, RunDir, StepRecord};
use crate::saved::Saved;
use crate::schedule::Timeline;
use crate::ssl::{Learner, Moment, Networks, find_frozen};
use crate::watch::{Finding, Watch};
use crate::weights::find_start;
use crate::{TrainConfig, TrainError};

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
    saved: Arc<Saved>,
    /// What is special about this run, told before it begins.
    notes: Vec<String>,
    _lock: RunLock,
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
        RunDir::vacant(run_dir)?;
        let loader = open_loader(&config)?;
        let teacher = find_frozen(&config)?;
        let start = find_start(&config, &graph)?;
        let device = parse_device("cpu")?;
        let learner = match &start {
            Some(start) => {
                Learner::start(graph, &start.params, &config, teacher.as_ref(), &device)?
            }
            None => Learner::init(graph, &config, teacher.as_ref(), &device)?,
        };
        let images = ImageList::of(loader.dataset())?;
        let lock = RunLock::take(run_dir)?;
        let run = RunDir::create(run_dir, &config)?;
        images.write(&run.images())?;
        // Before the first checkpoint, without which there is nothing to resume.
        if let Some(teacher) = &teacher {
            run.keep_teacher(teacher)?;
        }
        let notes = start.map(|start| start.notes).unwrap_or_default();
        let watch = Watch::default();
        let trainer = Self::assemble(config, (run, lock), loader, learner, watch, 0, notes);
        if let Init::From(_) = trainer.config.model.init {
            trainer.run.keep_start(&trainer.checkpoint())?;
        }
        trainer.save()?;
        Ok(trainer)
    }

    pub(crate) fn assemble(
        config: TrainConfig,
        (run, lock): (RunDir, RunLock),
        loader: Loader,
        learner: Learner,
        watch: Watch,
        step: u64,
        notes: Vec<String>,
    ) -> Self {
        let timeline = Timeline::new(config.schedule, config.epochs, loader.batches() as u64);
        let checkpoints = run.checkpoints(config.run.keep);
        Self {
            config,
            run,
            checkpoints,
            timeline,
            loader,
            learner,
            watch,
            step,
            stop: Arc::new(AtomicBool::new(false)),
            saved: Arc::new(Saved::at(step)),
            notes,
            _lock: lock,
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

    /// What is special about this run, in a sentence each: the weights it starts from, and what changed since it was
    /// last trained. `log.txt` has them too.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds a line to what `log.txt` says before the run begins: why its settings are what they are.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Raise this flag, from any thread, to save and stop before the next iteration.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// How far the run is saved. Whoever holds it may end the process: nothing is being written then, and the run
    /// resumes at the iteration that it tells.
    pub fn saved(&self) -> Arc<Saved> {
        Arc::clone(&self.saved)
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
        let graph = self.learner.graph();
        (self.config).check_device_for(graph, &self.learner.device())?;
        let mut recorder = Recorder::open(&self.run, self.step)?;
        let (done, steps) = self.progress();
        recorder.log(&format!(
            "{} images, {} epochs, {steps} iterations; starting at {done} on {}",
            self.loader.dataset().len(),
            self.timeline.epochs(),
            describe_device(&self.learner.device()),
        ))?;
        for note in std::mem::take(&mut self.notes) {
            recorder.log(&note)?;
        }
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
        let mut pace = Pace::start(macs_per_image(&self.config, self.learner.graph())?);
        let mut saved = Instant::now();
        while self.step < steps {
            if self.stop.load(Ordering::Relaxed) {
                self.save_and_tell(recorder, on_event)?;
                return Ok(Outcome::Interrupted);
            }
            let (epoch, batch) = self.timeline.position(self.step);
            for views in self.loader.epoch(epoch, batch as usize) {
                let quarter = self.timeline.quarter(self.step);
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
                let remaining = pace.remaining(&self.timeline, self.step);
                on_event(Event::Step {
                    record,
                    steps,
                    remaining,
                });
                if let Some(per_step) = pace.news(quarter) {
                    let steps_left = steps - self.step;
                    recorder.log(&format!(
                        "{:.3} s per iteration, {steps_left} iterations left, about {:.0} s",
                        per_step.as_secs_f64(),
                        remaining.as_secs_f64()
                    ))?;
                    on_event(Event::Paced {
                        per_step,
                        steps_left,
                        remaining,
                    });
                }
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
                // Before the next images are waited for. What is done is saved at once.
                let stopped = self.stop.load(Ordering::Relaxed);
                if self.step < steps && (stopped || self.is_due(saved.elapsed())) {
                    self.save_and_tell(recorder, on_event)?;
                    saved = Instant::now();
                    if stopped {
                        return Ok(Outcome::Interrupted);
                    }
                }
            }
        }
        self.save_and_tell(recorder, on_event)?;
        Ok(Outcome::Finished)
    }

    /// Whether it is time for a checkpoint, so long after the last one.
    fn is_due(&self, since: Duration) -> bool {
        let run = &self.config.run;
        let seconds = 60.0 * run.checkpoint_minutes;
        self.step.is_multiple_of(run.checkpoint_every)
            || seconds > 0.0 && since.as_secs_f64() >= seconds
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
                let (config, teacher) = (&self.config, teacher.as_ref());
                self.learner = match self.run.start()? {
                    Some(start) => Learner::from_checkpoint(&start, config, teacher, &device)?,
                    None => {
                        let graph = self.learner.graph().clone();
                        Learner::init(graph, config, teacher, &device)?
                    }
                };
                self.watch = Watch::default();
                self.step = 0;
            }
        }
        self.watch.lr_factor = lr_factor * settings.lower_lr as f32;
        self.watch.rollbacks = rollbacks + 1;
        let mut saved = self.saved.hold();
        self.checkpoints.go_back_to(&self.checkpoint())?;
        *saved = self.step;
        drop(saved);
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
        let images_per_second = images / pace.lap(quarter).as_secs_f64().max(1e-9);
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
        // Not one that the clock or Ctrl-C asked for: what a run rolls back to must not depend on them.
        let planned = self.step.is_multiple_of(self.config.run.checkpoint_every);
        let rolls_back = self.config.watch.action == WatchAction::Rollback;
        let mut saved = self.saved.hold();
        if planned && rolls_back && self.watch.is_healthy(&self.config) {
            self.run.healthy().save(&checkpoint)?;
        }
        let path = self.checkpoints.save(&checkpoint)?;
        *saved = self.step;
        Ok(path)
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

pub(crate) fn watch_of(checkpoint: &Checkpoint) -> Watch {
    let array = checkpoint.tensors.get(Checkpoint::WATCH);
    array.and_then(Watch::from_array).unwrap_or_default()
}

pub(crate) fn open_loader(config: &TrainConfig) -> Result<Loader, TrainError> {
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
