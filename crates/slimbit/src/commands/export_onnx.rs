//! `slimbit export --onnx`: networks for other runtimes.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use slimbit_data::{Dataset, Preprocess, printable};
use slimbit_engine::replace_file;
use slimbit_graph::Graph;
use slimbit_interchange::FileKind;
use slimbit_interchange::onnx::{self, FloatOptions, QdqOptions};

use super::features::{Images, PREPROCESS, open_file, preprocess_of};
use super::float::mean_cosine;
use super::foreign::{Answer, Pixels, Python, Request, Runtime};
use super::forward::{self, Vectors};
use super::open::{self, Wanted};
use super::output::{self, Product};
use super::{Outcome, quantize};
use crate::cli::{ExportArgs, OnnxArgs};
use crate::console::{self, count, say};

pub(super) fn execute(source: &Path, output: &Path, args: &ExportArgs) -> Result<Outcome> {
    output::check_file(output, Product::Onnx, &[source])?;
    let mut summary = match open::expect(source, &[Wanted::Network, Wanted::Slim])? {
        FileKind::Slim => quantised(source, output, args)?,
        _ => float(source, output, args)?,
    };
    if args.json {
        summary["file"] = json!(printable(output));
        console::print_json(&summary)?;
    }
    Ok(Outcome::Done)
}

fn float(source: &Path, output: &Path, args: &ExportArgs) -> Result<Value> {
    if args.onnx.point.is_some() {
        bail!("a float network has no points; give --point with a .slim file");
    }
    let network = open::network(source)?;
    let options = FloatOptions {
        batch: args.onnx.batch,
        keep_norms: args.onnx.keep_batch_norm,
    };
    let bytes = onnx::export_float(&network, options)?;
    write(output, &bytes)?;
    if !args.json {
        say!(
            "{}: float, {}",
            output.display(),
            count(bytes.len(), "byte")
        )?;
    }
    let mut summary = json!({ "bytes": bytes.len() });
    if let Some(folder) = &args.onnx.check {
        let preprocess = quantize::preprocess_of(&network, source)?;
        let images = Images::load(&Dataset::open(folder)?, &preprocess, args.onnx.limit)?;
        let ours = forward::float(&network, &preprocess, &images)?;
        let check = Check::new(&network.graph, output, &args.onnx, &preprocess, &images);
        let runtimes = [Runtime::Ort, Runtime::OpenVino];
        summary["agreement"] = check.run(&runtimes, &ours, args.json)?;
    }
    Ok(summary)
}

fn quantised(source: &Path, output: &Path, args: &ExportArgs) -> Result<Value> {
    if args.onnx.keep_batch_norm {
        bail!("a .slim file has no batch-norms to keep; its rescalings hold them");
    }
    let model = Arc::new(open_file(source)?);
    let point = args.onnx.point.unwrap_or_else(|| model.points()[0].point);
    let options = QdqOptions {
        batch: args.onnx.batch,
        wide_codes: args.onnx.int8_weights,
    };
    let made = onnx::export_qdq(&model, point, options)?;
    write(output, &made.bytes)?;
    if !args.json {
        say!(
            "{}: {point} as QDQ, opset {}, {} bytes",
            output.display(),
            made.opset,
            made.bytes.len()
        )?;
        if made.clamped_weights > 0 || made.coarsened_channels > 0 {
            say!(
                "not exactly as the engine: {} clamped where a slope is negative, {} coarsened to \
                 fit their bias",
                count(made.clamped_weights, "weight"),
                count(made.coarsened_channels, "channel")
            )?;
        }
    }
    let mut summary = json!({
        "point": point, "opset": made.opset, "bytes": made.bytes.len(),
        "clamped_weights": made.clamped_weights, "coarsened_channels": made.coarsened_channels,
    });
    if let Some(folder) = &args.onnx.check {
        let preprocess = preprocess_of(&model)
            .with_context(|| format!("--check needs the metadata `{PREPROCESS}`"))?;
        let images = Images::load(&Dataset::open(folder)?, &preprocess, args.onnx.limit)?;
        let ours = forward::engine(&model, point, &images)?;
        let check = Check::new(model.graph(), output, &args.onnx, &preprocess, &images);
        let runtimes = [Runtime::Ort, Runtime::OrtExact, Runtime::OpenVino];
        summary["agreement"] = check.run(&runtimes, &ours, args.json)?;
    }
    Ok(summary)
}

/// The comparison of a file with what it was made of, over a folder of images.
struct Check<'a> {
    request: Request<'a>,
    python: Python,
    images: usize,
}

impl<'a> Check<'a> {
    fn new(
        graph: &Graph,
        model: &'a Path,
        args: &'a OnnxArgs,
        preprocess: &'a Preprocess,
        images: &'a Images,
    ) -> Self {
        let shape = graph.input_shape();
        let (height, width) = shape.spatial();
        let request = Request {
            model,
            images: Pixels {
                codes: &images.codes,
                mean: &preprocess.mean,
                std: &preprocess.std,
            },
            shape: [height, width, shape.channels()],
            batch: args.batch,
            channels_last: false,
            bytes: false,
            outputs: &[],
            outputs_last: &[],
        };
        Self {
            request,
            python: Python::find(args.python.as_deref()),
            images: images.len(),
        }
    }

    /// Asks every runtime, and prints and gives how far it agrees with `ours`.
    ///
    /// # Errors
    /// Where no runtime could be asked: a check that checked nothing has not passed.
    fn run(&self, runtimes: &[Runtime], ours: &Vectors, quiet: bool) -> Result<Value> {
        let outputs: Vec<String> = ours.keys().cloned().collect();
        let request = Request {
            outputs: &outputs,
            ..self.request
        };
        let mut rows = Vec::new();
        let mut not_run = Vec::new();
        for &runtime in runtimes {
            let (version, theirs) = match self.python.run(runtime, &request)? {
                Answer::Missing(why) => {
                    if !quiet {
                        say!("check against {runtime} skipped: {why}")?;
                    }
                    not_run.push(format!("{runtime} is missing: {why}"));
                    rows.push(json!({ "runtime": runtime.to_string(), "skipped": why }));
                    continue;
                }
                Answer::Failed(why) => {
                    if !quiet {
                        say!("check against {runtime} failed, it cannot run the file: {why}")?;
                    }
                    not_run.push(format!("{runtime} cannot run the file: {why}"));
                    rows.push(json!({ "runtime": runtime.to_string(), "failed": why }));
                    continue;
                }
                Answer::Ran { version, outputs } => (version, outputs),
            };
            for (name, ours) in ours {
                let theirs = &theirs[name];
                let width = ours.len() / self.images.max(1);
                let cosine = mean_cosine(ours, theirs, width);
                let mut row = json!({
                    "runtime": runtime.to_string(), "version": version, "output": name,
                    "images": self.images, "cosine": cosine,
                });
                let mut text = format!("{runtime} {version}: {name}: ");
                if name == "logits" {
                    let same = agreeing(ours, theirs, width);
                    row["same_top1"] = json!(same);
                    text += &format!(
                        "same top-1 in {same} of {} ({:.2} %), ",
                        count(self.images, "image"),
                        100.0 * same as f64 / self.images.max(1) as f64
                    );
                }
                if !quiet {
                    say!("{text}mean cosine {cosine:.6}")?;
                }
                rows.push(row);
            }
        }
        if not_run.len() == runtimes.len() {
            bail!(
                "--check compared nothing; {} is written, and was not checked:\n  {}",
                self.request.model.display(),
                not_run.join("\n  ")
            );
        }
        Ok(json!(rows))
    }
}

/// Rows whose largest element is at the same place.
fn agreeing(a: &[f32], b: &[f32], width: usize) -> usize {
    let largest = |row: &[f32]| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j]));
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    rows.filter(|(a, b)| largest(a) == largest(b)).count()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_rows() {
        let (a, b) = ([1.0, 2.0, 5.0, 3.0], [0.0, 9.0, 1.0, 2.0]);
        assert_eq!(agreeing(&a, &b, 2), 1);
    }
}
