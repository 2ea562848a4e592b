//! Elements in other files, beside the model's own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::constant::Constant;
use crate::ImportError;
use crate::onnx::proto::{GraphProto, TensorProto};

/// How often the tensors of a model may read a file over: sharing is rare, and a small model must
/// not multiply a large file.
const SHARING: u64 = 2;

/// What was read of other files.
#[derive(Debug, Default)]
pub(super) struct Embedded {
    /// Bytes of elements.
    pub(super) bytes: usize,
    /// The files, as paths within the model's folder.
    pub(super) files: Vec<PathBuf>,
}

/// Puts elements that are in other files of `folder` into the tensors themselves.
///
/// # Errors
/// [`ImportError::Invalid`] for a place outside of the folder or a file that cannot be read,
/// [`ImportError::Damaged`] for elements that the file does not hold. Both name the tensor.
pub(super) fn embed(graph: &mut GraphProto, folder: &Path) -> Result<Embedded, ImportError> {
    let mut files = Files {
        folder,
        known: BTreeMap::new(),
    };
    let mut bytes = 0;
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let constants = attributes.filter_map(|attribute| attribute.t.as_deref_mut());
    for tensor in graph.initializer.iter_mut().chain(constants) {
        // What cannot be read in any file is reported with its like, later.
        if tensor.is_external()
            && let Some(length) = Constant::bytes_of(tensor)
        {
            bytes += files.embed(tensor, length)?;
        }
    }
    Ok(Embedded {
        bytes,
        files: files.known.into_keys().collect(),
    })
}

/// The files that tensors have named so far.
struct Files<'a> {
    folder: &'a Path,
    known: BTreeMap<PathBuf, Extent>,
}

/// A file's size, and how much of it may still be read.
struct Extent {
    bytes: u64,
    left: u64,
}

impl Files<'_> {
    /// Reads the `length` bytes of a tensor's elements, and gives their number.
    fn embed(&mut self, tensor: &mut TensorProto, length: usize) -> Result<usize, ImportError> {
        let at = format!("tensor `{}`", tensor.name);
        let entry = |key: &str| {
            let mut entries = tensor.external_data.iter();
            entries.find(|e| e.key == key).map(|e| e.value.as_str())
        };
        let number = |key: &str| match entry(key).map(str::parse::<u64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => {
                let what = format!("`{key}` of its elements is not a number of bytes");
                Err(ImportError::damaged(&at, what))
            }
        };
        let location = entry("location").unwrap_or_default();
        let Some(path) = within(location) else {
            let what = format!(
                "its elements are in `{location}`, which is not a file of the model's folder; keep \
                 them beside the model, or save it as one file"
            );
            return Err(ImportError::invalid(at, what));
        };
        let (offset, stated) = (number("offset")?.unwrap_or(0), number("length")?);
        let wanted = length as u64;
        if let Some(stated) = stated.filter(|&stated| stated != wanted) {
            let dims = &tensor.dims;
            let what = format!("{stated} bytes of elements, where {dims:?} take {wanted}");
            return Err(ImportError::damaged(at, what));
        }
        let unreadable = |error: io::Error| {
            let what = format!(
                "its elements are in `{location}`, which cannot be read: {error}; keep that file \
                 beside the model"
            );
            ImportError::invalid(&at, what)
        };
        let file = self.extent(&path).map_err(unreadable)?;
        if offset
            .checked_add(wanted)
            .is_none_or(|end| end > file.bytes)
        {
            let size = file.bytes;
            let what = format!(
                "its elements are {wanted} bytes from {offset} on, and `{location}` has {size}"
            );
            return Err(ImportError::damaged(at, what));
        }
        let Some(left) = file.left.checked_sub(wanted) else {
            let what = format!("`{location}` is read more than {SHARING} times over");
            return Err(ImportError::damaged(at, what));
        };
        file.left = left;
        let elements = read(&self.folder.join(path), offset, length).map_err(unreadable)?;
        tensor.raw_data = elements.into();
        tensor.external_data.clear();
        tensor.data_location = 0;
        Ok(length)
    }

    /// A file of the folder, which no link leads out of it.
    fn extent(&mut self, path: &Path) -> io::Result<&mut Extent> {
        if !self.known.contains_key(path) {
            let file = self.folder.join(path).canonicalize()?;
            let folder = Path::new(".").join(self.folder).canonicalize()?;
            if !file.starts_with(folder) {
                return Err(io::Error::other("it is a link to another folder"));
            }
            let metadata = fs::metadata(file)?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            let bytes = metadata.len();
            let extent = Extent {
                bytes,
                left: bytes.saturating_mul(SHARING),
            };
            self.known.insert(path.to_owned(), extent);
        }
        Ok(self.known.get_mut(path).expect("inserted above"))
    }
}

fn read(path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A relative path that does not leave its folder.
fn within(location: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}
