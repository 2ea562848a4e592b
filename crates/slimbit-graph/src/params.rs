use std::collections::{BTreeMap, BTreeSet};

use crate::{Graph, GraphError, Width};

/// Name and shape of one trainable parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// `{node}.weight` or `{node}.bias`.
    pub name: String,
    /// `[out, in / groups, rows, columns]`, `[out, in]` or `[channels]`.
    pub shape: Vec<usize>,
}

/// A dense float tensor, last dimension contiguous.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Array {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements; as many as the product of the dimensions.
    pub data: Vec<f32>,
}

impl Array {
    /// The leading block of this array with the given shape, as a narrower network sees it.
    ///
    /// # Panics
    /// Where `shape` has another rank or exceeds a dimension.
    pub fn leading(&self, shape: &[usize]) -> Array {
        assert_eq!(shape.len(), self.shape.len(), "rank");
        let mut data = Vec::with_capacity(shape.iter().product());
        let mut starts = vec![(0, 0)];
        while let Some((offset, axis)) = starts.pop() {
            if axis == shape.len() {
                data.push(self.data[offset]);
                continue;
            }
            let inner: usize = self.shape[axis + 1..].iter().product();
            if axis + 1 == shape.len() {
                data.extend_from_slice(&self.data[offset..offset + shape[axis]]);
            } else {
                starts.extend(
                    (0..shape[axis])
                        .rev()
                        .map(|i| (offset + i * inner, axis + 1)),
                );
            }
        }
        Array {
            shape: shape.to_vec(),
            data,
        }
    }
}

/// The float parameters of a graph at full width, by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Params(pub BTreeMap<String, Array>);

impl Params {
    /// The parameter with this name.
    ///
    /// # Errors
    /// [`GraphError::Param`] where it is missing.
    pub fn get(&self, name: &str) -> Result<&Array, GraphError> {
        self.0.get(name).ok_or_else(|| GraphError::Param {
            name: name.to_owned(),
            what: "is missing".to_owned(),
        })
    }

    /// Checks that exactly the parameters of `graph` are here, each of its full shape and finite.
    ///
    /// # Errors
    /// [`GraphError::Param`] for the first one that is missing, unexpected, misshapen or not finite.
    pub fn check(&self, graph: &Graph) -> Result<(), GraphError> {
        let param = |name: &str, what: String| {
            Err(GraphError::Param {
                name: name.to_owned(),
                what,
            })
        };
        let specs = graph.params(Width::FULL)?;
        for spec in &specs {
            let array = self.get(&spec.name)?;
            if array.shape != spec.shape || array.data.len() != spec.shape.iter().product::<usize>()
            {
                return param(
                    &spec.name,
                    format!("has shape {:?}, wanted {:?}", array.shape, spec.shape),
                );
            }
            if let Some(index) = array.data.iter().position(|v| !v.is_finite()) {
                return param(
                    &spec.name,
                    format!("holds {} at element {index}", array.data[index]),
                );
            }
        }
        let known: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        match self.0.keys().find(|name| !known.contains(name.as_str())) {
            Some(name) => param(name, "belongs to no node of the graph".to_owned()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_block_of_a_matrix_and_of_a_kernel() {
        let m = Array {
            shape: vec![3, 4],
            data: (0..12).map(|v| v as f32).collect(),
        };
        assert_eq!(m.leading(&[2, 3]).data, [0.0, 1.0, 2.0, 4.0, 5.0, 6.0]);
        let k = Array {
            shape: vec![2, 2, 1, 3],
            data: (0..12).map(|v| v as f32).collect(),
        };
        assert_eq!(
            k.leading(&[2, 1, 1, 3]).data,
            [0.0, 1.0, 2.0, 6.0, 7.0, 8.0]
        );
        assert_eq!(k.leading(&[2, 2, 1, 3]), k);
    }
}
