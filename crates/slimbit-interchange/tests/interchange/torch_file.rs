//! Writes checkpoints as `torch.save` does: the pickle of a dictionary of tensors, in both of its
//! containers.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// One tensor of a checkpoint: a view of a storage.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) name: String,
    /// `FloatStorage`, `LongStorage`, ...
    pub(crate) kind: &'static str,
    /// Name of the storage.
    pub(crate) key: String,
    /// Elements of the storage.
    pub(crate) elements: usize,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// A checkpoint: views, and the storages that they view.
#[derive(Clone, Debug, Default)]
pub(crate) struct TorchFile {
    pub(crate) views: Vec<View>,
    pub(crate) storages: Vec<(String, Vec<u8>)>,
    /// Keys of the dictionaries around the state dict, outermost first.
    pub(crate) nest: Vec<&'static str>,
    /// What else is in each of those dictionaries: a key, and the instructions that make the value.
    pub(crate) beside: Vec<(&'static str, Vec<u8>)>,
    /// What else is in the state dict itself.
    pub(crate) among: Vec<(&'static str, Vec<u8>)>,
}

impl TorchFile {
    /// Adds a storage; gives its name.
    pub(crate) fn storage(&mut self, bytes: Vec<u8>) -> String {
        let key = self.storages.len().to_string();
        self.storages.push((key.clone(), bytes));
        key
    }

    /// Adds a contiguous float tensor with a storage of its own.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let key = self.storage(bytes);
        self.view(
            name,
            "FloatStorage",
            &key,
            values.len(),
            0,
            shape,
            &row_major(shape),
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "as many as torch's own function has"
    )]
    pub(crate) fn view(
        &mut self,
        name: &str,
        kind: &'static str,
        key: &str,
        elements: usize,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) {
        self.views.push(View {
            name: name.to_owned(),
            kind,
            key: key.to_owned(),
            elements,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        });
    }

    /// `torch.save(..)`: a zip archive.
    pub(crate) fn zip(&self) -> Vec<u8> {
        self.zip_with(CompressionMethod::Stored)
    }

    pub(crate) fn zip_with(&self, method: CompressionMethod) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method);
        let mut entry = |name: String, bytes: &[u8]| {
            zip.start_file(name, options).unwrap();
            zip.write_all(bytes).unwrap();
        };
        entry("archive/data.pkl".to_owned(), &self.pickle(false));
        entry("archive/byteorder".to_owned(), b"little");
        for (key, bytes) in &self.storages {
            entry(format!("archive/data/{key}"), bytes);
        }
        entry("archive/version".to_owned(), b"3\n");
        zip.finish().unwrap().into_inner()
    }

    /// `torch.save(.., _use_new_zipfile_serialization=False)`: pickles and storages.
    pub(crate) fn legacy(&self) -> Vec<u8> {
        let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
        bytes.extend(b"\x80\x02M\xe9\x03.");
        bytes.extend(b"\x80\x02}q\x00X\x0d\x00\x00\x00little_endianq\x01\x88s.");
        bytes.extend(self.pickle(true));
        let mut keys = Pickle::new();
        keys.0.push(b']');
        keys.0.push(b'(');
        for (key, _) in &self.storages {
            keys.text(key);
        }
        keys.0.extend(b"e.");
        bytes.extend(keys.0);
        for (key, stored) in &self.storages {
            let view = self.views.iter().find(|view| view.key == *key);
            let elements = view.map_or(0, |view| view.elements as u64);
            bytes.extend(elements.to_le_bytes());
            bytes.extend(stored);
        }
        bytes
    }

    fn pickle(&self, legacy: bool) -> Vec<u8> {
        let mut pickle = Pickle::new();
        for nest in &self.nest {
            pickle.0.extend(b"}(");
            pickle.text("epoch");
            pickle.0.extend(b"K\x07");
            pickle.text("best");
            pickle.0.push(b'G');
            pickle.0.extend(0.5_f64.to_be_bytes());
            for (key, instructions) in &self.beside {
                pickle.text(key);
                pickle.0.extend(instructions);
            }
            pickle.text(nest);
        }
        pickle.state_dict(&self.views, &self.among, legacy);
        for _ in &self.nest {
            pickle.0.push(b'u');
        }
        pickle.0.push(b'.');
        pickle.0
    }
}

/// The instructions that make a state dict, to put one beside another.
pub(crate) fn instructions(views: &[View]) -> Vec<u8> {
    let mut pickle = Pickle(Vec::new());
    pickle.state_dict(views, &[], false);
    pickle.0
}

/// The instructions that make text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut pickle = Pickle(Vec::new());
    pickle.text(text);
    pickle.0
}

/// The strides of a contiguous tensor.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn state_dict(&mut self, views: &[View], among: &[(&'static str, Vec<u8>)], legacy: bool) {
        let pickle = self;
        pickle.global("collections", "OrderedDict");
        pickle.0.extend(b")R(");
        for (key, instructions) in among {
            pickle.text(key);
            pickle.0.extend(instructions);
        }
        for view in views {
            pickle.text(&view.name);
            pickle.global("torch._utils", "_rebuild_tensor_v2");
            pickle.0.extend(b"((");
            pickle.text("storage");
            pickle.global("torch", view.kind);
            pickle.text(&view.key);
            pickle.text("cpu");
            pickle.integer(view.elements);
            if legacy {
                pickle.0.push(b'N');
            }
            pickle.0.extend(b"tQ");
            pickle.integer(view.offset);
            pickle.tuple(&view.shape);
            pickle.tuple(&view.strides);
            pickle.0.push(0x89);
            pickle.global("collections", "OrderedDict");
            pickle.0.extend(b")RtR");
        }
        pickle.0.push(b'u');
        // `_metadata`, which PyTorch sets on state dicts.
        pickle.0.extend(b"}");
        pickle.text("_metadata");
        pickle.0.extend(b"}sb");
    }

    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn integer(&mut self, value: usize) {
        let wide = (value as u64).to_le_bytes();
        if let Ok(small) = i32::try_from(value) {
            self.0.push(b'J');
            self.0.extend(small.to_le_bytes());
        } else {
            self.0.extend([0x8a, 9]);
            self.0.extend(wide);
            self.0.push(0);
        }
    }

    fn tuple(&mut self, values: &[usize]) {
        self.0.push(b'(');
        for &value in values {
            self.integer(value);
        }
        self.0.push(b't');
    }
}
