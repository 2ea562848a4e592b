//! A pickle machine that builds plain data and calls nothing.
//!
//! A Python pickle is a program: it may name any function and have it called. This machine knows the
//! callables that a dictionary of tensors needs and builds what they would. What any other would give is an
//! opaque value, which matters only to a tensor that needs it. It reads the opcodes of protocols 2 to 5
//! that Python writes.

mod allowance;
mod calls;
mod globals;
mod heap;
mod machine;
mod opcode;

pub(super) use allowance::Allowance;
pub(super) use globals::Global;
pub(super) use heap::{
    ArrayData, ArrayRef, Heap, Object, Opaque, StorageKind, StorageRef, TensorRef, Value,
};
pub(super) use machine::{Loaded, load};
