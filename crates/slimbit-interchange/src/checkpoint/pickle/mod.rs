//! A pickle machine that builds plain data and calls nothing.
//!
//! A Python pickle is a program: it may name any function and have it called. This machine knows the
//! five callables that a dictionary of tensors needs, builds what they would, and refuses every other
//! name. It reads the opcodes of protocols 2 to 5 that Python writes for such dictionaries.

mod calls;
mod globals;
mod heap;
mod machine;
mod opcode;

pub(super) use globals::Global;
pub(super) use heap::{Heap, Object, StorageRef, TensorRef, Value};
pub(super) use machine::{Loaded, load};
