use slimbit_graph::Array;

use super::dtype::Dtype;
use super::pickle::{StorageKind, TensorRef};
use crate::ImportError;

/// Elements that all tensors of a file may have together: as many as the file has bytes, so that they take four
/// times its size as `f32`.
///
/// Views may share a storage and may repeat its elements, so that a small file can describe any
/// number of them. A file in which every element is stored has at least two bytes for each; half
/// of that allows tied weights.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Budget {
    /// The budget of a file of this many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Notes a tensor of so many elements.
    ///
    /// # Errors
    /// [`ImportError::Invalid`] for more than are left.
    pub(super) fn take(&mut self, name: &str, elements: usize) -> Result<(), ImportError> {
        self.0 = self.0.checked_sub(elements).ok_or_else(|| {
            let what = format!(
                "has {elements} elements, and with it the tensors have more than the file can hold; \
                 save them with `.contiguous()` or `.clone()`"
            );
            ImportError::invalid(format!("tensor `{name}`"), what)
        })?;
        Ok(())
    }
}

/// The type of a tensor's elements.
///
/// # Errors
/// [`ImportError::Refused`] where they are no plain numbers.
pub(super) fn plain(name: &str, tensor: &TensorRef) -> Result<Dtype, ImportError> {
    tensor.dtype().ok_or_else(|| {
        let StorageKind::Other(kind) = tensor.storage.kind else {
            unreachable!("a storage of plain numbers has a type")
        };
        ImportError::Refused {
            global: format!("torch.{kind}"),
            why: format!(
                "is the storage of tensor `{name}`, of elements that are not plain floats or integers"
            ),
        }
    })
}

/// The dense array that a strided view of `storage` means; `storage` holds all elements of the
/// view's storage.
pub(super) fn gather(
    name: &str,
    tensor: &TensorRef,
    storage: &[u8],
    budget: &mut Budget,
) -> Result<Array, ImportError> {
    let at = || format!("tensor `{name}`");
    let fault = |what: String| ImportError::damaged(at(), what);
    let dtype = plain(name, tensor)?;
    let [first, length] = tensor.storage.part;
    let stored = match tensor.storage.kind {
        StorageKind::Plain(stored) => stored,
        StorageKind::Other(_) => dtype,
    };
    if storage.len() != tensor.storage.elements.saturating_mul(stored.size()) {
        return Err(fault(format!(
            "storage `{}` has {} bytes, wanted {} {} elements",
            tensor.storage.key,
            storage.len(),
            tensor.storage.elements,
            stored.name()
        )));
    }
    if first
        .checked_add(length)
        .is_none_or(|end| end > tensor.storage.elements)
    {
        return Err(fault(format!(
            "elements {first} and {length} more of a storage of {}",
            tensor.storage.elements
        )));
    }
    // Bytes of which the elements are made: an untyped storage counts bytes.
    let storage = &storage[first * stored.size()..(first + length) * stored.size()];
    let length = storage.len() / dtype.size();
    let TensorRef {
        shape,
        strides,
        offset,
        ..
    } = tensor;
    let extent = extent(shape, strides, *offset).ok_or_else(|| {
        fault(format!(
            "shape {shape:?} with strides {strides:?} is not a tensor"
        ))
    })?;
    if extent.end > length {
        return Err(fault(format!(
            "shape {shape:?} with strides {strides:?} from element {offset} reaches element {} of {length}",
            extent.end
        )));
    }
    budget.take(name, extent.elements)?;
    let start = offset * dtype.size();
    let data = if extent.elements == 0 {
        Vec::new()
    } else if is_dense(shape, strides) {
        dtype.decode(&storage[start..start + extent.elements * dtype.size()])
    } else {
        let size = dtype.size();
        dtype.decode(&dense(
            shape,
            strides,
            size,
            &storage[start..],
            extent.elements,
        ))
    };
    Ok(Array {
        shape: shape.clone(),
        data,
    })
}

struct Extent {
    elements: usize,
    /// One past the last element of the storage that the tensor reads.
    end: usize,
}

/// Nothing where the ranks differ or the numbers exceed memory.
fn extent(shape: &[usize], strides: &[usize], offset: usize) -> Option<Extent> {
    if shape.len() != strides.len() {
        return None;
    }
    if shape.contains(&0) {
        return Some(Extent {
            elements: 0,
            end: offset,
        });
    }
    let mut elements = 1_usize;
    let mut last = offset;
    for (&size, &stride) in shape.iter().zip(strides) {
        elements = elements.checked_mul(size)?;
        last = last.checked_add((size - 1).checked_mul(stride)?)?;
    }
    Some(Extent {
        elements,
        end: last.checked_add(1)?,
    })
}

/// Whether the elements lie one after another in row-major order.
fn is_dense(shape: &[usize], strides: &[usize]) -> bool {
    let mut wanted = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let dense = size == 1 || stride == wanted;
        wanted *= size;
        dense
    })
}

/// The bytes of the elements in row-major order; `stored` begins with the first of them.
pub(super) fn dense(
    shape: &[usize],
    strides: &[usize],
    size: usize,
    stored: &[u8],
    elements: usize,
) -> Vec<u8> {
    let mut data = Vec::with_capacity(elements * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..elements {
        data.extend_from_slice(&stored[at * size..][..size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    use crate::checkpoint::pickle::StorageRef;

    fn read(
        elements: usize,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Vec<f32>, String> {
        let storage: Vec<u8> = (0..elements)
            .flat_map(|v| (v as f32).to_le_bytes())
            .collect();
        let tensor = TensorRef {
            storage: Rc::new(StorageRef {
                kind: StorageKind::Plain(Dtype::F32),
                key: "0",
                elements,
                part: [0, elements],
            }),
            dtype: None,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        };
        let mut budget = Budget::of(storage.len());
        gather("w", &tensor, &storage, &mut budget)
            .map(|array| array.data)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn views_read_what_they_mean() {
        assert_eq!(
            read(6, 0, &[2, 3], &[3, 1]).unwrap(),
            [0., 1., 2., 3., 4., 5.]
        );
        assert_eq!(
            read(6, 0, &[3, 2], &[1, 3]).unwrap(),
            [0., 3., 1., 4., 2., 5.]
        );
        assert_eq!(read(6, 1, &[2, 2], &[3, 1]).unwrap(), [1., 2., 4., 5.]);
        assert_eq!(read(2, 1, &[3], &[0]).unwrap(), [1., 1., 1.]);
        assert_eq!(read(1, 0, &[], &[]).unwrap(), [0.]);
        assert_eq!(read(4, 0, &[2, 0, 2], &[0, 2, 1]).unwrap(), [0.; 0]);
        // The stride of a dimension of one element says nothing.
        assert_eq!(
            read(4, 0, &[1, 2, 2], &[999, 2, 1]).unwrap(),
            [0., 1., 2., 3.]
        );
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        let max = usize::MAX;
        let bad: [(usize, &[usize], &[usize]); 7] = [
            (0, &[2, 4], &[3, 1]),
            (1, &[6], &[1]),
            (max, &[1], &[1]),
            (0, &[2], &[max]),
            (0, &[max, max], &[0, 0]),
            (0, &[2], &[1, 1]),
            (7, &[0], &[1]),
        ];
        for (offset, shape, strides) in bad {
            let text = read(6, offset, shape, strides).unwrap_err();
            assert!(text.contains("tensor `w`"), "{text}");
        }
    }

    #[test]
    fn expansion_beyond_the_file_is_refused() {
        let text = read(2, 0, &[1 << 20], &[0]).unwrap_err();
        assert!(text.contains("1048576 elements"), "{text}");
    }
}
