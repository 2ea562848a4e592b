use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use slimbit_data::{Dataset, Preprocess, printable};
use slimbit_graph::Point;
use slimbit_interchange::Network;
use slimbit_nn::Net;
use slimbit_quant::{PostTrained, PostTraining, Progress, Settings, Task, equalise, quantise};

use super::classes::read_names;
use super::features::{Images, PREPROCESS};
use super::open;
use super::output::{self, Product};
use super::progress::Meter;
use super::{Outcome, progress};
use crate::cli::QuantizeArgs;
use crate::console::{self, count, say};
use crate::table::Table;

pub(super) fn execute(args: &QuantizeArgs) -> Result<Outcome> {
    let inputs = [args.network.as_path(), args.images.as_path()];
    output::check_file(&args.output, Product::Slim, &inputs)?;
    let mut network = open::network(&args.network)?;
    match &args.classes {
        Some(list) => network.set_classes(&read_names(list, &network.graph)?)?,
        // Refuses a list in the file that is none of this network's.
        None => drop(network.classes()?),
    }
    let preprocess = preprocess_of(&network, &args.network)?;
    let points = Point::grid(&args.widths, &args.bits)?;
    let dataset = Dataset::open(&args.images)?;
    let calibration = Images::load(&dataset, &preprocess, Some(args.calibration_images))?;
    let images = calibration.len();

    let Network {
        graph,
        mut params,
        norms,
        metadata: own,
    } = network;
    let equalised = match args.equalise {
        true => equalise(&graph, &mut params, &norms)?,
        false => 0,
    };
    let device = slimbit_nn::parse_device("cpu")?;
    let net = Net::from_params(graph, &params, &device)?;
    // The network has a copy of its own now, and both of a large one are too much.
    drop(params);
    let mut metadata = BTreeMap::from([(
        "created_by".to_owned(),
        format!("slimbit {}", env!("CARGO_PKG_VERSION")),
    )]);
    metadata.extend(own);
    metadata.insert("quantised".to_owned(), args.recorded(images));
    metadata.extend(args.card.metadata());
    let settings = Settings {
        grid: args.grid,
        mean: preprocess.mean.clone(),
        std: preprocess.std.clone(),
        metadata,
    };
    let options = PostTraining {
        rule: args.observer,
        correction: args.correction.into(),
        reconstructed_bits: args.reconstruct,
        compensate: !args.no_compensate,
        clip_weights: !args.no_clip,
        headroom: args.headroom,
        renormalise: args.renormalise,
        memory: args.memory.saturating_mul(1 << 20),
    };
    let bar = progress::steps("quantising", 0);
    let made = quantise(
        &net,
        &norms,
        &calibration.codes,
        &points,
        &settings,
        &options,
        |p| {
            show(&bar, &p);
        },
    )?;
    bar.finish_and_clear();
    for warning in &made.warnings {
        log::warn!("{warning}");
    }
    made.model.write(&args.output)?;
    report(args, &points, images, equalised, &made)?;
    Ok(Outcome::Done)
}

/// The evaluation transform that a network file carries.
pub(super) fn preprocess_of(network: &Network, path: &Path) -> Result<Preprocess> {
    let Some(text) = network.metadata.get(PREPROCESS) else {
        bail!(
            "{} says nothing about preprocessing; import it again with `slimbit import`",
            path.display()
        );
    };
    let preprocess: Preprocess = serde_json::from_str(text)
        .with_context(|| format!("preprocessing in {}", path.display()))?;
    preprocess.validate()?;
    let shape = network.graph.input_shape();
    let (height, width) = shape.spatial();
    let own = (preprocess.channels, preprocess.height, preprocess.width);
    if own != (shape.channels(), height, width) {
        bail!(
            "{}: preprocessing makes {own:?} images, but the network takes {shape}",
            path.display()
        );
    }
    Ok(preprocess)
}

fn show(bar: &Meter, progress: &Progress) {
    let (mut done, mut total) = (progress.done as u64, progress.total as u64);
    if progress.task == Task::Reconstruct {
        // Its unit, a million multiplications, says nothing to anyone.
        (done, total) = (100 * done / total.max(1), 100);
    }
    bar.set_length(total);
    bar.set_position(done);
    let task = match progress.task {
        Task::Calibrate => "measuring",
        Task::Reconstruct => "rounding",
        Task::Lower => "solving",
    };
    bar.set_message(format!("{task} {} {}", progress.point, progress.stage));
}

fn report(
    args: &QuantizeArgs,
    points: &[Point],
    images: usize,
    equalised: usize,
    made: &PostTrained,
) -> Result<()> {
    let bytes = fs::metadata(&args.output)?.len();
    if args.json {
        let errors: Vec<BTreeMap<&str, f64>> = made
            .errors
            .iter()
            .map(|layers| {
                layers
                    .iter()
                    .map(|e| (e.stage.as_str(), e.relative))
                    .collect()
            })
            .collect();
        console::print_json(&serde_json::json!({
            "file": printable(&args.output), "points": points, "bytes": bytes, "calibration_images": images,
            "reconstruction_images": made.images, "equalised_channels": equalised, "layer_errors": errors,
        }))?;
        return Ok(());
    }
    say!(
        "{}: {} in {bytes} bytes, calibrated on {}",
        args.output.display(),
        count(points.len(), "point"),
        count(images, "image")
    )?;
    let mut table = Table::new(["point", "worst layer", "its error / variance"]).names(2);
    for (point, layers) in points.iter().zip(&made.errors) {
        let worst = layers
            .iter()
            .max_by(|a, b| a.relative.total_cmp(&b.relative));
        if let Some(worst) = worst {
            table.row([
                point.to_string(),
                worst.stage.clone(),
                format!("{:.5}", worst.relative),
            ]);
        }
    }
    if !table.is_empty() {
        say!("{table}")?;
    }
    Ok(())
}
