use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;

use serde::Serialize;

use super::columns::{Columns, InputColumns, Kind, Number, PointColumns, forms};
use super::digest::Digest;
use super::{CHECKSUM_DIGITS, DIGEST, FORMAT, VERSION, checksum, checksum_digits, nibbles};
use crate::layout::layouts;
use crate::{Codes, Model};

/// One entry of a safetensors header.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Metadata(BTreeMap<&'a str, Cow<'a, str>>),
    Tensor {
        dtype: &'static str,
        shape: &'a [usize],
        data_offsets: [usize; 2],
    },
}

struct Tensor<'a> {
    name: String,
    kind: Kind,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

/// The tensors of a file under construction.
#[derive(Default)]
struct Tensors<'a> {
    list: Vec<Tensor<'a>>,
    prefix: String,
}

impl Columns for Tensors<'_> {
    type Error = Infallible;

    fn column<T: Number>(
        &mut self,
        name: &str,
        rows: usize,
        width: usize,
        values: &mut Vec<T>,
    ) -> Result<(), Infallible> {
        debug_assert_eq!(values.len(), rows * width, "{}{name}", self.prefix);
        let mut data = Vec::with_capacity(values.len() * T::KIND.size());
        values.iter().for_each(|value| value.push(&mut data));
        self.list.push(Tensor {
            name: format!("{}{name}", self.prefix),
            kind: T::KIND,
            shape: if width == 1 {
                vec![rows]
            } else {
                vec![rows, width]
            },
            data: Cow::Owned(data),
        });
        Ok(())
    }
}

/// The bytes of a file: an eight-byte length, the JSON header, and the tensors, widest elements
/// first and by name, so that each is aligned to its element.
pub(crate) fn encode(model: &Model) -> Vec<u8> {
    let mut tensors = tensors(model);
    tensors.sort_by(|a, b| {
        b.kind
            .size()
            .cmp(&a.kind.size())
            .then_with(|| a.name.cmp(&b.name))
    });

    let mut metadata = metadata(model);
    metadata.insert(DIGEST, model.digest().into());
    let mut header = BTreeMap::from([("__metadata__", Entry::Metadata(metadata))]);
    let mut end = 0;
    for tensor in &tensors {
        let start = end;
        end += tensor.data.len();
        let entry = Entry::Tensor {
            dtype: tensor.kind.name(),
            shape: &tensor.shape,
            data_offsets: [start, end],
        };
        header.insert(&tensor.name, entry);
    }
    let mut text = serde_json::to_vec(&header).expect("maps of strings and numbers are JSON");
    text.resize(text.len().next_multiple_of(8), b' ');

    let mut bytes = Vec::with_capacity(8 + text.len() + end);
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&text);
    for tensor in &tensors {
        bytes.extend_from_slice(&tensor.data);
    }
    let digits = checksum_digits(&bytes, text.len()).expect("the metadata has a checksum");
    let sum = checksum(&bytes, &digits);
    bytes[digits].copy_from_slice(sum.as_bytes());
    bytes
}

/// The digest of a model's file.
pub(crate) fn digest(model: &Model) -> String {
    let metadata = metadata(model);
    let mut digest = Digest::of_metadata(|key| metadata.get(key).map(|value| &**value));
    let mut tensors = tensors(model);
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for tensor in &tensors {
        digest.tensor(
            &tensor.name,
            tensor.kind.name(),
            &tensor.shape,
            &tensor.data,
        );
    }
    digest.finish()
}

fn metadata(model: &Model) -> BTreeMap<&str, Cow<'_, str>> {
    let json = |list: Vec<String>| {
        let text = serde_json::to_string(&list).expect("a list of strings is JSON");
        Cow::Owned(text)
    };
    let stages = model
        .stages()
        .iter()
        .map(|stage| stage.name.clone())
        .collect();
    let points = model
        .points()
        .iter()
        .map(|point| point.point.to_string())
        .collect();
    let free = model
        .metadata()
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str().into()));
    let own = [
        ("checksum", "0".repeat(CHECKSUM_DIGITS).into()),
        ("format", FORMAT.into()),
        ("format_version", VERSION.into()),
        ("graph", model.graph().to_json().into()),
        ("grid", model.grid().to_string().into()),
        ("points", json(points)),
        ("stages", json(stages)),
    ];
    free.chain(own).collect()
}

fn tensors(model: &Model) -> Vec<Tensor<'_>> {
    let mut tensors = Tensors {
        prefix: "input/".to_owned(),
        ..Tensors::default()
    };
    let Ok(()) = InputColumns::of(model.input()).visit(model.input().tables.len(), &mut tensors);
    for (name, weights) in model.weights() {
        tensors.prefix.clear();
        let stored = match &weights.codes {
            Codes::Nested(codes) => vec![(String::new(), 8, codes)],
            Codes::MinMax(by_bits) => {
                let named = by_bits.iter();
                named
                    .map(|(&bits, codes)| (format!(".w{bits}"), bits, codes))
                    .collect()
            }
        };
        for (suffix, bits, stored) in stored {
            let mut magnitudes = stored.max_abs.clone();
            let (kind, count) = (format!("max_abs{suffix}/{name}"), magnitudes.len());
            let Ok(()) = tensors.column(&kind, count, 1, &mut magnitudes);
            let [out, rows, columns, inputs] = weights.shape;
            let per_channel = rows * columns * inputs;
            let (kind, shape, data) = if nibbles::stored_bits(bits) == 8 {
                let data = Cow::Borrowed(bytemuck::cast_slice(&stored.codes));
                (Kind::I8, weights.shape.to_vec(), data)
            } else {
                let data = nibbles::pack(&stored.codes, per_channel, bits);
                let shape = vec![out, nibbles::stored_bytes(per_channel, bits)];
                (Kind::U8, shape, Cow::Owned(data))
            };
            tensors.list.push(Tensor {
                name: format!("codes{suffix}/{name}"),
                kind,
                shape,
                data,
            });
        }
    }
    for (index, point) in model.points().iter().enumerate() {
        tensors.prefix = format!("points/{index}/");
        let layouts = layouts(model.graph(), model.stages(), point.point.width)
            .expect("checked: the graph has a shape at every point");
        let forms = forms(model.stages(), &layouts);
        let Ok(()) = PointColumns::of(point).visit(&forms, &mut tensors);
    }
    tensors.list
}
