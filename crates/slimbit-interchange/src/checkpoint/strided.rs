use slimbit_graph::Array;

use super::pickle::TensorRef;
use crate::ImportError;

/// Elements that all tensors of a file may have together.
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
}

/// The dense array that a strided view of `storage` means; `storage` holds all elements of the
/// view's storage.
pub(super) fn gather(
    name: &str,
    tensor: &TensorRef,
    storage: &[u8],
    budget: &mut Budget,
) -> Result<Array, ImportError> {
    let fault = |what: String| ImportError::damaged(format!("tensor `{name}`"), what);
    let dtype = tensor.storage.dtype;
    let [first, length] = tensor.storage.part;
    if storage.len() != tensor.storage.elements.saturating_mul(dtype.size()) {
        return Err(fault(format!(
            "storage `{}` has {} bytes, wanted {} {} elements",
            tensor.storage.key,
            storage.len(),
            tensor.storage.elements,
            dtype.name()
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
    budget.0 = budget.0.checked_sub(extent.elements).ok_or_else(|| {
        fault(format!(
            "has {} elements, and with it the tensors have more than the file can hold; \
             save them with `.contiguous()` or `.clone()`",
            extent.elements
        ))
    })?;
    let start = (first + offset) * dtype.size();
    let data = if extent.elements == 0 {
        Vec::new()
    } else if is_dense(shape, strides) {
        dtype.decode(&storage[start..start + extent.elements * dtype.size()])
    } else {
        dtype.decode(&dense(tensor, &storage[start..], extent.elements))
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
fn dense(tensor: &TensorRef, stored: &[u8], elements: usize) -> Vec<u8> {
    let TensorRef { shape, strides, .. } = tensor;
    let size = tensor.storage.dtype.size();
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
    use crate::checkpoint::dtype::Dtype;
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
            storage: StorageRef {
                dtype: Dtype::F32,
                key: "0".to_owned(),
                elements,
                part: [0, elements],
            },
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
