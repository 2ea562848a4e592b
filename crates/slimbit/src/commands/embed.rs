use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use npyz::WriterBuilder;
use slimbit_data::Dataset;
use slimbit_engine::Model;

use super::Outcome;
use super::features::{Images, engine_features, points_of, preprocess_of};
use crate::cli::EmbedArgs;

pub(super) fn execute(args: &EmbedArgs) -> Result<Outcome> {
    let model = Arc::new(Model::open(&args.file)?);
    let preprocess = preprocess_of(&model)?;
    let wanted: Vec<_> = args.point.into_iter().collect();
    let point = points_of(&model, &wanted)?[0];
    let dataset = Dataset::open(&args.images)?;
    let images = Images::load(&dataset, &preprocess, None)?;
    let rows = engine_features(&model, point, &images)?;
    let dim = rows.len() / images.len();

    // A killed or failed run must not leave half a file under the final name.
    let partial = args.output.with_extension("npy.partial");
    let context = || format!("writing {}", partial.display());
    let mut file = BufWriter::new(File::create(&partial).with_context(context)?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&[images.len() as u64, dim as u64])
        .writer(&mut file)
        .begin_nd()
        .with_context(context)?;
    writer.extend(rows).with_context(context)?;
    writer.finish().with_context(context)?;
    file.flush().with_context(context)?;
    file.get_ref().sync_all().with_context(context)?;
    std::fs::rename(&partial, &args.output)
        .with_context(|| format!("renaming to {}", args.output.display()))?;

    let names = args.output.with_extension("txt");
    let list: String = images
        .indices
        .iter()
        .map(|&index| dataset.name(index) + "\n")
        .collect();
    std::fs::write(&names, list).with_context(|| format!("writing {}", names.display()))?;
    println!(
        "{}: {} images, {dim} features each, at {point}",
        args.output.display(),
        images.len()
    );
    Ok(Outcome::Done)
}
