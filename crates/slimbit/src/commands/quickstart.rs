use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use slimbit_data::{Dataset, Parts};
use slimbit_engine::{Model, Session, replace_file};
use slimbit_graph::{Point, Width};
use slimbit_nn::{Net, parse_device};
use slimbit_train::probe::Knn;
use slimbit_train::{Checkpoint, RunDir, RunLock, StepRecord, TrainConfig, Trainer};

use super::csv::CsvTable;
use super::features::{Images, engine_features, labelled};
use super::float::{FloatNetwork, mean_cosine};
use super::interrupt::Interrupt;
use super::output::{self, Product};
use super::{Outcome, export, pretrain, progress, weigh};
use crate::cli::{CardArgs, QuickstartArgs};
use crate::console::{self, note, say};
use crate::machine::Machine;
use crate::page::Provenance;
use crate::report;
use crate::results::{FileSize, Latency, LossRow, PointRow, Results, Seconds, WidthRow};

/// The settings; a user changes them on the command line.
const SETTINGS: &str = include_str!("../../quickstart.toml");
/// Widths of the grid.
const WIDTHS: [f64; 4] = [1.0, 0.75, 0.5, 0.25];
/// Weight and activation bits of the grid.
const BITS: [(u8, u8); 5] = [(8, 8), (4, 8), (4, 4), (3, 4), (2, 4)];
/// The integer model, and what was measured of it, in the folder of the job.
const FILE: &str = "fashion.slim";
const RESULTS: &str = "results.json";
const REPORT: &str = "report.html";
/// The same, with the kind of each.
const WRITTEN: [(&str, Product); 3] = [
    (FILE, Product::Slim),
    (RESULTS, Product::Json),
    (REPORT, Product::Html),
];
/// Images that calibrate.
const CALIBRATION: usize = 1024;
/// Timed single-image runs of the engine per point, each beside one of the float network.
const RUNS: usize = 50;

pub(super) fn execute(args: &QuickstartArgs) -> Result<Outcome> {
    let start = Instant::now();
    output::check_folder(&args.out)?;
    let csv = CsvTable::check(&args.csv, args.json, &[])?;
    if args.out.is_dir() {
        for (name, product) in WRITTEN {
            output::check_file(&args.out.join(name), product, &[])?;
        }
    }
    let data = match &args.data {
        Some(data) => data.clone(),
        None => images(&args.out)?,
    };
    let mut overrides = vec![pretrain::data_override(&data)?];
    overrides.extend(args.overrides.iter().cloned());
    let config = TrainConfig::from_toml(SETTINGS, &overrides)?;
    // Before anything of an earlier run is removed.
    config.check_device(&parse_device("cpu")?)?;
    let Parts { train, test } = Parts::open(&data, None)?;

    let run = args.out.join("run");
    let mut seconds = Seconds::default();
    // Two at a time would remove each other's files.
    let _lock = RunLock::take(&args.out)?;
    let mut trainer = begin(&run, config, args.fresh)?;
    let display = pretrain::Display::bar(&trainer);
    let resume = "the same command, without --fresh";
    let outcome = pretrain::train(&mut trainer, &Interrupt::install()?, resume, display)?;
    if outcome == Outcome::Interrupted {
        note!("saved; the same command, without --fresh, continues");
        return Ok(outcome);
    }
    seconds.pretrain = lap(start, 0.0);
    let results = measure(&run, &args.out, &train, &test, start, seconds)?;

    write(
        &args.out.join(RESULTS),
        &serde_json::to_string_pretty(&results)?,
    )?;
    write(&args.out.join(REPORT), &report::html(&results))?;
    let printed = csv.write(&results.points, &["point"])?;
    if args.json {
        console::print_exactly(&(serde_json::to_string(&results)? + "\n"))?;
    } else if !printed {
        say!("{}; batch 1, one thread", results.machine)?;
        say!("{}", results.table())?;
        say!(
            "one file of {} bytes for {} points; stored separately they would take {} bytes",
            results.file.bytes,
            results.points.len(),
            results.file.separate_bytes
        )?;
        say!(
            "{:.0} s; everything is in {}, begin with report.html",
            results.seconds.total,
            args.out.display()
        )?;
    }
    Ok(Outcome::Done)
}

/// The images that the program carries, unpacked.
#[cfg(feature = "images")]
fn images(out: &Path) -> Result<PathBuf> {
    super::bundled::unpack(out)
}

/// This program carries none.
#[cfg(not(feature = "images"))]
fn images(_out: &Path) -> Result<PathBuf> {
    bail!(
        "this program was built without its images (feature `images`); give a folder with the four IDX files of \
         Fashion-MNIST, such as testdata/fashion-mnist of the sources, with --data"
    )
}

/// A new run, or the interrupted one that is there.
fn begin(run: &Path, config: TrainConfig, fresh: bool) -> Result<Trainer> {
    if !fresh && run.join("config.toml").exists() {
        let trainer = Trainer::resume(run)
            .with_context(|| format!("continuing {}; --fresh starts over", run.display()))?;
        if !trainer.config().trains_the_same_as(&config) {
            bail!(
                "{} holds a run with other settings; --fresh starts over, --out chooses another folder",
                run.display()
            );
        }
        let (done, steps) = trainer.progress();
        if done < steps {
            note!("continuing at iteration {done} of {steps}");
            return Ok(trainer);
        }
    }
    RunDir::remove(run)?;
    Ok(Trainer::new(config, run)?)
}

fn lap(start: Instant, before: f64) -> f64 {
    start.elapsed().as_secs_f64() - before
}

fn write(path: &Path, text: &str) -> Result<()> {
    replace_file(path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// Calibrates, exports and measures a finished run.
fn measure(
    run: &Path,
    out: &Path,
    train: &Dataset,
    test: &Dataset,
    start: Instant,
    mut seconds: Seconds,
) -> Result<Results> {
    let checkpoint = export::latest_checkpoint(run)?;
    let preprocess = &checkpoint.config.preprocess;
    let widths: Vec<Width> = WIDTHS
        .into_iter()
        .map(Width::new)
        .collect::<Result<_, _>>()?;
    let points = Point::grid(&widths, &BITS)?;

    let calibration = Images::load(train, preprocess, Some(CALIBRATION))?;
    let statistics = export::measure(&checkpoint, &calibration, &points)?;
    seconds.calibrate = lap(start, seconds.pretrain);

    let file = out.join(FILE);
    export::make(&checkpoint, &statistics, &CardArgs::default())?.write(&file)?;
    super::statistics::keep(run, &statistics)?;
    let model = Arc::new(Model::open(&file)?);
    seconds.export = lap(start, seconds.pretrain + seconds.calibrate);

    let train = Images::load(train, preprocess, None)?;
    let test = Images::load(test, preprocess, None)?;
    let judge = Judge {
        labels: [train.labels(run)?, test.labels(run)?],
        images: [&train, &test],
    };
    let (widths, points) = judge.grid(&model, &checkpoint, &calibration, &widths, &points)?;
    let separate_bytes = points.iter().map(|row| row.bytes).sum();
    let raw =
        [&train, &test].map(|images| images.codes.iter().map(|&p| f32::from(p) / 255.0).collect());
    let raw_pixels_knn = judge.knn(raw)?;
    seconds.total = lap(start, 0.0);
    seconds.measure = seconds.total - seconds.pretrain - seconds.calibrate - seconds.export;
    let (dir, _) = RunDir::open(run)?;
    Ok(Results {
        provenance: Provenance::now(),
        machine: Machine::detect().to_string(),
        config: checkpoint.config.to_toml(),
        raw_pixels_knn,
        images: [train.len(), test.len()],
        widths,
        points,
        file: FileSize {
            bytes: fs::metadata(&file)?.len(),
            separate_bytes,
        },
        seconds,
        losses: dir.metrics()?.iter().map(losses).collect(),
    })
}

fn losses(record: &StepRecord) -> LossRow {
    let students: Vec<f64> = record
        .networks
        .iter()
        .skip(1)
        .map(|network| network.loss)
        .collect();
    let mean = |losses: Vec<f64>| losses.iter().sum::<f64>() / losses.len() as f64;
    LossRow {
        step: record.step,
        base: record
            .networks
            .first()
            .map_or(f64::NAN, |network| network.loss),
        students: (!students.is_empty()).then(|| mean(students)),
    }
}

/// Training and test images with their labels.
struct Judge<'a> {
    images: [&'a Images; 2],
    labels: [Vec<u32>; 2],
}

impl Judge<'_> {
    /// kNN top-1 of `[training, test]` features, in percent.
    fn knn(&self, features: [Vec<f32>; 2]) -> Result<f64> {
        let [train, test] = features;
        let (train, test) = (
            labelled(train, &self.labels[0])?,
            labelled(test, &self.labels[1])?,
        );
        Ok(100.0 * Knn::default().classify(&train, &test)?.top1)
    }

    fn float(&self, network: &FloatNetwork) -> Result<[Vec<f32>; 2]> {
        Ok([
            network.features(self.images[0])?,
            network.features(self.images[1])?,
        ])
    }

    /// The float baselines of every width, and every point on the engine.
    fn grid(
        &self,
        model: &Arc<Model>,
        checkpoint: &Checkpoint,
        calibration: &Images,
        widths: &[Width],
        points: &[Point],
    ) -> Result<(Vec<WidthRow>, Vec<PointRow>)> {
        let graph = &checkpoint.graph;
        let trained = checkpoint.params();
        let device = slimbit_nn::parse_device("cpu")?;
        let random = Net::init(graph.clone(), checkpoint.config.seed, &device)?.params();
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
        let bar = progress::steps("measuring", 2 * widths.len() + points.len());
        let (mut width_rows, mut point_rows) = (Vec::new(), Vec::new());
        for &width in widths {
            bar.set_message(format!("{width} float"));
            let input = model.input();
            let untrained = FloatNetwork::new(graph, &random, width, input, calibration)?;
            let random_knn = self.knn(self.float(&untrained)?)?;
            bar.inc(1);
            let float = FloatNetwork::new(graph, &trained, width, input, calibration)?;
            let features = self.float(&float)?;
            let float_test = features[1].clone();
            let float_knn = self.knn(features)?;
            bar.inc(1);
            let mut float_seconds = Vec::new();
            for &point in points.iter().filter(|point| point.width == width) {
                bar.set_message(point.to_string());
                let [train, test] = self
                    .images
                    .map(|images| engine_features(model, point, images));
                let (train, test) = (train?, test?);
                let cosine = mean_cosine(&test, &float_test, test.len() / self.labels[1].len());
                let knn = self.knn([train, test])?;
                let mut session = Session::new(Arc::clone(model), point)?;
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for row in 0..RUNS {
                    let row = row % self.images[1].len();
                    // Each side has displaced the other's weights from the caches; a run that is not timed brings
                    // them back, as in a stream of images.
                    float.seconds(self.images[1], row, &one_thread)?;
                    theirs.push(float.seconds(self.images[1], row, &one_thread)?);
                    let pixels = self.images[1].image(row);
                    session.run(pixels)?;
                    let start = Instant::now();
                    session.run(pixels)?;
                    ours.push(start.elapsed().as_secs_f64());
                }
                float_seconds.extend_from_slice(&theirs);
                let (latency, float_latency) = (Latency::of(ours), Latency::of(theirs));
                point_rows.push(PointRow {
                    point,
                    knn,
                    cosine,
                    bytes: weigh::point_bytes(model, point)?,
                    macs: graph.cost(width)?.macs,
                    latency,
                    latency_ratio: latency.median_ms / float_latency.median_ms,
                });
                bar.inc(1);
            }
            width_rows.push(WidthRow {
                width,
                random_knn,
                float_knn,
                float_latency: Latency::of(float_seconds),
            });
        }
        bar.finish_and_clear();
        Ok((width_rows, point_rows))
    }
}
