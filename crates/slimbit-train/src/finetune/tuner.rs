use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use slimbit_data::Preprocess;
use slimbit_graph::{Array, ClassNames, Graph, Params, Width};
use slimbit_nn::{
    Averaging, Mode, Net, NormMode, Observer, Penalty, Quantisation, Sgd, losses, parse_device,
};

use super::classifier::{CLASSIFIER, classifier_shape, set_classifier, with_classifier};
use super::examples::{Batch, Examples};
use super::folder::{Folder, Metrics};
use super::{FineTuneConfig, FineTuneRecord, Freeze, layers};
use crate::cost::{check_memory, tuning_bytes};
use crate::images::ImageList;
use crate::machine::Memory;
use crate::probe::{Features, LinearProbe};
use crate::{Checkpoint, Outcome, RunDir, RunLock, Saved, TrainConfig, TrainError};

/// Images per batch where statistics are estimated, and how many of them at most.
const BATCH: usize = 128;
const STATISTICS: usize = 2048;

/// Where a checkpoint keeps what.
const NET: &str = "net/";
const MOMENTUM: &str = "momentum/";

type Norms = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// A fine-tuning: one width of a pre-trained network, a classifier, and labelled images.
pub struct FineTuner {
    config: FineTuneConfig,
    /// The settings of the pre-training.
    source: TrainConfig,
    folder: Folder,
    examples: Examples,
    net: Net,
    sgd: Sgd,
    /// Batch-norm statistics, where the backbone is frozen.
    norms: Option<Norms>,
    step: u64,
    stop: Arc<AtomicBool>,
    saved: Arc<Saved>,
    _lock: RunLock,
}

/// A tuned network in float.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The graph, with the outputs `features` and `logits`.
    pub graph: Graph,
    /// Its parameters.
    pub params: Params,
    /// Mean and biased variance of every batch-norm, by node name.
    pub norms: Norms,
    /// The evaluation transform.
    pub preprocess: Preprocess,
    /// The classes, in the order of the logits.
    pub classes: ClassNames,
}

impl FineTuner {
    /// Begins a fine-tuning in a folder that holds none yet.
    ///
    /// # Errors
    /// Settings, a run, data or a folder that cannot be used.
    pub fn new(mut config: FineTuneConfig, folder: &Path) -> Result<Self, TrainError> {
        config.validate()?;
        let vacant = Folder::vacant(folder)?;
        let (run, settings) = RunDir::open(&config.run)?;
        let checkpoint = run.checkpoints(settings.run.keep).latest()?;
        let checkpoint = checkpoint.ok_or_else(|| TrainError::RunDir {
            path: config.run.clone(),
            what: "has no checkpoint yet; train it first".to_owned(),
        })?;
        let source = checkpoint.config.clone();
        let batch = config.batch;
        check_memory(
            tuning_bytes(&checkpoint.graph, batch)?,
            &Memory::detect(),
            &format!("batch = {batch} and {}", checkpoint.graph.name()),
            "lower it",
        )?;
        let examples = Examples::open(&config, &source.preprocess, false)?;
        config.classes = examples.names.names().to_vec();
        let classes = examples.names.len();
        let (graph, mut params) = with_classifier(
            &checkpoint.graph,
            &checkpoint.params_at(config.width)?,
            config.width,
            classes,
        )?;
        set_classifier(
            &mut params,
            LinearProbe {
                seed: config.seed,
                ..LinearProbe::default()
            }
            .start(classes, features_of(&graph)?),
        );
        let lock = RunLock::take(folder)?;
        let folder = (vacant, lock);
        let mut tuner = Self::assemble(config, source, folder, examples, (graph, params), 0)?;
        tuner.warm_head()?;
        tuner.folder.begin(&tuner.config)?;
        ImageList::of(&tuner.examples.dataset)?.write(&tuner.folder.images())?;
        tuner.save()?;
        Ok(tuner)
    }

    /// Takes a fine-tuning up at its last intact checkpoint.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where there is none; [`TrainError::Checkpoint`] where no checkpoint is intact; data that
    /// cannot be used.
    pub fn resume(folder: &Path) -> Result<Self, TrainError> {
        Self::resume_with(folder, None, false)
    }

    /// Takes a fine-tuning up for another number of epochs in all, where one is given. The learning rate is then what it
    /// would be at this step of a tuning of that length, so it rises again where its falls move to later epochs.
    /// `allow_changed_data` goes on although images were added, removed or replaced.
    ///
    /// # Errors
    /// As [`FineTuner::resume`], and [`TrainError::ConfigValue`] for fewer epochs than are done.
    pub fn resume_with(
        path: &Path,
        epochs: Option<u64>,
        allow_changed_data: bool,
    ) -> Result<Self, TrainError> {
        let (folder, before) = Folder::open(path)?;
        let lock = RunLock::take(path)?;
        let config = FineTuneConfig {
            epochs: epochs.unwrap_or(before.epochs),
            ..before.clone()
        };
        config.validate()?;
        let checkpoint = folder
            .checkpoints()
            .latest()?
            .ok_or_else(|| TrainError::RunDir {
                path: folder.path().to_owned(),
                what: "was stopped before its first checkpoint; remove the folder and start again"
                    .to_owned(),
            })?;
        let examples = Examples::open(&config, &checkpoint.config.preprocess, true)?;
        let images = ImageList::of(&examples.dataset)?;
        let record = ImageList::read(&folder.images())?;
        let difference = record.as_ref().and_then(|then| then.difference(&images));
        if let Some(difference) = difference.as_ref().filter(|_| !allow_changed_data) {
            return Err(difference.refusal(path));
        }
        let parts = (checkpoint.graph.clone(), checkpoint.params());
        let source = checkpoint.config.clone();
        let folder = (folder, lock);
        let mut tuner = Self::assemble(config, source, folder, examples, parts, checkpoint.step)?;
        if classifier_shape(&tuner.net)?[0] != tuner.examples.names.len() {
            let what = format!(
                "{} has {} classes now, and {} when the tuning began",
                tuner.config.data.display(),
                tuner.examples.names.len(),
                classifier_shape(&tuner.net)?[0]
            );
            return Err(TrainError::value("data", what));
        }
        let bytes = tuner.momentum_bytes(&checkpoint);
        tuner.sgd.load_bytes(&bytes, &[tuner.net.store()])?;
        let (done, steps) = tuner.progress();
        if tuner.config.epochs != before.epochs {
            if steps < done {
                let what = format!(
                    "{} are {steps} steps, and {done} are done; choose more",
                    tuner.config.epochs
                );
                return Err(TrainError::value("epochs", what));
            }
            tuner.folder.write_config(&tuner.config)?;
        }
        if record.is_none() || difference.is_some() {
            images.write(&tuner.folder.images())?;
        }
        Ok(tuner)
    }

    fn assemble(
        config: FineTuneConfig,
        source: TrainConfig,
        (folder, lock): (Folder, RunLock),
        examples: Examples,
        (graph, params): (Graph, Params),
        step: u64,
    ) -> Result<Self, TrainError> {
        let device = parse_device("cpu")?.autodiff();
        let net = Net::from_params(graph, &params, &device)?;
        let rates = layers::rates(&net, &config)?;
        let sgd =
            Sgd::new(config.momentum, config.weight_decay, &[net.store()]).with_rates(vec![rates]);
        let mut tuner = Self {
            config,
            source,
            folder,
            examples,
            net,
            sgd,
            norms: None,
            step,
            stop: Arc::default(),
            saved: Arc::new(Saved::at(step)),
            _lock: lock,
        };
        if tuner.config.freeze == Freeze::All {
            tuner.norms = Some(tuner.estimate()?);
        }
        Ok(tuner)
    }

    /// The settings.
    pub fn config(&self) -> &FineTuneConfig {
        &self.config
    }

    /// Steps done, and steps in all.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.step,
            self.config.epochs * self.examples.batches() as u64,
        )
    }

    /// Labelled images that are used, and classes.
    pub fn labels(&self) -> (usize, usize) {
        (self.examples.len(), self.examples.names.len())
    }

    /// Raise this flag, from any thread, to save and stop before the next step.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// How far the tuning is saved, as [`Trainer::saved`](crate::Trainer::saved).
    pub fn saved(&self) -> Arc<Saved> {
        Arc::clone(&self.saved)
    }

    /// Trains to the end, or until the stop flag is raised. `on_step` is told of every step.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] where training diverges, [`TrainError::Io`], [`TrainError::Data`]. The last
    /// checkpoint is intact in every case.
    pub fn run(&mut self, on_step: &mut dyn FnMut(&FineTuneRecord)) -> Result<Outcome, TrainError> {
        let mut metrics: Metrics = self.folder.metrics(self.step)?;
        let (_, steps) = self.progress();
        let mut saved = Instant::now();
        while self.step < steps {
            if self.stop.load(Ordering::Relaxed) {
                self.save()?;
                return Ok(Outcome::Interrupted);
            }
            let record = self.iterate()?;
            metrics.record(&record)?;
            on_step(&record);
            let seconds = 60.0 * self.config.checkpoint_minutes;
            if self.step.is_multiple_of(self.config.checkpoint_every)
                || self.step == steps
                || seconds > 0.0 && saved.elapsed().as_secs_f64() >= seconds
            {
                self.save()?;
                saved = Instant::now();
            }
        }
        Ok(Outcome::Finished)
    }

    fn iterate(&mut self) -> Result<FineTuneRecord, TrainError> {
        let batches = self.examples.batches() as u64;
        let (step, epoch) = (self.step, self.step / batches);
        let drops = [3, 4]
            .iter()
            .filter(|&&fifths| 5 * epoch >= fifths * self.config.epochs)
            .count();
        let lr = self.config.lr * 0.1_f64.powi(drops as i32);
        let batch = self.examples.augmented(epoch, (step % batches) as usize)?;
        let logits = self.logits(&batch)?;
        let classes: Vec<i64> = batch.classes.iter().map(|&class| class.into()).collect();
        let device = self.net.store().device().clone().without_autodiff();
        let classes = Tensor::<1, Int>::from_data(classes.as_slice(), &device);
        let answers = logits.clone().without_autodiff().argmax(1).flatten(0, 1);
        let accuracy: f32 = answers.equal(classes.clone()).float().mean().into_scalar();
        let loss = losses::cross_entropy(logits, classes);
        let value: f32 = loss.clone().without_autodiff().into_scalar();
        if !value.is_finite() {
            let what = format!(
                "{} made the loss {value} at step {step}; lower it and start again, the last checkpoint is intact",
                self.config.lr
            );
            return Err(TrainError::value("lr", what));
        }
        let mut gradients = [vec![loss.backward()]];
        self.sgd.step(
            lr,
            &mut [self.net.store_mut()],
            &mut gradients,
            Penalty::None,
        )?;
        self.step += 1;
        Ok(FineTuneRecord {
            step,
            epoch,
            lr,
            loss: value.into(),
            accuracy: accuracy.into(),
        })
    }

    /// `[images, classes]`, with a tape to everything that learns.
    fn logits(&self, batch: &Batch) -> Result<Tensor<2>, TrainError> {
        let images = self.images(batch);
        let Some(norms) = &self.norms else {
            let outputs = self.net.forward(&images, &Mode::float(Width::FULL), None)?;
            return Ok(outputs.vector("logits")?);
        };
        let outputs = self
            .net
            .frozen()
            .forward(&images, &evaluation(norms), None)?;
        let features = outputs.vector("features")?.autodiff();
        let [classes, dim] = classifier_shape(&self.net)?;
        let weight = self
            .net
            .store()
            .block(&format!("{CLASSIFIER}.weight"), [classes, dim])?;
        let bias = self
            .net
            .store()
            .block::<1>(&format!("{CLASSIFIER}.bias"), [classes])?;
        Ok(features.matmul(weight.transpose()) + bias.reshape([1, classes]))
    }

    fn images(&self, batch: &Batch) -> Tensor<4> {
        let shape = self.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let dims = [batch.classes.len(), shape.channels(), height, width];
        let device = self.net.store().device().clone().without_autodiff();
        Tensor::from_data(TensorData::new(batch.values.clone(), dims), &device)
    }

    /// Batch-norm statistics of the network as it is, on images as they are evaluated.
    fn estimate(&self) -> Result<Norms, TrainError> {
        let frozen = self.net.frozen();
        let mut observer = Observer::new(Averaging::Cumulative);
        for start in (0..self.examples.len().min(STATISTICS)).step_by(BATCH) {
            let batch = self.examples.plain(start, BATCH)?;
            frozen.forward(
                &self.images(&batch),
                &Mode::float(Width::FULL),
                Some(&mut observer),
            )?;
        }
        Ok(observer.norms())
    }

    /// Trains the classifier alone, as a linear probe on the features of the pre-trained backbone.
    fn warm_head(&mut self) -> Result<(), TrainError> {
        if self.config.warm_head == 0 {
            return Ok(());
        }
        let (norms, frozen) = (self.estimate()?, self.net.frozen());
        let (mut rows, mut labels): (Vec<f32>, Vec<u32>) = Default::default();
        for start in (0..self.examples.len()).step_by(BATCH) {
            let batch = self.examples.plain(start, BATCH)?;
            let outputs = frozen.forward(&self.images(&batch), &evaluation(&norms), None)?;
            rows.extend(values(outputs.vector("features")?));
            labels.extend(batch.classes);
        }
        let probe = LinearProbe {
            epochs: self.config.warm_head,
            seed: self.config.seed,
            ..LinearProbe::default()
        };
        let features = Features::new(rows.len() / labels.len(), rows, labels)?;
        let mut params = self.net.params();
        set_classifier(
            &mut params,
            probe.fit(&features, self.examples.names.len())?,
        );
        let device = self.net.store().device().clone();
        self.net = Net::from_params(self.net.graph().clone(), &params, &device)?;
        Ok(())
    }

    /// The network as it is now, with the batch-norm statistics that evaluation needs.
    ///
    /// # Errors
    /// Images that cannot be read.
    pub fn tuned(&self) -> Result<Tuned, TrainError> {
        Ok(Tuned {
            graph: self.net.graph().clone(),
            params: self.net.params(),
            norms: match &self.norms {
                Some(norms) => norms.clone(),
                None => self.estimate()?,
            },
            preprocess: self.source.preprocess.clone(),
            classes: self.examples.names.clone(),
        })
    }

    fn save(&self) -> Result<(), TrainError> {
        let params = self.net.params().0.into_iter();
        let mut tensors: BTreeMap<String, Array> = params
            .map(|(name, array)| (format!("{NET}{name}"), array))
            .collect();
        tensors.extend(self.momentum());
        if let Some((name, _)) = tensors
            .iter()
            .find(|(_, a)| a.data.iter().any(|v| !v.is_finite()))
        {
            let what = format!(
                "{} made `{name}` infinite by step {}; lower it and start again, the last checkpoint is intact",
                self.config.lr, self.step
            );
            return Err(TrainError::value("lr", what));
        }
        let checkpoint = Checkpoint {
            step: self.step,
            config: self.source.clone(),
            graph: self.net.graph().clone(),
            tensors,
        };
        let mut saved = self.saved.hold();
        self.folder.checkpoints().save(&checkpoint)?;
        *saved = self.step;
        Ok(())
    }

    /// The optimiser's state as named tensors: of everything that learns, once it took a step.
    fn momentum(&self) -> BTreeMap<String, Array> {
        let bytes = self.sgd.to_bytes();
        let mut rest = bytes.as_slice();
        let mut tensors = BTreeMap::new();
        for spec in self.net.store().specs() {
            let (moved, after) = rest.split_at(1);
            rest = after;
            if moved != [0] {
                let (velocity, after) = rest.split_at(4 * spec.shape.iter().product::<usize>());
                rest = after;
                let (velocity, _) = velocity.as_chunks::<4>();
                let array = Array {
                    shape: spec.shape.clone(),
                    data: velocity.iter().map(|&v| f32::from_le_bytes(v)).collect(),
                };
                tensors.insert(format!("{MOMENTUM}{}", spec.name), array);
            }
        }
        tensors
    }

    /// What [`Sgd::to_bytes`] gave when [`Self::momentum`] was read.
    fn momentum_bytes(&self, checkpoint: &Checkpoint) -> Vec<u8> {
        let specs = self.net.store().specs().iter();
        specs
            .flat_map(|spec| {
                let array = checkpoint.tensors.get(&format!("{MOMENTUM}{}", spec.name));
                let velocity = array
                    .iter()
                    .flat_map(|array| &array.data)
                    .flat_map(|v| v.to_le_bytes());
                [u8::from(array.is_some())]
                    .into_iter()
                    .chain(velocity)
                    .collect::<Vec<u8>>()
            })
            .collect()
    }
}

fn evaluation(norms: &Norms) -> Mode<'_> {
    Mode {
        width: Width::FULL,
        quant: Quantisation::Off,
        norm: NormMode::Given(norms),
    }
}

fn features_of(graph: &Graph) -> Result<usize, TrainError> {
    Ok(graph.output_shape("features", Width::FULL)?.channels())
}

fn values(x: Tensor<2>) -> Vec<f32> {
    x.into_data()
        .try_into_vec()
        .unwrap_or_else(|_| unreachable!("features are f32"))
}
