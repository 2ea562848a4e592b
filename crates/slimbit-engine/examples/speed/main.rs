//! How fast a backbone or a `.slim` file runs: `cargo run --release -p slimbit-engine --example speed
//! -- resnet50 --per-op`.
//!
//! A backbone gets weights of normal noise, quantised by the greatest of each output channel times
//! the headroom: nearly what trained ones look like. On AVX2 their spread decides how many products
//! fit 16 bits, so a file of your own tells more.

// Of the tests' lowering, only a part is of use here.
#[allow(dead_code)]
#[path = "../../tests/engine/graphs.rs"]
mod graphs;
#[allow(dead_code)]
#[path = "../../tests/engine/lowering.rs"]
mod lowering;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_engine::{Model, Session};
use slimbit_graph::{Point, backbones};
use slimbit_num::WeightGrid;

const USAGE: &str = "speed NETWORK [--point 1xW8A8] [--size PIXELS] [--threads N] [--batch N]
      [--headroom FACTOR] [--repeat N] [--per-op] [--load]
  NETWORK: resnet18, resnet50, mobilenetv2, resnet20, ..., or the path of a .slim file
  --load: time from the file to the first result instead
  SLIMBIT_ISA=scalar|avx2|... forces a CPU level";

struct Arguments {
    network: String,
    point: Point,
    size: usize,
    headroom: f32,
    threads: usize,
    batch: usize,
    repeat: usize,
    per_op: bool,
    load: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut arguments = Self {
            network: words.next().ok_or(USAGE)?,
            point: "1x W8A8".parse()?,
            size: 224,
            headroom: 1.0,
            threads: 1,
            batch: 1,
            repeat: 50,
            per_op: false,
            load: false,
        };
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--point" => arguments.point = value()?.parse()?,
                "--size" => arguments.size = value()?.parse()?,
                "--headroom" => arguments.headroom = value()?.parse()?,
                "--threads" => arguments.threads = value()?.parse()?,
                "--batch" => arguments.batch = value()?.parse::<usize>()?.max(1),
                "--load" => arguments.load = true,
                "--repeat" => arguments.repeat = value()?.parse::<usize>()?.max(1),
                "--per-op" => arguments.per_op = true,
                _ => return Err(format!("unknown argument {flag}\n{USAGE}").into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let model = model(&arguments)?;
    if arguments.load {
        return load(&model, &arguments);
    }
    let model = Arc::new(model);
    let image = lowering::image(&model, 2);
    let mut session = Session::with_threads(model, arguments.point, arguments.threads)?;
    let images = image.repeat(arguments.batch);
    for _ in 0..arguments.repeat.div_ceil(10) {
        session.run_batch(&images)?;
    }
    let mut milliseconds = Vec::new();
    for _ in 0..arguments.repeat {
        let start = Instant::now();
        session.run_batch(&images)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let (plan, isa) = (session.plan(), session.plan().isa());
    let peak = slimbit_kernels::peak(isa)? * arguments.threads as f64;
    let [low, median, high] = quantiles(milliseconds);
    let rate = plan.macs() as f64 * arguments.batch as f64 / median * 1e3;
    println!(
        "{} {} on {isa}, {} threads, batch {}: median {median:.3} ms (p10 {low:.3}, p90 \
         {high:.3}), {:.1} GMAC/s = {:.1} % of {:.1}",
        arguments.network,
        arguments.point,
        arguments.threads,
        arguments.batch,
        rate / 1e9,
        100.0 * rate / peak,
        peak / 1e9
    );
    println!(
        "arena {} bytes = {:.3} x the largest live set",
        session.arena_bytes(),
        plan.arena_bytes() as f64 / plan.live_bytes() as f64
    );
    if arguments.per_op {
        per_op(&mut session, &image, arguments.repeat, peak)?;
    }
    Ok(())
}

/// The file, or a backbone of noise.
fn model(arguments: &Arguments) -> Result<Model, Box<dyn Error>> {
    let (network, size) = (&arguments.network, arguments.size);
    if network.ends_with(".slim") {
        return Ok(Model::open(network)?);
    }
    let graph = backbones::by_name(network, 3, size, size, Some(1000))?;
    let noise = lowering::Noise {
        // The sum of twelve uniform numbers is close to normal.
        draw: |rng| (0..12).map(|_| rng.random_range(-0.5..0.5f32)).sum(),
        headroom: arguments.headroom,
    };
    let (points, mut rng) = ([arguments.point], ChaCha8Rng::seed_from_u64(1));
    let grid = WeightGrid::Nested;
    Ok(lowering::lower_noise(
        graph, grid, &points, &noise, &mut rng,
    ))
}

/// The 10 %, 50 % and 90 % quantiles.
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.1, 0.5, 0.9].map(|q| values[((values.len() - 1) as f64 * q) as usize])
}

/// Milliseconds of each step from a file to a first result, and to another session's.
fn load(model: &Model, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("speed-{}.slim", std::process::id()));
    model.write(&path)?;
    let image = lowering::image(model, 2);
    let mut steps: [Vec<f64>; 4] = Default::default();
    for _ in 0..arguments.repeat {
        let start = Instant::now();
        let mut last = start;
        let mut lap = |step: usize| {
            let now = Instant::now();
            steps[step].push((now - last).as_secs_f64() * 1e3);
            last = now;
        };
        let model = Arc::new(Model::open(&path)?);
        lap(0);
        let mut session = Session::with_threads(model, arguments.point, arguments.threads)?;
        lap(1);
        session.run(&image)?;
        lap(2);
        steps[3].push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("{} bytes", std::fs::metadata(&path)?.len());
    std::fs::remove_file(&path)?;
    for (name, times) in ["open", "session", "first run", "in all"].iter().zip(steps) {
        let [low, median, high] = quantiles(times);
        println!("{name:<10} median {median:.2} ms (p10 {low:.2}, p90 {high:.2})");
    }
    Ok(())
}

/// Per stage, and then per kind of stage: microseconds (median, and the least, which other loads
/// disturb less), share of the median total, multiply-accumulates, the fraction of the peak that the
/// least time reaches, kernel.
fn per_op(
    session: &mut Session,
    image: &[u8],
    repeat: usize,
    peak: f64,
) -> Result<(), Box<dyn Error>> {
    let mut profiles = Vec::new();
    for _ in 0..repeat {
        profiles.push(session.run_profiled(image)?);
    }
    let stages = session.plan().stages();
    let rows: Vec<Row> = (0..stages.len())
        .map(|stage| {
            let times = profiles.iter().map(|profile| profile[stage] as f64 / 1e3);
            let mut times: Vec<f64> = times.collect();
            times.sort_by(f64::total_cmp);
            Row {
                median: times[times.len() / 2],
                least: times[0],
                macs: stages[stage].macs() as f64,
            }
        })
        .collect();
    let total: f64 = rows.iter().map(|row| row.median).sum();
    println!("  median    least      %     MMAC  peak%  kernel        stage");
    let mut kinds: BTreeMap<String, Row> = BTreeMap::new();
    for (row, stage) in rows.iter().zip(stages) {
        row.print(total, peak);
        println!(
            "  {:<13} {} {:?}",
            stage.kernel(),
            stage.name(),
            stage.layout()
        );
        let weights = session.model().weights().get(stage.name());
        let kind = match weights.map(|weights| weights.shape) {
            Some([_, rows, columns, _]) => format!("{} {rows}x{columns}", stage.kernel()),
            None => stage.kernel().to_owned(),
        };
        let kind = kinds.entry(kind).or_default();
        kind.median += row.median;
        kind.least += row.least;
        kind.macs += row.macs;
    }
    for (kind, row) in &kinds {
        row.print(total, peak);
        println!("  all {kind}");
    }
    Ok(())
}

/// Microseconds and multiply-accumulates of a stage, or of several.
#[derive(Default)]
struct Row {
    median: f64,
    least: f64,
    macs: f64,
}

impl Row {
    fn print(&self, total: f64, peak: f64) {
        let Row {
            median,
            least,
            macs,
        } = self;
        print!(
            "{median:>8.1} {least:>8.1} {:>6.2} {:>8.2} {:>6.1}",
            100.0 * median / total,
            macs / 1e6,
            100.0 * macs / (least * 1e-6) / peak,
        );
    }
}
