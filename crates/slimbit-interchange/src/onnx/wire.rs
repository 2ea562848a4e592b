//! How much memory a file takes once it is decoded, found before it is.
//!
//! A message of two bytes becomes a structure of some hundred: a file of nothing else would fill the
//! memory many times over.

use std::mem::size_of;

use super::proto::{
    AttributeProto, DimensionProto, FunctionProto, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};

/// What decoding may take for every byte of the file.
pub(super) const PER_BYTE: usize = 32;

/// What it may take beyond that.
pub(super) const BASE: usize = 16 << 20;

/// Whether a file decodes within `PER_BYTE` times its size and `BASE`. Bytes that are no protobuf
/// are for the decoder to reject.
pub(super) fn is_proportionate(file: &[u8]) -> bool {
    let limit = PER_BYTE.saturating_mul(file.len()).saturating_add(BASE);
    let mut left = limit;
    walk(file, Message::Model, &mut left)
}

#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dimension,
    Entry,
    OperatorSet,
    Function,
}

/// What a field holds.
enum Field {
    Message(Message),
    Text,
    /// Bytes that stay in the file's own.
    Shared,
    /// Numbers of this size.
    Numbers(usize),
    /// One number, or a field that is skipped.
    Nothing,
}

impl Message {
    /// Bytes of the structure.
    fn size(self) -> usize {
        match self {
            Self::Model => size_of::<ModelProto>(),
            Self::Graph => size_of::<GraphProto>(),
            Self::Node => size_of::<NodeProto>(),
            Self::Attribute => size_of::<AttributeProto>(),
            Self::Tensor => size_of::<TensorProto>(),
            Self::ValueInfo => size_of::<ValueInfoProto>(),
            Self::Type => size_of::<TypeProto>(),
            Self::TensorType => size_of::<TensorTypeProto>(),
            Self::Shape => size_of::<TensorShapeProto>(),
            Self::Dimension => size_of::<DimensionProto>(),
            Self::Entry => size_of::<StringStringEntryProto>(),
            Self::OperatorSet => size_of::<OperatorSetIdProto>(),
            Self::Function => size_of::<FunctionProto>(),
        }
    }

    fn field(self, number: u64) -> Field {
        match (self, number) {
            (Self::Model, 7) => Field::Message(Self::Graph),
            (Self::Model, 8) => Field::Message(Self::OperatorSet),
            (Self::Model | Self::Graph, 14) | (Self::Tensor, 13) => Field::Message(Self::Entry),
            (Self::Model, 25) => Field::Message(Self::Function),
            (Self::Graph, 1) => Field::Message(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5) => Field::Message(Self::Tensor),
            (Self::Graph, 11 | 12) => Field::Message(Self::ValueInfo),
            (Self::Node, 5) => Field::Message(Self::Attribute),
            (Self::ValueInfo, 2) => Field::Message(Self::Type),
            (Self::Type, 1) => Field::Message(Self::TensorType),
            (Self::TensorType, 2) => Field::Message(Self::Shape),
            (Self::Shape, 1) => Field::Message(Self::Dimension),
            (Self::Model, 2 | 3)
            | (Self::Graph, 2)
            | (Self::Node, 1..=4 | 7)
            | (Self::Attribute, 1 | 21)
            | (Self::Tensor, 8)
            | (Self::ValueInfo, 1)
            | (Self::Dimension, 2)
            | (Self::Entry, 1 | 2)
            | (Self::OperatorSet, 1)
            | (Self::Function, 1 | 10) => Field::Text,
            (Self::Graph, 15) | (Self::Attribute, 4) | (Self::Tensor, 3 | 9) => Field::Shared,
            (Self::Attribute, 8) | (Self::Tensor, 1 | 7 | 10) => Field::Numbers(8),
            (Self::Attribute, 7) | (Self::Tensor, 4 | 5) => Field::Numbers(4),
            _ => Field::Nothing,
        }
    }
}

/// Takes what a message decodes to from `left`; false where there is less. Lists are counted twice,
/// since they grow by doubling.
fn walk(mut bytes: &[u8], message: Message, left: &mut usize) -> bool {
    let take = |left: &mut usize, count: usize| match left.checked_sub(count) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    };
    while !bytes.is_empty() {
        let Some(key) = varint(&mut bytes) else {
            return true;
        };
        let field = message.field(key >> 3);
        let content = match key & 7 {
            0 => varint(&mut bytes).map(|_| &[][..]),
            // The ends of a group, which the decoder skips with all that is between them.
            3 | 4 => Some(&[][..]),
            1 => split(&mut bytes, 8),
            2 => varint(&mut bytes).and_then(|length| split(&mut bytes, length)),
            5 => split(&mut bytes, 4),
            _ => None,
        };
        let Some(content) = content else {
            return true;
        };
        let fits = match field {
            Field::Message(inner) => take(left, 2 * inner.size()) && walk(content, inner, left),
            Field::Text => take(left, 2 * size_of::<String>() + content.len() + 16),
            Field::Shared => take(left, 2 * size_of::<prost::bytes::Bytes>()),
            // Packed numbers take a byte each at least; one of its own takes one.
            Field::Numbers(size) => take(left, 2 * size * content.len().max(1)),
            Field::Nothing => true,
        };
        if !fits {
            return false;
        }
    }
    true
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of messages that are empty but for what `content` says.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length > 127 {
            bytes.push(length as u8 | 128);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(content);
        bytes
    }

    #[test]
    fn millions_of_empty_messages_are_out_of_proportion() {
        let nodes = |count: usize| field(7, &field(1, &[]).repeat(count));
        assert!(is_proportionate(&nodes(1_000)));
        assert!(!is_proportionate(&nodes(1_000_000)));
        let attributes = field(7, &field(1, &field(5, &[]).repeat(1_000_000)));
        assert!(!is_proportionate(&attributes));
        // Behind a group, which hides nothing.
        let behind = [vec![0x7b, 0x7c], nodes(1_000_000)].concat();
        assert!(!is_proportionate(&behind));
        let weights = field(7, &field(5, &field(9, &vec![0; 10_000_000])));
        assert!(is_proportionate(&weights));
    }
}
