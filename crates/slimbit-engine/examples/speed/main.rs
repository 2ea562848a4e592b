//! How fast a backbone with random weights runs: `cargo run --release -p slimbit-engine --example
//! speed -- resnet50 --per-op`. Speed does not depend on the weights, so none are needed.

// Of the tests' lowering, only a part is of use here.
#[allow(dead_code)]
#[path = "../../tests/engine/graphs.rs"]
mod graphs;
#[allow(dead_code)]
#[path = "../../tests/engine/lowering.rs"]
mod lowering;

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use slimbit_engine::{Model, Session};
use slimbit_graph::{Point, backbones};
use slimbit_num::WeightGrid;

const USAGE: &str = "speed NETWORK [--point 1xW8A8] [--size PIXELS] [--repeat N] [--per-op]
  NETWORK: resnet18, resnet50, mobilenetv2, resnet20, ...
  SLIMBIT_ISA=scalar|avx2|... forces a CPU level";

struct Arguments {
    network: String,
    point: Point,
    size: usize,
    repeat: usize,
    per_op: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut arguments = Self {
            network: words.next().ok_or(USAGE)?,
            point: "1x W8A8".parse()?,
            size: 224,
            repeat: 50,
            per_op: false,
        };
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--point" => arguments.point = value()?.parse()?,
                "--size" => arguments.size = value()?.parse()?,
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
    let graph = backbones::by_name(
        &arguments.network,
        3,
        arguments.size,
        arguments.size,
        Some(1000),
    )?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let points = [arguments.point];
    let model = Arc::new(lowering::lower(
        graph,
        WeightGrid::Nested,
        &points,
        &mut rng,
    ));
    let mut session = Session::new(model.clone(), arguments.point)?;
    let image = lowering::image(&model, 2);
    for _ in 0..arguments.repeat.div_ceil(10) {
        session.run(&image)?;
    }
    let mut milliseconds = Vec::new();
    for _ in 0..arguments.repeat {
        let start = Instant::now();
        session.run(&image)?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
    }
    milliseconds.sort_by(f64::total_cmp);
    let (plan, isa) = (session.plan(), session.plan().isa());
    let peak = slimbit_kernels::peak(isa)?;
    let at = |quantile: f64| milliseconds[((milliseconds.len() - 1) as f64 * quantile) as usize];
    let rate = plan.macs() as f64 / at(0.5) * 1e3;
    println!(
        "{} {} on {isa}: median {:.3} ms (p10 {:.3}, p90 {:.3}), {:.1} GMAC/s = {:.1} % of {:.1}",
        arguments.network,
        arguments.point,
        at(0.5),
        at(0.1),
        at(0.9),
        rate / 1e9,
        100.0 * rate / peak,
        peak / 1e9
    );
    if arguments.per_op {
        per_op(&mut session, &image, arguments.repeat, peak)?;
    }
    Ok(())
}

/// Per stage: microseconds (median), share of the total, multiply-accumulates, fraction of the
/// peak, kernel.
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
    let median = |stage: usize| {
        let mut times: Vec<u64> = profiles.iter().map(|profile| profile[stage]).collect();
        times.sort_unstable();
        times[times.len() / 2] as f64 / 1e3
    };
    let stages = session.plan().stages();
    let total: f64 = (0..stages.len()).map(median).sum();
    println!("      µs      %     MMAC  peak%  kernel        stage");
    for (index, stage) in stages.iter().enumerate() {
        let (time, macs) = (median(index), stage.macs() as f64);
        println!(
            "{time:>8.1} {:>6.2} {:>8.2} {:>6.1}  {:<13} {} {:?}",
            100.0 * time / total,
            macs / 1e6,
            100.0 * macs / (time * 1e-6) / peak,
            stage.kernel(),
            stage.name(),
            stage.layout()
        );
    }
    Ok(())
}
