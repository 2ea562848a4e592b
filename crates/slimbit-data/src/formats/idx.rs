//! IDX, the format of MNIST and its successors: a big-endian header of dimensions, then the bytes;
//! raw or gzipped.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Pixels, class_names};
use crate::{DataError, Split};

/// The most that deflate can expand its input: a header that claims more than this is wrong,
/// whatever follows.
const MAX_EXPANSION: u64 = 1032;

pub(crate) fn is_image_file(name: &str) -> bool {
    name.strip_suffix(".gz")
        .unwrap_or(name)
        .ends_with("idx3-ubyte")
}

/// The image files among the sorted file names of a folder, and the split that each belongs to by its
/// name. Of a raw file and its `.gz`, only the raw one.
pub(crate) fn image_files(names: &[String]) -> Vec<(&String, Option<Split>)> {
    let split_of = |name: &str| match name {
        name if name.contains("train") => Some(Split::Train),
        name if name.contains("t10k") || name.contains("test") => Some(Split::Test),
        _ => None,
    };
    let is_copy = |name: &str| {
        let raw = name.strip_suffix(".gz");
        raw.is_some_and(|raw| names.iter().any(|other| other == raw))
    };
    names
        .iter()
        .filter(|name| is_image_file(name) && !is_copy(name))
        .map(|name| (name, split_of(name)))
        .collect()
}

/// Reads an image file and, where there is one beside it, its label file and `classes.txt`.
pub(crate) fn read(images: &Path) -> Result<Pixels, DataError> {
    let (dims, data) = read_array::<3>(images)?;
    let [count, height, width] = dims;
    if height == 0 || width == 0 {
        return Err(DataError::corrupt(
            images,
            format!("its images are {height}x{width}"),
        ));
    }
    let labels = match label_file(images) {
        None => None,
        Some(path) => {
            let ([labels], bytes) = read_array::<1>(&path)?;
            if labels != count {
                return Err(DataError::LabelCount {
                    path,
                    images: count,
                    labels,
                });
            }
            Some(bytes.into_iter().map(u32::from).collect::<Vec<u32>>())
        }
    };
    let classes = match labels.iter().flatten().max() {
        None => Vec::new(),
        Some(&most) => class_names(
            images.parent().unwrap_or(Path::new("")),
            "classes.txt",
            most as usize + 1,
        )?,
    };
    Ok(Pixels {
        channels: 1,
        height,
        width,
        data,
        labels,
        classes,
    })
}

fn label_file(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let raw = name.strip_suffix(".gz").unwrap_or(name);
    let labels = raw.replace("images", "labels").replace("idx3", "idx1");
    if labels.matches("labels").count() == 0 {
        return None;
    }
    [labels.clone(), labels + ".gz"]
        .into_iter()
        .map(|name| images.with_file_name(name))
        .find(|path| path.is_file())
}

/// An array of unsigned bytes with `N` dimensions. Never allocates more than the file can hold.
fn read_array<const N: usize>(path: &Path) -> Result<([usize; N], Vec<u8>), DataError> {
    let file = fs::read(path).map_err(|error| DataError::io(path, error))?;
    if file.starts_with(&[0x1f, 0x8b]) {
        let most = (file.len() as u64).saturating_mul(MAX_EXPANSION);
        parse_array(path, MultiGzDecoder::new(&file[..]), most)
    } else {
        parse_array(path, &file[..], file.len() as u64)
    }
}

fn parse_array<const N: usize>(
    path: &Path,
    mut stream: impl Read,
    most: u64,
) -> Result<([usize; N], Vec<u8>), DataError> {
    let mut magic = [0; 4];
    stream
        .read_exact(&mut magic)
        .map_err(|error| truncated(path, "its header", &error))?;
    if magic != [0, 0, 0x08, N as u8] {
        let reason = format!(
            "its first bytes are {magic:02x?}, not those of unsigned bytes in {N} dimensions"
        );
        return Err(DataError::corrupt(path, reason));
    }
    let mut dims = [0; N];
    for dim in &mut dims {
        let mut bytes = [0; 4];
        stream
            .read_exact(&mut bytes)
            .map_err(|error| truncated(path, "its header", &error))?;
        *dim = u32::from_be_bytes(bytes) as usize;
    }
    let claimed = dims
        .iter()
        .try_fold(1_u64, |size, &dim| size.checked_mul(dim as u64));
    let size = claimed.filter(|&size| size <= most).ok_or_else(|| {
        DataError::corrupt(
            path,
            format!("its header claims {dims:?} values, more than the file can hold"),
        )
    })?;
    let mut data = Vec::new();
    // One byte more than claimed: finds trailing data, and makes gzip verify its checksum.
    let read = stream
        .take(size + 1)
        .read_to_end(&mut data)
        .map_err(|error| truncated(path, "its data", &error))?;
    if read as u64 != size {
        let relation = if (read as u64) < size {
            "only"
        } else {
            "at least"
        };
        return Err(DataError::corrupt(
            path,
            format!("its header claims {size} values, it holds {relation} {read}"),
        ));
    }
    Ok((dims, data))
}

fn truncated(path: &Path, what: &str, error: &std::io::Error) -> DataError {
    DataError::corrupt(path, format!("{what} cannot be read ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<([usize; 3], Vec<u8>), String> {
        parse_array(Path::new("x"), bytes, bytes.len() as u64).map_err(|error| error.to_string())
    }

    #[test]
    fn headers_are_checked_before_anything_is_allocated() {
        let good = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 9, 8, 7, 6];
        assert_eq!(parse(&good), Ok(([2, 1, 2], vec![9, 8, 7, 6])));
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err());
        }
        let mut huge = good;
        huge[4..16].fill(255);
        assert!(
            parse(&huge)
                .unwrap_err()
                .contains("more than the file can hold")
        );
        let mut floats = good;
        floats[2] = 0x0d;
        assert!(parse(&floats).unwrap_err().contains("unsigned bytes"));
        assert!(
            parse(&[&good[..], &[0]].concat())
                .unwrap_err()
                .contains("at least 5")
        );
    }

    #[test]
    fn splits_are_told_by_name() {
        let names: Vec<String> = [
            "t10k-images-idx3-ubyte.gz",
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
        ]
        .map(String::from)
        .into();
        let files = image_files(&names);
        assert_eq!(
            files,
            [
                (&names[0], Some(Split::Test)),
                (&names[1], Some(Split::Train))
            ]
        );
        let both = ["a-idx3-ubyte", "a-idx3-ubyte.gz"].map(String::from);
        assert_eq!(image_files(&both), [(&both[0], None)]);
    }
}
