//! `slimbit predict`: the most probable classes of images, a few images at a time.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;
use slimbit_data::{
    DataError, Dataset, Preprocess, Skipped as Unreadable, escape_name, open_image, printable,
};
use tempfile::NamedTempFile;

use super::classes::Classes;
use super::classifier::{Classifier, Variant};
use super::output::{self, Product};
use super::{Outcome, interrupt, progress};
use crate::cli::{PredictArgs, STANDARD_OUTPUT};
use crate::console::{self, count, note, say};

/// Images that are decoded, and run, at a time.
const BATCH: usize = 64;

/// Where images come from.
enum Source {
    /// Pictures, as they are named on the command line or found in folders.
    Files(Vec<PathBuf>),
    /// IDX or CIFAR files.
    Records(Box<Dataset>),
}

/// One class of an image, with its probability.
#[derive(Serialize)]
struct Guess<'a> {
    class: std::borrow::Cow<'a, str>,
    index: usize,
    probability: f32,
}

/// An image that has no prediction, and why.
#[derive(Serialize)]
struct Skipped {
    image: String,
    reason: String,
}

pub(super) fn execute(args: &PredictArgs) -> Result<Outcome> {
    let csv_to_standard_output = args.csv.as_deref().is_some_and(is_standard_output);
    ensure!(
        !(args.json && csv_to_standard_output),
        "--json and --csv - both write to standard output; give --csv a file"
    );
    if let Some(csv) = args.csv.as_deref().filter(|csv| !is_standard_output(csv)) {
        let mut inputs = vec![args.file.as_path()];
        inputs.extend(
            args.images
                .iter()
                .chain(&args.classes)
                .map(PathBuf::as_path),
        );
        output::check_file(csv, Product::Csv, &inputs)?;
    }
    let mut network = Classifier::open(
        &args.file,
        args.classes.as_deref(),
        args.threads,
        args.memory,
    )?;
    let wanted: Vec<_> = args.point.into_iter().collect();
    let variant = network.variants(&wanted, &args.file)?[0];
    let mut skipped = Vec::new();
    let sources = find(&args.images, &mut skipped)?;
    let images: usize = sources.iter().map(Source::len).sum();
    ensure!(
        images > 0,
        "there is no image in {}; give image files, or folders that hold some",
        args.images
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );

    let classes = network.classes.clone();
    let mut outputs = Outputs::open(args, &classes, variant)?;
    let interrupted = interrupt::flag()?;
    let bar = progress::steps("predicting", images);
    let mut done = 0;
    'images: for source in &sources {
        for start in (0..source.len()).step_by(BATCH) {
            if interrupted.load(Ordering::Relaxed) {
                break 'images;
            }
            let rows: Vec<usize> = (start..(start + BATCH).min(source.len())).collect();
            let read = |&row: &usize| source.read(row, &network.preprocess);
            let read: Vec<_> = network.within(|| rows.par_iter().map(read).collect());
            let (mut names, mut codes) = (Vec::new(), Vec::new());
            for (&row, read) in rows.iter().zip(read) {
                match read {
                    Ok(image) => {
                        names.push(source.name(row));
                        codes.extend(image);
                    }
                    Err(error) => skip(&mut skipped, source.name(row), reason(error)),
                }
            }
            if !names.is_empty() {
                let logits = network.logits(variant, &codes)?;
                for (name, logits) in names.iter().zip(logits.chunks_exact(classes.len())) {
                    outputs.write(name, &guesses(logits, args.top, &classes))?;
                }
            }
            done += names.len();
            bar.inc(rows.len() as u64);
        }
    }
    bar.finish_and_clear();
    let stopped = interrupted.load(Ordering::Relaxed);
    if done == 0 && !stopped {
        bail!(
            "of {}, none can be read; the reasons are above",
            count(images, "image")
        );
    }
    outputs.finish(args, done, &skipped)?;
    if stopped {
        note!("stopped: {done} of {images} images have a prediction");
        return Ok(Outcome::Interrupted);
    }
    if skipped.is_empty() {
        return Ok(Outcome::Done);
    }
    note!(
        "{} of {} images could not be read and have no prediction",
        skipped.len(),
        skipped.len() + done
    );
    Ok(Outcome::Incomplete)
}

fn is_standard_output(path: &Path) -> bool {
    path == Path::new(STANDARD_OUTPUT)
}

fn skip(skipped: &mut Vec<Skipped>, image: String, reason: String) {
    log::warn!("skipping {image}: {reason}");
    skipped.push(Skipped { image, reason });
}

/// What is wrong with an image whose name is said already.
fn reason(error: DataError) -> String {
    match error {
        DataError::Decode { reason, .. } => reason,
        DataError::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// The images named on the command line. A name that is not there is an error before any work begins; what cannot be read
/// in a folder is skipped.
fn find(paths: &[PathBuf], skipped: &mut Vec<Skipped>) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        let metadata = path
            .metadata()
            .with_context(|| format!("cannot read {}", path.display()))?;
        if !metadata.is_dir() {
            // What holds many images, by its name; everything else is a picture, whatever it is called.
            match Dataset::open(path) {
                Ok(records) => {
                    sources.push(Source::Files(std::mem::take(&mut files)));
                    sources.push(Source::Records(Box::new(records)));
                }
                Err(DataError::Unrecognised { .. }) => files.push(path.clone()),
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        let (found, unreadable) = slimbit_data::pictures(path)?;
        for entry in unreadable {
            let Unreadable { path, reason } = entry;
            skip(skipped, escape_name(path.as_os_str()).into_owned(), reason);
        }
        if found.is_empty() {
            let records = Dataset::open(path)?;
            sources.push(Source::Files(std::mem::take(&mut files)));
            sources.push(Source::Records(Box::new(records)));
        } else {
            files.extend(found);
        }
    }
    sources.push(Source::Files(files));
    Ok(sources)
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Self::Files(files) => files.len(),
            Self::Records(dataset) => dataset.len(),
        }
    }

    fn name(&self, row: usize) -> String {
        match self {
            Self::Files(files) => escape_name(files[row].as_os_str()).into_owned(),
            Self::Records(dataset) => format!(
                "{}/{}",
                escape_name(dataset.path().as_os_str()),
                dataset.name(row)
            ),
        }
    }

    /// The codes of an image.
    fn read(&self, row: usize, preprocess: &Preprocess) -> Result<Vec<u8>, DataError> {
        let image = match self {
            Self::Files(files) => open_image(&files[row])?,
            Self::Records(dataset) => dataset.image(row)?,
        };
        Ok(preprocess.codes(&image))
    }
}

/// The most probable classes of an image, by the softmax of its logits. It is floating point, and outside the engine.
fn guesses<'a>(logits: &[f32], top: usize, classes: &'a Classes) -> Vec<Guess<'a>> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // A stable sort: of equal logits the first wins, as everywhere.
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let guess = |index: usize| Guess {
        class: classes.name(index),
        index,
        probability: powers[index] / sum,
    };
    order.into_iter().take(top).map(guess).collect()
}

/// Where predictions go, an image at a time.
struct Outputs {
    csv: Option<csv::Writer<Table>>,
    json: Option<Json>,
    text: bool,
    /// Classes without names are mentioned by number.
    named: bool,
}

/// A CSV table: standard output, or a file that takes its name when it is whole.
enum Table {
    Standard(io::Stdout),
    File(NamedTempFile),
}

/// The JSON document on standard output, of which the beginning is written.
struct Json {
    images: usize,
}

impl Outputs {
    fn open(args: &PredictArgs, classes: &Classes, variant: Variant) -> Result<Self> {
        let csv = match args.csv.as_deref() {
            None => None,
            Some(path) => {
                let table = match is_standard_output(path) {
                    true => Table::Standard(io::stdout()),
                    false => Table::File(
                        temporary(path).with_context(|| format!("writing {}", path.display()))?,
                    ),
                };
                let mut csv = csv::Writer::from_writer(table);
                csv.write_record(header(args.top.min(classes.len())))?;
                Some(csv)
            }
        };
        let json = match args.json {
            false => None,
            true => {
                let (file, point) = (printable(&args.file), variant.to_string());
                console::print_exactly(&format!(
                    "{{\"file\": {}, \"point\": {}, \"images\": [",
                    serde_json::to_string(&file)?,
                    serde_json::to_string(&point)?
                ))?;
                Some(Json { images: 0 })
            }
        };
        Ok(Self {
            text: csv.is_none() && json.is_none(),
            csv,
            json,
            named: classes.names().is_some(),
        })
    }

    fn write(&mut self, image: &str, guesses: &[Guess<'_>]) -> Result<()> {
        if let Some(csv) = &mut self.csv {
            let mut row = vec![image.to_owned()];
            for guess in guesses {
                row.extend([guess.class.to_string(), format!("{:.6}", guess.probability)]);
            }
            csv.write_record(row)?;
        }
        if let Some(json) = &mut self.json {
            let comma = if json.images > 0 { "," } else { "" };
            let row = serde_json::json!({ "image": image, "classes": guesses });
            console::print_exactly(&format!("{comma}\n  {row}"))?;
            json.images += 1;
        }
        if self.text {
            let guesses: Vec<String> = guesses
                .iter()
                .map(|guess| {
                    let class = if self.named { "" } else { "class " };
                    format!(
                        "{class}{} {:.2} %",
                        printable(&*guess.class),
                        100.0 * guess.probability
                    )
                })
                .collect();
            say!("{image}: {}", guesses.join(", "))?;
        }
        Ok(())
    }

    fn finish(self, args: &PredictArgs, done: usize, skipped: &[Skipped]) -> Result<()> {
        if let Some(csv) = self.csv {
            let table = csv.into_inner().map_err(|error| error.into_error())?;
            if let (Table::File(file), Some(path)) = (table, &args.csv) {
                let writing = || format!("writing {}", path.display());
                file.as_file().sync_all().with_context(writing)?;
                file.persist(path).with_context(writing)?;
                if self.json.is_none() {
                    say!("{}: {}", path.display(), count(done, "image"))?;
                }
            }
        }
        if self.json.is_some() {
            let skipped = serde_json::to_string(skipped)?;
            console::print_exactly(&format!("\n], \"skipped\": {skipped}}}\n"))?;
        }
        Ok(())
    }
}

impl Write for Table {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// A file beside the one that it will become.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // Temporary files are private by default; this one is as readable as the umask allows.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".slimbit-").tempfile_in(folder)
}

/// `image,class_1,probability_1,class_2,…`
fn header(top: usize) -> Vec<String> {
    let mut header = vec!["image".to_owned()];
    for place in 1..=top {
        header.extend([format!("class_{place}"), format!("probability_{place}")]);
    }
    header
}
