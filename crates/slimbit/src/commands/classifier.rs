//! A network that classifies: a `.slim` file on the integer engine, or a float network.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rayon::{ThreadPool, ThreadPoolBuilder};
use slimbit_data::Preprocess;
use slimbit_engine::Session;
use slimbit_graph::{LOGITS, Point};
use slimbit_interchange::FileKind;

use super::classes::Classes;
use super::features::{open_model, points_of, preprocess_of};
use super::open::{self, Wanted};
use super::{forward, quantize};
use crate::cli::MemoryArgs;

/// What of a network answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Variant {
    /// The float network.
    Float,
    /// A point, in integers.
    Point(Point),
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float => f.write_str("float"),
            Self::Point(point) => point.fmt(f),
        }
    }
}

/// A network with a classifier, and the threads that it runs on.
pub(super) struct Classifier {
    runner: Runner,
    /// How an image becomes the network's input.
    pub(super) preprocess: Preprocess,
    pub(super) classes: Classes,
    /// What the file says of itself.
    pub(super) metadata: BTreeMap<String, String>,
    /// Those asked for; none for all cores.
    threads: Option<ThreadPool>,
}

enum Runner {
    Engine(Box<Session>),
    Float(Box<forward::Float>),
}

impl Classifier {
    /// Opens a file, whose classes are called as `list` has it or else as the file does.
    pub(super) fn open(
        path: &Path,
        list: Option<&Path>,
        threads: Option<usize>,
        memory: MemoryArgs,
    ) -> Result<Self> {
        let kind = open::expect(path, &[Wanted::Slim, Wanted::Network])?;
        let (runner, preprocess, classes, metadata) = match kind {
            FileKind::Network => {
                let network = open::network(path)?;
                let names = network
                    .classes()
                    .with_context(|| path.display().to_string())?;
                let classes = Classes::of(&network.graph, names, list, path)?;
                let preprocess = quantize::preprocess_of(&network, path)?;
                let runner = Runner::Float(Box::new(forward::Float::new(&network)?));
                (runner, preprocess, classes, network.metadata)
            }
            _ => {
                let model = Arc::new(open_model(path, memory)?);
                let names = model
                    .classes()
                    .with_context(|| path.display().to_string())?;
                let classes = Classes::of(model.graph(), names, list, path)?;
                let preprocess = preprocess_of(&model)?;
                let metadata = model.metadata().clone();
                let point = points_of(&model, &[])?[0];
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let session = Session::with_threads(model, point, threads.unwrap_or(cores))?;
                (
                    Runner::Engine(Box::new(session)),
                    preprocess,
                    classes,
                    metadata,
                )
            }
        };
        let pool = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            pool.with_context(|| {
                format!("cannot start {threads} threads; ask for fewer with --threads")
            })
        };
        Ok(Self {
            runner,
            preprocess,
            classes,
            metadata,
            threads: threads.map(pool).transpose()?,
        })
    }

    /// What is asked for of this file: its points, of which the first is the default; or the float network.
    pub(super) fn variants(&self, points: &[Point], file: &Path) -> Result<Vec<Variant>> {
        match &self.runner {
            Runner::Float(_) if points.is_empty() => Ok(vec![Variant::Float]),
            Runner::Float(_) => bail!(
                "{} is a float network and has no points; leave --point out, or give the .slim file that `slimbit \
                 quantize` made of it",
                file.display()
            ),
            Runner::Engine(session) => {
                let mut found = points_of(session.model(), points)?;
                found.truncate(points.len().max(1));
                Ok(found.into_iter().map(Variant::Point).collect())
            }
        }
    }

    /// The logits of a batch of images, which `codes` holds one after the other; `[images, classes]`.
    pub(super) fn logits(&mut self, variant: Variant, codes: &[u8]) -> Result<Vec<f32>> {
        let Self {
            runner,
            preprocess,
            threads,
            ..
        } = self;
        let mut vectors = match (runner, variant) {
            (Runner::Engine(session), Variant::Point(point)) => {
                if session.point() != point {
                    session.set_point(point)?;
                }
                forward::run_batch(session, codes)?
            }
            (Runner::Float(float), Variant::Float) => {
                let run = || float.run(preprocess.normalise(codes));
                within(threads.as_ref(), run)?
            }
            _ => bail!("{variant} is not in the file"),
        };
        let logits = vectors
            .remove(LOGITS)
            .context("the classifier has logits")?;
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "some logits are no finite numbers, so the weights of the network are damaged or too large"
        );
        Ok(logits)
    }

    /// Does work on the threads asked for.
    pub(super) fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        within(self.threads.as_ref(), work)
    }
}

fn within<R: Send>(threads: Option<&ThreadPool>, work: impl FnOnce() -> R + Send) -> R {
    match threads {
        Some(pool) => pool.install(work),
        None => work(),
    }
}
