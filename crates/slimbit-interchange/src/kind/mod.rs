//! What a file or folder is, told by its content and never by its name.
//!
//! People hand a command the wrong file: a checkpoint that was never downloaded, a run directory, a
//! photo. [`FileKind::of`] says what it is from a few kilobytes of it, so that an error can name it
//! and what to do with it.

mod folder;
mod foreign;
mod header;
mod onnx;
mod zip;

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

pub use foreign::Foreign;

/// Bytes from the beginning of a file that tell most kinds apart. The header of a safetensors file and the
/// directory of an archive are looked at besides.
const HEAD: u64 = 4096;

/// What a file or folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A `.slim` file.
    Slim,
    /// A float network file, as `slimbit import` writes it.
    Network,
    /// A training checkpoint, one of those in a run directory.
    TrainingCheckpoint,
    /// The folder of a training run.
    Run,
    /// The folder of a fine-tuning.
    FineTuning,
    /// A safetensors file of somebody else.
    SafeTensors,
    /// `torch.save` since PyTorch 1.6: a zip archive of a pickle and one entry per storage.
    TorchZip,
    /// `torch.save` before that: pickles, then the storages.
    TorchLegacy,
    /// An ONNX file.
    Onnx,
    /// A picture.
    Image,
    /// A folder of pictures, with or without a subfolder per class.
    ImageFolder,
    /// Any other folder.
    Folder,
    /// Something that other programs write and no command here reads.
    Foreign(Foreign),
    /// Nothing that is known.
    Unknown,
}

impl FileKind {
    /// Looks at a file or folder.
    ///
    /// # Errors
    /// What the operating system says where it cannot be read.
    pub fn of(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return folder::kind(path);
        }
        Self::read(BufReader::new(File::open(path)?))
    }

    /// The same for the bytes of a file.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::read(Cursor::new(bytes)).unwrap_or(Self::Unknown)
    }

    /// Whether [`Tensors`](crate::checkpoint::Tensors) reads it.
    pub fn is_checkpoint(&self) -> bool {
        matches!(self, Self::SafeTensors | Self::TorchZip | Self::TorchLegacy)
    }

    fn read(mut file: impl Read + Seek) -> io::Result<Self> {
        let mut head = Vec::new();
        file.by_ref().take(HEAD).read_to_end(&mut head)?;
        if head.is_empty() {
            return Ok(Self::Foreign(Foreign::Empty));
        }
        if head.starts_with(b"PK") {
            file.seek(SeekFrom::Start(0))?;
            return Ok(zip::kind(file, &head));
        }
        if is_legacy(&head) {
            return Ok(Self::TorchLegacy);
        }
        if head.get(8) == Some(&b'{') {
            file.seek(SeekFrom::Start(0))?;
            return header::kind(file);
        }
        if let Some(foreign) = Foreign::of_head(&head) {
            return Ok(Self::Foreign(foreign));
        }
        if let Some(known) = infer::get(&head) {
            return Ok(match known.matcher_type() {
                infer::MatcherType::Image => Self::Image,
                _ => Self::Foreign(Foreign::named(known.extension(), known.mime_type())),
            });
        }
        if is_portable_map(&head) {
            return Ok(Self::Image);
        }
        let length = file.seek(SeekFrom::End(0))?;
        if onnx::is_model(&mut file, length)? {
            return Ok(Self::Onnx);
        }
        let text = Foreign::of_text(&head, length > HEAD).map(Self::Foreign);
        Ok(text.unwrap_or(Self::Unknown))
    }
}

/// Whether a file begins with the pickled magic number of old PyTorch, of any pickle protocol that it can
/// have: `\x80`, the protocol, a frame from protocol 4 on, and the number of ten bytes.
pub(crate) fn is_legacy(head: &[u8]) -> bool {
    const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    const FRAME: usize = 9;
    let Some((&[0x80, 2..=5], rest)) = head.split_first_chunk() else {
        return false;
    };
    let framed = rest.first() == Some(&0x95);
    let number = if framed {
        rest.get(FRAME..)
    } else {
        Some(rest)
    };
    number.is_some_and(|number| number.starts_with(MAGIC))
}

/// PNM: `P1` to `P6`, white space, and the width in decimal digits or a comment.
fn is_portable_map(head: &[u8]) -> bool {
    matches!(head, [b'P', b'1'..=b'6', space, next, ..]
        if space.is_ascii_whitespace() && (next.is_ascii_digit() || *next == b'#'))
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slim => "a .slim file",
            Self::Network => "a float network file",
            Self::TrainingCheckpoint => "a training checkpoint of a run",
            Self::Run => "a run directory",
            Self::FineTuning => "the folder of a fine-tuning",
            Self::SafeTensors => "a safetensors checkpoint",
            Self::TorchZip | Self::TorchLegacy => "a PyTorch checkpoint",
            Self::Onnx => "an ONNX file",
            Self::Image => "an image",
            Self::ImageFolder => "a folder of images",
            Self::Folder => "a folder",
            Self::Foreign(foreign) => return write!(f, "{foreign}"),
            Self::Unknown => "a file of an unknown kind",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_content() {
        let header = |metadata: &str| {
            let text = format!("{{\"__metadata__\":{metadata},\"w\":{{\"shape\":[]}}}}");
            let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
            bytes.extend(text.bytes());
            bytes
        };
        let foreign = FileKind::Foreign;
        let cases: Vec<(Vec<u8>, FileKind)> = vec![
            (vec![], foreign(Foreign::Empty)),
            (header(r#"{"format":"slimbit"}"#), FileKind::Slim),
            (header(r#"{"format":"slimbit-network"}"#), FileKind::Network),
            (header(r#"{"format":"pt"}"#), FileKind::SafeTensors),
            (header(r#"{"slimbit":"{}"}"#), FileKind::TrainingCheckpoint),
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80".to_vec(), FileKind::TorchLegacy),
            (
                b"\x80\x04\x95\x0d\0\0\0\0\0\0\0\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(),
                FileKind::TorchLegacy,
            ),
            (b"\x80\x04K\x01.".to_vec(), foreign(Foreign::Pickle)),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 46830571\n".to_vec(),
                foreign(Foreign::LfsPointer),
            ),
            (b"\n <!DOCTYPE html><html>".to_vec(), foreign(Foreign::Html)),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\0".to_vec(), foreign(Foreign::Compressed("gzip"))),
            (b"\x89HDF\r\n\x1a\n\0\0".to_vec(), foreign(Foreign::Hdf5)),
            (b"\x1c\0\0\0TFL3\0\0\0\0".to_vec(), foreign(Foreign::TfLite)),
            (b"\x93NUMPY\x01\0v\0{'descr'".to_vec(), foreign(Foreign::Npy)),
            (
                br#"{"metadata":{},"weight_map":{"conv1.weight":"model-00001-of-00002.safetensors"}}"#.to_vec(),
                foreign(Foreign::ShardIndex),
            ),
            (br#"{"lr": 0.1}"#.to_vec(), foreign(Foreign::Json)),
            (b"lr = 0.1\n".to_vec(), foreign(Foreign::Text)),
            (b"PK\x03\x04\0\0\0\0".to_vec(), foreign(Foreign::BrokenZip)),
            (b"P6\n3 2\n255\n\0\0".to_vec(), FileKind::Image),
            (b"\xff\xd8\xff\xe0\0\x10JFIF".to_vec(), FileKind::Image),
            (vec![7, 1, 200, 255, 0, 3], FileKind::Unknown),
        ];
        for (bytes, kind) in cases {
            assert_eq!(FileKind::of_bytes(&bytes), kind, "{bytes:?}");
        }
    }

    #[test]
    fn a_header_that_is_damaged_still_says_whose_it_was() {
        let text = br#"{"__metadata__":{"checksum":"0","format":"slimbit","gra"#;
        let mut bytes = 4000_u64.to_le_bytes().to_vec();
        bytes.extend(text);
        assert_eq!(FileKind::of_bytes(&bytes), FileKind::Slim);
    }

    #[test]
    fn archives_are_told_by_their_entries() {
        use std::io::Write;
        let archive = |names: &[&str]| {
            let mut zip = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
            for name in names {
                let options = ::zip::write::SimpleFileOptions::default()
                    .compression_method(::zip::CompressionMethod::Stored);
                zip.start_file(*name, options).unwrap();
                zip.write_all(b"1").unwrap();
            }
            FileKind::of_bytes(&zip.finish().unwrap().into_inner())
        };
        let foreign = FileKind::Foreign;
        assert_eq!(archive(&["net/data.pkl", "net/data/0"]), FileKind::TorchZip);
        assert_eq!(
            archive(&["net/data.pkl", "net/constants.pkl", "net/code/a.py"]),
            foreign(Foreign::TorchScript)
        );
        for entry in ["m/archive_format", "serialized_exported_program.json"] {
            assert_eq!(
                archive(&["m/data/weights/w", entry]),
                foreign(Foreign::TorchExport)
            );
        }
        assert_eq!(archive(&["a.npy", "b.npy"]), foreign(Foreign::Npz));
        assert_eq!(
            archive(&["config.json", "model.weights.h5"]),
            foreign(Foreign::Keras)
        );
        assert_eq!(
            archive(&["readme.txt", "x/resnet18.pth"]),
            foreign(Foreign::Zip(Some("x/resnet18.pth".to_owned())))
        );
        assert_eq!(archive(&["readme.txt"]), foreign(Foreign::Zip(None)));
    }
}
