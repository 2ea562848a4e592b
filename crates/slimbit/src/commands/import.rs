//! `slimbit import`: a foreign checkpoint, or random weights, as a float network file.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use slimbit_data::{Preprocess, Resize, printable};
use slimbit_graph::{Graph, Width, backbones};
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::{FileKind, Network, names};
use slimbit_nn::{Averaging, Init, Mode, Net, NormMode, Observer, Quantisation, Value};

use super::Outcome;
use super::classes::{read_list, read_names};
use super::features::PREPROCESS;
use super::footprint;
use super::import_onnx::{Comparison, OnnxSource};
use super::open::{self, Wanted};
use super::output::{self, Product};
use crate::cli::{Classes, ImportArgs, PreprocessArgs, WeightsArg};
use crate::console::{self, say};

/// Random images of the closing check, and of the statistics of random networks.
const IMAGES: usize = 4;

/// Classes of a network of random weights: ImageNet's.
const CLASSES: usize = 1000;

/// Seed of the random images.
const SEED: u64 = 0x51;

pub(super) fn execute(args: &ImportArgs) -> Result<Outcome> {
    ensure!(
        args.classes != Some(Classes::Count(0)),
        "--classes 0: not a whole number of at least 1, nor a file of names"
    );
    let inputs: Vec<&Path> = args.source.as_deref().into_iter().collect();
    output::check_file(&args.output, Product::Network, &inputs)?;
    if let (Some(Classes::Count(count)), None) = (&args.classes, args.random) {
        anyhow::bail!(
            "--classes {count}: a checkpoint says itself how many classes it has; give a file with their names, or \
             leave --classes out"
        );
    }
    let Source {
        mut network,
        description,
        ignored,
        notes,
        onnx,
    } = match (&args.source, args.random) {
        (Some(path), _) => read(path, args)?,
        (None, Some(seed)) => random(seed, args)?,
        (None, None) => anyhow::bail!("give a checkpoint, or --random SEED"),
    };
    if let Some(Classes::Names(list)) = &args.classes {
        network.set_classes(&read_names(list, &network.graph)?)?;
    }
    let preprocess = match &onnx {
        Some(source) => source.preprocess().clone(),
        None => preprocess(&network.graph, &args.preprocess)?,
    };
    let text = serde_json::to_string(&preprocess)?;
    network.metadata.insert(PREPROCESS.to_owned(), text);
    network
        .metadata
        .insert("source".to_owned(), description.clone());
    if !notes.is_empty() {
        let text = notes.join("; ");
        network.metadata.insert("source_notes".to_owned(), text);
    }

    let at = || match &args.source {
        Some(path) => path.display().to_string(),
        None => "random weights".to_owned(),
    };
    footprint::check(&network.graph, IMAGES, args.memory).with_context(at)?;
    let largest = check_forward(&network, &preprocess).with_context(at)?;
    let comparison = match &onnx {
        Some(source) => Some(source.compare(random_codes(&network.graph), args)?),
        None => None,
    };
    network.write(&args.output)?;
    let again = Network::open(&args.output)
        .with_context(|| format!("reading {} back", args.output.display()))?;
    ensure!(
        again == network,
        "{} does not read back as it was written; check the disk",
        args.output.display()
    );
    if ignored > 0 {
        log::info!("ignored {ignored} counters");
    }
    let source = (&description[..], &notes[..]);
    report(args, &network, source, &largest, comparison.as_ref())?;
    Ok(Outcome::Done)
}

/// A network, and in a few words what it was made of.
struct Source {
    network: Network,
    description: String,
    /// Tensors of the source that no forward pass reads.
    ignored: usize,
    /// What of the source was taken and what was left out.
    notes: Vec<String>,
    /// The ONNX file that it was, to compare with.
    onnx: Option<OnnxSource>,
}

/// Reads a file of any kind, which its content tells.
fn read(path: &Path, args: &ImportArgs) -> Result<Source> {
    let source = match kind(path)? {
        FileKind::Onnx => from_onnx(path, args),
        kind @ FileKind::Network => {
            from_checkpoint(path, args).with_context(|| open::remark(path, &kind))
        }
        _ => from_checkpoint(path, args),
    };
    source.with_context(|| format!("importing {}", path.display()))
}

/// What a source is. One that nothing is known about is left to the reader that its ending asks for, whose errors
/// name the part that is wrong.
fn kind(path: &Path) -> Result<FileKind> {
    let kind = FileKind::of(path).with_context(|| path.display().to_string())?;
    // A network file of ours is safetensors, too.
    if !matches!(kind, FileKind::Unknown | FileKind::Network) {
        return open::expect(path, &[Wanted::Checkpoint, Wanted::Onnx]);
    }
    let onnx = path.extension().is_some_and(|ending| ending == "onnx");
    Ok(match kind {
        FileKind::Unknown if onnx => FileKind::Onnx,
        kind => kind,
    })
}

fn from_onnx(path: &Path, args: &ImportArgs) -> Result<Source> {
    ensure!(
        args.arch.is_none(),
        "an ONNX file says itself what network it is; leave --arch out"
    );
    ensure!(
        args.weights == WeightsArg::Auto && args.prefix.is_none(),
        "an ONNX file holds one network; leave --weights and --prefix out"
    );
    let source = OnnxSource::open(path, args, preprocess)?;
    let file = path.file_name().unwrap_or(path.as_os_str());
    let mut description = format!("{} (ONNX)", file.display());
    for note in source.notes() {
        description += "; ";
        description += note;
    }
    Ok(Source {
        network: source.network(),
        description,
        ignored: 0,
        notes: Vec::new(),
        onnx: Some(source),
    })
}

fn from_checkpoint(path: &Path, args: &ImportArgs) -> Result<Source> {
    let mut tensors = Tensors::open_with(path, args.weights.into())?;
    if let Some(prefix) = &args.prefix {
        tensors = tensors.below(prefix)?;
    }
    let architecture = match &args.arch {
        Some(name) => name.clone(),
        None => names::guess(&tensors)?,
    };
    let imported = names::import(&tensors, &architecture, input(&architecture, args))?;
    let file = path.file_name().unwrap_or(path.as_os_str());
    Ok(Source {
        description: format!(
            "{} ({}, names of {})",
            file.display(),
            tensors.format,
            imported.scheme
        ),
        network: imported.network,
        ignored: imported.ignored.len(),
        notes: imported.notes,
        onnx: None,
    })
}

/// Random weights, for benchmarks: He's initialisation, and batch-norm statistics measured on random
/// images, so that activations have the sizes that training gives them.
fn random(seed: u64, args: &ImportArgs) -> Result<Source> {
    let architecture = args.arch.as_deref().context("--random needs --arch")?;
    let [height, width] = input(architecture, args);
    let classes = match &args.classes {
        None => CLASSES,
        Some(Classes::Count(count)) => *count,
        Some(Classes::Names(list)) => read_list(list)?.len(),
    };
    let name = names::canonical(architecture);
    let graph = backbones::by_name(name, 3, height, width, Some(classes))?;
    footprint::check(&graph, IMAGES, args.memory)?;
    let net = Net::init_with(graph.clone(), Init::KaimingNormalFanOut, seed, &device()?)?;
    let mut observer = Observer::new(Averaging::Cumulative);
    let preprocess = published(&graph);
    let images = random_images(&graph, &preprocess, &device()?);
    net.forward(&images, &Mode::float(Width::FULL), Some(&mut observer))?;
    Ok(Source {
        network: Network::new(graph, net.params(), observer.norms())?,
        description: format!("random weights of seed {seed}"),
        ignored: 0,
        notes: Vec::new(),
        onnx: None,
    })
}

fn input(architecture: &str, args: &ImportArgs) -> [usize; 2] {
    let side = names::default_side(architecture);
    args.input.unwrap_or([side; 2])
}

fn device() -> Result<Device> {
    Ok(slimbit_nn::parse_device("cpu")?)
}

/// The evaluation transform: what the flags say, and else what the architecture was published with.
fn preprocess(graph: &Graph, args: &PreprocessArgs) -> Result<Preprocess> {
    let mut preprocess = published(graph);
    if let Some(mean) = &args.mean {
        preprocess.mean.clone_from(mean);
    }
    if let Some(std) = &args.std {
        preprocess.std.clone_from(std);
    }
    if let Some(resize) = args.resize {
        preprocess.resize = resize;
    }
    if let Some(filter) = args.filter {
        preprocess.filter = filter.into();
    }
    preprocess.validate()?;
    Ok(preprocess)
}

/// ImageNet's evaluation: the shorter side to 8/7 of the input's, then the centre; images no larger
/// than CIFAR's as they are. EfficientNet-Lite0 keeps the constants of its TensorFlow training.
fn published(graph: &Graph) -> Preprocess {
    let shape = graph.input_shape();
    let (height, width) = shape.spatial();
    let imagenet = Preprocess::imagenet();
    let side = height.max(width);
    let mut preprocess = Preprocess {
        channels: shape.channels(),
        height,
        width,
        resize: match side {
            ..=64 => Resize::Stretch,
            _ => Resize::Shorter(side * 8 / 7),
        },
        ..imagenet
    };
    if graph.name() == "efficientnet-lite0" {
        preprocess.mean = vec![127.0 / 255.0; 3];
        preprocess.std = vec![128.0 / 255.0; 3];
        preprocess.filter = slimbit_data::Filter::Bicubic;
    }
    if shape.channels() == 1 {
        preprocess.mean.truncate(1);
        preprocess.std.truncate(1);
    }
    preprocess
}

/// Runs random images through the float network: every output is finite. Gives each output's largest
/// magnitude.
fn check_forward(network: &Network, preprocess: &Preprocess) -> Result<Vec<(String, f32)>> {
    let device = device()?;
    let net = Net::from_params(network.graph.clone(), &network.params, &device)?;
    let mode = Mode {
        width: Width::FULL,
        quant: Quantisation::Off,
        norm: NormMode::Given(&network.norms),
    };
    let images = random_images(&network.graph, preprocess, &device);
    let outputs = net.forward(&images, &mode, None)?;
    let mut largest = Vec::new();
    for (name, value) in outputs.0 {
        let data = match value {
            Value::Map(map) => map.into_data(),
            Value::Vector(vector) => vector.into_data(),
        };
        let values: Vec<f32> = data.try_into_vec().ok().context("outputs are f32")?;
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "output `{name}` is not finite on random images; the weights are damaged, or the \
             architecture is another"
        );
        let magnitude = values
            .iter()
            .fold(0.0_f32, |max, value| max.max(value.abs()));
        largest.push((name, magnitude));
    }
    Ok(largest)
}

/// Normalised images of independent, uniform pixels.
fn random_images(graph: &Graph, preprocess: &Preprocess, device: &Device) -> Tensor<4> {
    let shape = graph.input_shape();
    let (height, width) = shape.spatial();
    let values = preprocess.normalise(&random_codes(graph));
    let dims = [IMAGES, shape.channels(), height, width];
    Tensor::from_data(TensorData::new(values, dims), device)
}

fn random_codes(graph: &Graph) -> Vec<u8> {
    let pixels = (0..(IMAGES * graph.input_shape().elements()) as u64).map(|index| {
        // The finaliser of SplitMix64.
        let mut word = (SEED + index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word >> 56) as u8
    });
    pixels.collect()
}

fn report(
    args: &ImportArgs,
    network: &Network,
    (source, notes): (&str, &[String]),
    largest: &[(String, f32)],
    comparison: Option<&Comparison>,
) -> Result<()> {
    let graph = &network.graph;
    let preprocess = &network.metadata[PREPROCESS];
    let cost = graph.cost(Width::FULL)?;
    let outputs = graph.outputs().iter().map(|(name, _)| name.as_str());
    if args.json {
        let outputs: Vec<&str> = outputs.collect();
        let summary = serde_json::json!({
            "file": printable(&args.output), "source": source, "notes": notes, "architecture": graph.name(),
            "input": graph.input_shape().to_string(), "outputs": outputs,
            "parameters": cost.params, "macs": cost.macs, "preprocess": serde_json::from_str::<serde_json::Value>(preprocess)?,
            "largest_output_on_random_images":
                largest.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "onnxruntime": comparison,
        });
        console::print_json(&summary)?;
        return Ok(());
    }
    let mut text = String::new();
    writeln!(text, "source        {source}")?;
    for note in notes {
        writeln!(text, "note          {note}")?;
    }
    writeln!(
        text,
        "architecture  {} for {}",
        graph.name(),
        graph.input_shape()
    )?;
    writeln!(
        text,
        "size          {} parameters, {} multiply-accumulates an image",
        cost.params, cost.macs
    )?;
    for name in outputs {
        let shape = graph.output_shape(name, Width::FULL)?;
        writeln!(text, "output        {name} {shape}")?;
    }
    if !graph.outputs().iter().any(|(name, _)| name == "logits") {
        writeln!(text, "              the source has no classifier")?;
    }
    writeln!(text, "preprocess    {}", preprocess)?;
    let magnitudes: Vec<String> = largest
        .iter()
        .map(|(name, value)| format!("|{name}| <= {value:.3}"))
        .collect();
    writeln!(
        text,
        "check         finite on {IMAGES} random images ({}); the file reads back equal",
        magnitudes.join(", ")
    )?;
    if let Some(comparison) = comparison {
        writeln!(text, "check         {comparison}")?;
    }
    say!("{text}{}", args.output.display())
}
