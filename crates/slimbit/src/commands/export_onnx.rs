//! `slimbit export --onnx`: networks for other runtimes.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use slimbit_engine::Model;
use slimbit_interchange::Network;
use slimbit_interchange::onnx::{self, FloatOptions, QdqOptions};

use super::Outcome;
use crate::cli::ExportArgs;

pub(super) fn execute(source: &Path, output: &Path, args: &ExportArgs) -> Result<Outcome> {
    let summary = match source.extension().and_then(OsStr::to_str) {
        Some("slim") => quantised(source, output, args)?,
        Some("safetensors") => float(source, output, args)?,
        _ => bail!(
            "{}: --onnx takes a float network (.safetensors) or a .slim file",
            source.display()
        ),
    };
    if args.json {
        println!("{summary}");
    }
    Ok(Outcome::Done)
}

fn float(source: &Path, output: &Path, args: &ExportArgs) -> Result<serde_json::Value> {
    if args.onnx.point.is_some() {
        bail!("a float network has no points; give --point with a .slim file");
    }
    let network = Network::open(source)?;
    let options = FloatOptions {
        batch: args.onnx.batch,
        keep_norms: args.onnx.keep_batch_norm,
    };
    let bytes = onnx::export_float(&network, options)?;
    write(output, &bytes)?;
    if !args.json {
        println!("{}: float, {} bytes", output.display(), bytes.len());
    }
    Ok(serde_json::json!({ "file": output, "bytes": bytes.len() }))
}

fn quantised(source: &Path, output: &Path, args: &ExportArgs) -> Result<serde_json::Value> {
    if args.onnx.keep_batch_norm {
        bail!("a .slim file has no batch-norms to keep; its rescalings hold them");
    }
    let model = Model::open(source)?;
    let point = args.onnx.point.unwrap_or_else(|| model.points()[0].point);
    let options = QdqOptions {
        batch: args.onnx.batch,
        wide_codes: args.onnx.int8_weights,
    };
    let made = onnx::export_qdq(&model, point, options)?;
    write(output, &made.bytes)?;
    if !args.json {
        println!(
            "{}: {point} as QDQ, opset {}, {} bytes",
            output.display(),
            made.opset,
            made.bytes.len()
        );
        if made.clamped_weights > 0 || made.coarsened_channels > 0 {
            println!(
                "not exactly as the engine: {} weights clamped where a slope is negative, {} \
                 channels coarsened to fit their bias",
                made.clamped_weights, made.coarsened_channels
            );
        }
    }
    Ok(serde_json::json!({
        "file": output, "point": point, "opset": made.opset, "bytes": made.bytes.len(),
        "clamped_weights": made.clamped_weights, "coarsened_channels": made.coarsened_channels,
    }))
}

/// Puts the whole file there or none.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("onnx.partial");
    fs::write(&partial, bytes).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("renaming to {}", path.display()))
}
