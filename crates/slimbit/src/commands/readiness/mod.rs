//! `slimbit readiness`: how much each point will lose, told without labels, and where.

mod stages;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use slimbit_data::{Dataset, Parts, Preprocess};
use slimbit_engine::Model;
use slimbit_graph::{Point, Width};
use slimbit_interchange::FileKind;
use slimbit_train::probe::{Knn, RankCheck, linear_cka, neighbour_overlap};

use self::stages::StageLoss;
use super::csv::CsvTable;
use super::features::{
    Images, engine_features, labelled, limited, open_model, open_parts, points_of, preprocess_of,
};
use super::float::{CALIBRATION, FloatNetwork, FloatSource};
use super::open::{self, Wanted};
use super::{Outcome, export, progress};
use crate::cli::{CardArgs, HoldoutArgs, ReadinessArgs};
use crate::console::{self, count};

/// Below this predicted loss a point is ready, and above the second it is not. docs/evaluate.md says
/// what points of either kind lost.
const LIGHTS: [f64; 2] = [0.2, 0.4];

/// How far one network's features agree with another's on the same images.
#[derive(Clone, Copy, Serialize)]
struct Agreement {
    /// Share of the nearest neighbours that both have.
    neighbours: f64,
    /// Linear centred kernel alignment.
    alignment: f64,
}

impl Agreement {
    fn of(a: &[f32], b: &[f32], images: usize, k: usize) -> Result<Self> {
        Ok(Self {
            neighbours: neighbour_overlap(a, b, images, k)?,
            alignment: linear_cka(a, b, images)?,
        })
    }

    /// The predicted loss: 0 where everything agrees, 1 where nothing does.
    fn loss(self) -> f64 {
        1.0 - (self.neighbours + self.alignment) / 2.0
    }
}

/// What readiness comes to.
#[derive(Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Light {
    Green,
    Yellow,
    Red,
}

impl Light {
    fn of(loss: f64) -> Self {
        match LIGHTS.map(|limit| loss > limit) {
            [false, _] => Self::Green,
            [_, false] => Self::Yellow,
            _ => Self::Red,
        }
    }
}

/// One point's prospects.
#[derive(Serialize)]
struct Readiness {
    point: Point,
    light: Light,
    /// Predicted loss, 0 to 1: one less the mean of the two agreements with the float full width.
    loss: f64,
    /// With the float network of full width.
    full: Agreement,
    /// Of the float network of the point's width with that of full width: what the width costs.
    width: Agreement,
    /// With the float network of the point's own width: what the bits cost.
    bits: Agreement,
    /// The stages that lose most of their own, the worst first.
    stages: Vec<StageLoss>,
    /// kNN top-1 on labelled images, in per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    top1: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    images: usize,
    neighbours: usize,
    points: Vec<Readiness>,
    /// Spearman's correlation of the predicted agreement with the accuracy, over the points.
    #[serde(skip_serializing_if = "Option::is_none")]
    rank_correlation: Option<f64>,
    /// How far that can be trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<RankCheck>,
}

pub(super) fn execute(args: &ReadinessArgs) -> Result<Outcome> {
    let csv = CsvTable::check(&args.csv, args.json, &[&args.source])?;
    if args.holdout.holdout.is_some() && args.check.is_none() {
        bail!(
            "--holdout goes with --check, whose images have labels; --images needs none held out"
        );
    }
    let source = Source::open(args)?;
    let images = {
        let dataset = Dataset::open_test(&args.images, None)?;
        Images::load(&dataset, &source.preprocess, Some(args.limit))?
    };
    if images.len() <= args.neighbours {
        bail!(
            "{} holds {}, too few for {} neighbours each; give more images or lower --neighbours",
            args.images.display(),
            count(images.len(), "image"),
            args.neighbours
        );
    }
    let report = source.report(args, &images)?;
    let printed = csv.write(&report.points, &["point", "light", "loss"])?;
    if args.json {
        console::print_json(&report)?;
    } else if !printed {
        table::print(&report, args.all)?;
    }
    Ok(Outcome::Done)
}

/// The integers, and the float network that they are judged by.
struct Source {
    model: Arc<Model>,
    points: Vec<Point>,
    float: FloatSource,
    preprocess: Preprocess,
    /// On these, batch-norm is estimated and, where there is no file yet, ranges are measured.
    calibration: Images,
}

impl Source {
    /// A `.slim` file with its float network, or a run that is calibrated and lowered in memory.
    fn open(args: &ReadinessArgs) -> Result<Self> {
        let calibration = |preprocess: &Preprocess| -> Result<Images> {
            let dataset = Dataset::open(&args.images)?;
            Images::load(&dataset, preprocess, Some(CALIBRATION))
        };
        if open::expect(&args.source, &[Wanted::Slim, Wanted::Run])? == FileKind::Run {
            if args.float.is_some() {
                bail!(
                    "--float names the network of a .slim file; {} is a run directory, which has its own",
                    args.source.display()
                );
            }
            let checkpoint = export::latest_checkpoint(&args.source)?;
            let points = match args.point.is_empty() {
                true => Point::grid(&args.grid.widths, &args.grid.bits)?,
                false => args.point.clone(),
            };
            let preprocess = checkpoint.config.preprocess.clone();
            let calibration = calibration(&preprocess)?;
            let statistics = export::measure(&checkpoint, &calibration, &points)?;
            return Ok(Self {
                model: Arc::new(limited(
                    export::make(&checkpoint, &statistics, &CardArgs::default())?,
                    args.memory,
                )),
                float: FloatSource::open(&args.source)?,
                points,
                preprocess,
                calibration,
            });
        }
        let model = Arc::new(open_model(&args.source, args.memory)?);
        let preprocess = preprocess_of(&model)?;
        let path = args.float.clone().or_else(|| run_of(&args.source)).with_context(|| {
            format!(
                "{} lies in no run directory, so its float network is unknown; give the run or the network file with --float",
                args.source.display()
            )
        })?;
        let float = FloatSource::open(&path)?;
        float.check_preprocess(&path, &preprocess, &args.source)?;
        Ok(Self {
            points: points_of(&model, &args.point)?,
            calibration: calibration(&preprocess)?,
            model,
            float,
            preprocess,
        })
    }

    fn report(&self, args: &ReadinessArgs, images: &Images) -> Result<Report> {
        let judge = args
            .check
            .as_deref()
            .map(|path| Judge::open(path, &args.holdout, &self.preprocess))
            .transpose()?;
        let agreement = |a: &[f32], b: &[f32]| Agreement::of(a, b, images.len(), args.neighbours);
        let bar = progress::steps("comparing", self.points.len());
        let full = self.float(Width::FULL)?.features(images)?;
        let (mut points, mut right) = (Vec::new(), Vec::new());
        let mut widths: Vec<Width> = Vec::new();
        for point in &self.points {
            if !widths.contains(&point.width) {
                widths.push(point.width);
            }
        }
        for width in widths {
            let network = self.float(width)?;
            let same_width = network.features(images)?;
            let of_width = agreement(&full, &same_width)?;
            for &point in self.points.iter().filter(|point| point.width == width) {
                bar.set_message(point.to_string());
                let features = engine_features(&self.model, point, images)?;
                let with_full = agreement(&full, &features)?;
                let traced = images.spread(args.trace_images);
                let answers = judge
                    .as_ref()
                    .map(|judge| judge.answers(&self.model, point))
                    .transpose()?;
                points.push(Readiness {
                    point,
                    light: Light::of(with_full.loss()),
                    loss: with_full.loss(),
                    full: with_full,
                    width: of_width,
                    bits: agreement(&same_width, &features)?,
                    stages: stages::worst(&self.model, point, &network, &traced)?,
                    top1: answers.as_deref().map(per_cent),
                });
                right.extend(answers);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        let predicted: Vec<f64> = points.iter().map(|point| 1.0 - point.loss).collect();
        let check = RankCheck::new(&predicted, &right);
        Ok(Report {
            images: images.len(),
            neighbours: args.neighbours,
            rank_correlation: check.as_ref().map(|check| check.correlation),
            check,
            points,
        })
    }

    fn float(&self, width: Width) -> Result<FloatNetwork> {
        self.float.at(width, self.model.input(), &self.calibration)
    }
}

/// The run directory in which `slimbit export` put a file.
fn run_of(file: &Path) -> Option<PathBuf> {
    let folder = file
        .parent()
        .filter(|folder| folder.join("checkpoints").is_dir())?;
    Some(folder.to_owned())
}

/// Labelled images, which the prediction is held against.
struct Judge {
    images: [Images; 2],
    labels: [Vec<u32>; 2],
}

impl Judge {
    fn open(path: &Path, holdout: &HoldoutArgs, preprocess: &Preprocess) -> Result<Self> {
        let Parts { train, test } = open_parts(path, holdout, 0)?;
        let images = [
            Images::load(&train, preprocess, None)?,
            Images::load(&test, preprocess, None)?,
        ];
        let labels = [images[0].labels(path)?, images[1].labels(path)?];
        Ok(Self { images, labels })
    }

    /// Which test images the nearest neighbours classify correctly at a point.
    fn answers(&self, model: &Arc<Model>, point: Point) -> Result<Vec<bool>> {
        let features = |split: usize| {
            let rows = engine_features(model, point, &self.images[split])?;
            labelled(rows, &self.labels[split])
        };
        let found = Knn::default().classify(&features(0)?, &features(1)?)?;
        let pairs = found.predictions.iter().zip(&self.labels[1]);
        Ok(pairs.map(|(found, label)| found == label).collect())
    }
}

fn per_cent(right: &[bool]) -> f64 {
    let count = right.iter().filter(|right| **right).count();
    100.0 * count as f64 / right.len().max(1) as f64
}
