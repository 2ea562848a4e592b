use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use npyz::WriterBuilder;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use slimbit_data::{Dataset, Split, printable};
use slimbit_engine::{Model, replace_file};
use slimbit_graph::Width;

use super::Outcome;
use super::features::{
    FEATURES, Images, engine_output, feature_output, open_model, points_of, preprocess_of,
};
use super::forward;
use super::output::{self, Product};
use crate::cli::{EmbedArgs, SplitArg};
use crate::console::{count, say};

/// A file format, told by the file's name.
#[derive(Clone, Copy)]
enum Format {
    Npy,
    Parquet,
}

/// A row of `dim` features per image.
struct Embeddings {
    rows: Vec<f32>,
    dim: usize,
    names: Vec<String>,
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
}

pub(super) fn execute(args: &EmbedArgs) -> Result<Outcome> {
    let format = Format::of(&args.output)?;
    let inputs = [args.file.as_path(), args.images.as_path()];
    match format {
        Format::Npy => {
            output::check_file(&args.output, Product::Npy, &inputs)?;
            output::check_file(&args.output.with_extension("txt"), Product::Names, &inputs)?;
        }
        Format::Parquet => output::check_file(&args.output, Product::Parquet, &inputs)?,
    }
    let model = Arc::new(open_model(&args.file, args.memory)?);
    let preprocess = preprocess_of(&model)?;
    let wanted: Vec<_> = args.point.into_iter().collect();
    let point = points_of(&model, &wanted)?[0];
    let output = output_of(&model, args.output_name.as_deref())?;
    let dataset = match args.split {
        SplitArg::All => Dataset::open_all(&args.images)?,
        SplitArg::Train => Dataset::open_split(&args.images, Split::Train)?,
        SplitArg::Test => Dataset::open_split(&args.images, Split::Test)?,
    };
    let images = Images::load(&dataset, &preprocess, None)?;
    let rows = engine_output(&model, point, &images, &output)?;
    let indices = images.indices.iter();
    let embeddings = Embeddings {
        dim: rows.len() / images.len(),
        rows,
        names: indices.map(|&index| dataset.name(index)).collect(),
        labels: images.labels,
        classes: dataset.classes().to_vec(),
    };
    let bytes = match format {
        Format::Npy => embeddings.npy()?,
        Format::Parquet => embeddings.parquet(point.to_string())?,
    };
    let writing = |path: &Path| format!("writing {}", path.display());
    replace_file(&args.output, &bytes).with_context(|| writing(&args.output))?;
    if let Format::Npy = format {
        let list = args.output.with_extension("txt");
        replace_file(&list, (embeddings.names.join("\n") + "\n").as_bytes())
            .with_context(|| writing(&list))?;
    }
    say!(
        "{}: {} of {} ({}), {} of `{output}` each, at {point}",
        args.output.display(),
        count(embeddings.names.len(), "image"),
        printable(&args.images),
        match args.split {
            SplitArg::All => "all",
            SplitArg::Train => "the train split",
            SplitArg::Test => "the test split",
        },
        count(embeddings.dim, "value")
    )?;
    Ok(Outcome::Done)
}

/// The output that is the embedding: the one asked for, `features`, or the only one.
fn output_of(model: &Model, asked: Option<&str>) -> Result<String> {
    let vectors = forward::vectors_of(model.graph(), Width::FULL)?;
    let names = vectors.join(", ");
    match asked {
        Some(name) if vectors.iter().any(|vector| vector == name) => Ok(name.to_owned()),
        Some(name) => {
            bail!("--output-name {name}: the network's outputs that are vectors are {names}")
        }
        None if vectors.len() == 1 || vectors.iter().any(|name| name == FEATURES) => {
            feature_output(model.graph())
        }
        None if vectors.is_empty() => bail!("the network has no output that is a vector"),
        None => bail!(
            "the network has several outputs and none is called `{FEATURES}`; choose one of {names} with --output-name"
        ),
    }
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!(
                "{}: the format follows from the name, which must end in .npy or .parquet",
                path.display()
            ),
        }
    }
}

impl Embeddings {
    fn npy(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[self.names.len() as u64, self.dim as u64])
            .writer(&mut bytes)
            .begin_nd()?;
        writer.extend(&self.rows)?;
        writer.finish()?;
        Ok(bytes)
    }

    /// Columns `image`, `label` and `class` where there are labels, and `embedding`, a list. The
    /// file's metadata name the point.
    fn parquet(&self, point: String) -> Result<Vec<u8>> {
        let labelled = match self.labels {
            Some(_) => "required int32 label; required binary class (UTF8);",
            None => "",
        };
        let schema = parse_message_type(&format!(
            "message embeddings {{ required binary image (UTF8); {labelled}
             required group embedding (LIST) {{ repeated group list {{ required float element; }} }} }}"
        ))?;
        let point = KeyValue::new("point".to_owned(), point);
        let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![point]));
        let mut bytes = Vec::new();
        let mut file =
            SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties.build()))?;
        let mut group = file.next_row_group()?;
        column::<ByteArrayType>(&mut group, &texts(&self.names), None)?;
        if let Some(labels) = &self.labels {
            let labels: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
            let classes = labels.iter().map(|&label| &self.classes[label as usize]);
            column::<Int32Type>(&mut group, &labels, None)?;
            column::<ByteArrayType>(&mut group, &texts(classes), None)?;
        }
        column::<FloatType>(&mut group, &self.rows, Some(self.dim))?;
        group.close()?;
        file.close()?;
        Ok(bytes)
    }
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<ByteArray> {
    let texts = texts.into_iter();
    texts.map(|text| ByteArray::from(text.as_str())).collect()
}

/// Writes the next column; with `list`, its values come in lists of that length.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: &[T::T],
    list: Option<usize>,
) -> Result<()> {
    // Every value is there (level 1 of 1), and the first of a list does not repeat anything.
    let levels = list.map(|length| {
        let repeats = (0..values.len()).map(|index| i16::from(index % length != 0));
        (vec![1; values.len()], repeats.collect::<Vec<i16>>())
    });
    let (defined, repeated) = levels.unzip();
    let mut column = group.next_column()?.context("a column of the schema")?;
    column
        .typed::<T>()
        .write_batch(values, defined.as_deref(), repeated.as_deref())?;
    Ok(column.close()?)
}
