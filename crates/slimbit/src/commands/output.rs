//! What a command is about to write is checked before any work begins: a mistyped `-o` must neither cost
//! an hour nor a file.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use parquet::file::reader::{FileReader, SerializedFileReader};
use slimbit_interchange::FileKind;

/// A kind of file that a command writes. Only files of the same kind may stand in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// A `.slim` file.
    Slim,
    /// A float network.
    Network,
    /// An ONNX file of ours.
    Onnx,
    /// An array of NumPy's.
    Npy,
    /// The names of an array's rows, in the array's folder and under its name.
    Names,
    /// Embeddings as a table.
    Parquet,
    /// JSON.
    Json,
    /// A page for a browser.
    Html,
    /// A manual page of ours.
    Manual,
    /// A picture of lines and areas.
    Svg,
    /// A table as text.
    Csv,
}

/// Refuses an output that would destroy something, or that cannot be written: an input or a link to one, a
/// file that is not such a `product`, a folder, a name in a folder that is missing or read-only. A file of
/// the same kind may be replaced, and so may an empty one.
///
/// # Errors
/// The output's name, what is wrong with it and what to do.
pub(super) fn check_file(output: &Path, product: Product, inputs: &[&Path]) -> Result<()> {
    let shown = output.display();
    if output.file_name().is_none() || output.is_dir() {
        bail!("{shown} is a folder; give the name of a file to write in it");
    }
    check_writable(folder_of(output), output)?;
    let Ok(found) = fs::metadata(output) else {
        return Ok(());
    };
    for input in inputs {
        if !same_file::is_same_file(output, input).unwrap_or(false) {
            continue;
        }
        if output == *input {
            bail!("{shown} is the input, which would be overwritten; choose another name");
        }
        bail!(
            "{shown} is the input {} under another name and would be overwritten; choose another name",
            input.display()
        );
    }
    if !found.is_file() {
        bail!("{shown} is not a regular file; choose another name");
    }
    if found.permissions().readonly() {
        bail!("{shown} is write-protected; choose another name, or make it writable");
    }
    let same = found.len() == 0
        || product
            .is_at(output)
            .with_context(|| format!("reading {shown}, which would be overwritten"))?;
    if !same {
        bail!("{shown} exists and is not {product}; choose another name, or move it away first");
    }
    Ok(())
}

/// Refuses a folder in which nothing can be written; one that does not exist yet must have a parent in
/// which it can be made, at any depth.
///
/// # Errors
/// The folder's name, what is wrong with it and what to do.
pub(super) fn check_folder(folder: &Path) -> Result<()> {
    let mut existing = folder;
    while !existing.as_os_str().is_empty() && fs::symlink_metadata(existing).is_err() {
        existing = folder_of(existing);
    }
    check_writable(existing, folder)
}

/// The folder that a path names something in.
fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Whether files can be made in `folder`, found out by making one: permission bits alone do not tell.
fn check_writable(folder: &Path, output: &Path) -> Result<()> {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let (place, output) = (folder.display(), output.display());
    match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("cannot write {output}: the folder {place} does not exist; make it first")
        }
        Err(error) => bail!("cannot write {output}: {place}: {error}"),
        Ok(found) if !found.is_dir() => {
            bail!("cannot write {output}: {place} is not a folder")
        }
        Ok(_) => {}
    }
    let attempt = tempfile::Builder::new()
        .prefix(".slimbit-")
        .tempfile_in(folder);
    let Err(error) = attempt else {
        return Ok(());
    };
    // The kind alone: what `tempfile` adds to it is the path of a file which nobody asked for.
    let reason = io::Error::from(error.kind());
    bail!("cannot write {output}: no file can be made in {place}: {reason}")
}

impl Product {
    /// Whether the file is one of these, told by its content.
    fn is_at(self, path: &Path) -> Result<bool> {
        Ok(match self {
            Self::Slim => FileKind::of(path)? == FileKind::Slim,
            Self::Network => FileKind::of(path)? == FileKind::Network,
            Self::Onnx => is_our_onnx(&beginning::<24>(path)?),
            Self::Npy => beginning::<6>(path)? == b"\x93NUMPY",
            Self::Names => names_an_array(path)?,
            Self::Parquet => is_our_parquet(path)?,
            Self::Json => {
                let file = io::BufReader::new(File::open(path)?);
                serde_json::from_reader::<_, serde::de::IgnoredAny>(file).is_ok()
            }
            Self::Manual => fs::read_to_string(path)?.contains(".TH slimbit"),
            Self::Html => {
                let text = beginning::<15>(path)?;
                text.eq_ignore_ascii_case(b"<!doctype html>")
            }
            Self::Svg => beginning::<4>(path)? == b"<svg",
            Self::Csv => is_table(&beginning::<4096>(path)?),
        })
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slim => "a .slim file",
            Self::Network => "a float network of slimbit",
            Self::Onnx => "an ONNX file that slimbit wrote",
            Self::Npy => "a .npy array",
            Self::Names => "the list of names of the .npy file beside it",
            Self::Parquet => "a table of embeddings that slimbit wrote",
            Self::Json => "a JSON file",
            Self::Html => "a web page",
            Self::Manual => "a manual page of slimbit",
            Self::Svg => "an SVG picture",
            Self::Csv => "a CSV table",
        })
    }
}

/// The first `N` bytes, or as many as there are.
fn beginning<const N: usize>(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(N);
    File::open(path)?.take(N as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// CSV has no signature: text whose first line names columns.
fn is_table(bytes: &[u8]) -> bool {
    let header = bytes
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    let plain = bytes
        .iter()
        .all(|&byte| byte >= b' ' || byte.is_ascii_whitespace());
    plain && header.contains(&b',') && !header.starts_with(b"{") && !header.starts_with(b"<")
}

/// ONNX has no signature; ours begin with the version of the representation and our name.
fn is_our_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, _, 0x12, 7, name @ ..] if name.starts_with(b"slimbit"))
}

/// Whether there is an array beside the list that has as many rows as the list has lines.
fn names_an_array(path: &Path) -> Result<bool> {
    let Ok(file) = File::open(path.with_extension("npy")) else {
        return Ok(false);
    };
    let Ok(array) = npyz::NpyFile::new(io::BufReader::new(file)) else {
        return Ok(false);
    };
    let mut lines = 0;
    let mut list = io::BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    while io::BufRead::read_until(&mut list, b'\n', &mut line)? > 0 {
        lines += 1;
        line.clear();
    }
    Ok(array.shape().first() == Some(&lines))
}

fn is_our_parquet(path: &Path) -> Result<bool> {
    let Ok(table) = SerializedFileReader::new(File::open(path)?) else {
        return Ok(false);
    };
    Ok(table.metadata().file_metadata().schema().name() == "embeddings")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(output: &Path, product: Product, inputs: &[&Path], part: &str) {
        let error = check_file(output, product, inputs).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn an_input_under_any_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("a.npy");
        fs::write(&input, b"\x93NUMPY and more").unwrap();
        check_file(&input, Product::Npy, &[]).unwrap();
        refused(&input, Product::Npy, &[&input], "is the input");
        let spelt = folder.path().join(".").join("a.npy");
        refused(&spelt, Product::Npy, &[&input], "is the input");
        let hard = folder.path().join("hard.npy");
        fs::hard_link(&input, &hard).unwrap();
        refused(&hard, Product::Npy, &[&input], "under another name");
        #[cfg(unix)]
        {
            let soft = folder.path().join("soft.npy");
            std::os::unix::fs::symlink(&input, &soft).unwrap();
            refused(&soft, Product::Npy, &[&input], "under another name");
        }
    }

    #[test]
    fn files_of_another_kind_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "epochs = 3\n").unwrap();
        for product in [
            Product::Slim,
            Product::Network,
            Product::Onnx,
            Product::Npy,
            Product::Names,
            Product::Parquet,
            Product::Json,
            Product::Html,
            Product::Manual,
            Product::Svg,
            Product::Csv,
        ] {
            refused(&path, product, &[], "exists and is not");
        }
        fs::write(&path, "").unwrap();
        check_file(&path, Product::Slim, &[]).unwrap();
        fs::write(&path, "{\"a\": [1, 2]}").unwrap();
        check_file(&path, Product::Json, &[]).unwrap();
        refused(&path, Product::Csv, &[], "is not a CSV table");
        fs::write(&path, "point,top1\n1x W8A8,80\n").unwrap();
        check_file(&path, Product::Csv, &[]).unwrap();
        fs::write(&path, b"\x08\x0a\x12\x07slimbit").unwrap();
        check_file(&path, Product::Onnx, &[]).unwrap();
        fs::write(&path, b"\x08\x08\x12\x07pytorch").unwrap();
        refused(&path, Product::Onnx, &[], "that slimbit wrote");
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        refused(folder.path(), Product::Slim, &[], "is a folder");
        refused(&path("no/a.slim"), Product::Slim, &[], "does not exist");
        check_folder(&path("no/such/run")).unwrap();
        fs::write(path("file"), "x").unwrap();
        refused(&path("file/a.slim"), Product::Slim, &[], "file");
        let error = check_folder(&path("file/run")).unwrap_err().to_string();
        assert!(error.contains("is not a folder"), "{error}");
        let mut permissions = fs::metadata(path("file")).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(path("file"), permissions).unwrap();
        refused(&path("file"), Product::Json, &[], "write-protected");
        #[cfg(target_os = "linux")]
        {
            refused(Path::new("/dev/null"), Product::Slim, &[], "not a regular");
            let nowhere = Path::new("/proc/a.slim");
            refused(nowhere, Product::Slim, &[], "no file can be made");
            let error = check_file(nowhere, Product::Slim, &[]).unwrap_err();
            assert!(!error.to_string().contains(".slimbit-"), "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
