use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use slimbit_graph::{Array, ParamSpec, Params};
use slimbit_num::WeightGrid;

use crate::NnError;
use crate::ops;

/// Named parameters at full width, each a flat tensor.
///
/// On an autodiff device every value is a leaf that keeps its gradient; on a plain device the
/// values are constants. Optimisers, teachers and checkpoints treat all parameters alike, whatever
/// their shape; networks read [`block`](Self::block)s.
#[derive(Clone, Debug)]
pub struct ParamStore {
    specs: Vec<ParamSpec>,
    values: Vec<Tensor<1>>,
    index: BTreeMap<String, usize>,
    device: Device,
}

/// How weights are fake-quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightRounding {
    /// Bits of a code; 0 for none.
    pub bits: u8,
    /// Grid of the codes.
    pub grid: WeightGrid,
    /// Whether the scale is a constant. In the reference it is not (spec section 4.2).
    pub detach_scale: bool,
}

impl ParamStore {
    /// Parameters with the given full shapes and row-major values.
    ///
    /// # Errors
    /// [`NnError::Param`] for a name used twice, or values that do not fill the shape.
    pub fn new(
        specs: Vec<ParamSpec>,
        data: Vec<Vec<f32>>,
        device: &Device,
    ) -> Result<Self, NnError> {
        let mut index = BTreeMap::new();
        let mut values = Vec::with_capacity(specs.len());
        if data.len() != specs.len() {
            return Err(NnError::Param {
                name: "*".to_owned(),
                what: format!("{} arrays for {} parameters", data.len(), specs.len()),
            });
        }
        for (i, (spec, data)) in specs.iter().zip(data).enumerate() {
            let fault = |what: String| NnError::Param {
                name: spec.name.clone(),
                what,
            };
            let elements: usize = spec.shape.iter().product();
            if data.len() != elements {
                return Err(fault(format!(
                    "{} values for shape {:?}",
                    data.len(),
                    spec.shape
                )));
            }
            if index.insert(spec.name.clone(), i).is_some() {
                return Err(fault("is named twice".to_owned()));
            }
            values.push(leaf(data, device));
        }
        Ok(Self {
            specs,
            values,
            index,
            device: device.clone(),
        })
    }

    /// Parameters with the given full shapes and the values that `params` has for them.
    ///
    /// # Errors
    /// [`NnError::Graph`] for one that is missing; [`NnError::Param`] for one of another size.
    pub fn from_params(
        specs: Vec<ParamSpec>,
        params: &Params,
        device: &Device,
    ) -> Result<Self, NnError> {
        let data = specs
            .iter()
            .map(|spec| Ok(params.get(&spec.name)?.data.clone()))
            .collect::<Result<_, NnError>>()?;
        Self::new(specs, data, device)
    }

    /// The values, by name.
    pub fn to_params(&self) -> Params {
        let arrays = self.specs.iter().zip(&self.values).map(|(spec, value)| {
            let array = Array {
                shape: spec.shape.clone(),
                data: to_vec(value),
            };
            (spec.name.clone(), array)
        });
        Params(arrays.collect())
    }

    /// Every value as little-endian `f32`, in the order of [`specs`](Self::specs).
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.values.iter().flat_map(to_vec);
        values.flat_map(f32::to_le_bytes).collect()
    }

    /// Replaces every value by what [`to_bytes`](Self::to_bytes) gave, bit for bit.
    ///
    /// # Errors
    /// [`NnError::State`] where the bytes are not as many as these parameters have; nothing is
    /// changed then.
    pub fn load_bytes(&mut self, bytes: &[u8]) -> Result<(), NnError> {
        let wanted = 4 * self.elements();
        if bytes.len() != wanted {
            return Err(NnError::State {
                got: bytes.len(),
                wanted,
            });
        }
        let mut rest = bytes;
        for (spec, value) in self.specs.iter().zip(&mut self.values) {
            let elements: usize = spec.shape.iter().product();
            let (head, tail) = rest.split_at(4 * elements);
            rest = tail;
            *value = leaf(floats(head), &self.device);
        }
        Ok(())
    }

    /// Names and full shapes, in order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The flat values, in the order of [`specs`](Self::specs).
    pub fn values(&self) -> &[Tensor<1>] {
        &self.values
    }

    /// A parameter at full width.
    ///
    /// # Errors
    /// [`NnError::Param`] for an unknown name.
    pub fn array(&self, name: &str) -> Result<Array, NnError> {
        let index = self.position(name)?;
        Ok(Array {
            shape: self.specs[index].shape.clone(),
            data: to_vec(&self.values[index]),
        })
    }

    /// Number of parameters (scalars).
    pub fn elements(&self) -> usize {
        let elements = |spec: &ParamSpec| spec.shape.iter().product::<usize>();
        self.specs.iter().map(elements).sum()
    }

    /// The device on which the values live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Replaces the `index`-th value by `value` `[elements]`, as a new leaf.
    pub(crate) fn replace(&mut self, index: usize, value: Tensor<1>) {
        let value = value.without_autodiff();
        self.values[index] = if self.device.is_autodiff() {
            value.autodiff().require_grad()
        } else {
            value
        };
    }

    /// Sets every element of a parameter that exists.
    pub(crate) fn fill(&mut self, name: &str, value: f32) {
        if let Ok(index) = self.position(name) {
            let values = self.values[index].clone().without_autodiff();
            self.replace(index, values.full_like(value));
        }
    }

    /// `x` with or without autodiff, as these parameters are: what is computed from it and them
    /// records a tape if, and only if, they are trained.
    pub(crate) fn adopt<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.device.is_autodiff() {
            true => x.autodiff(),
            false => x.without_autodiff(),
        }
    }

    /// A copy on `device` that shares nothing with this store.
    pub fn copy_to(&self, device: &Device) -> Self {
        Self {
            specs: self.specs.clone(),
            values: self
                .values
                .iter()
                .map(|v| leaf(to_vec(v), device))
                .collect(),
            index: self.index.clone(),
            device: device.clone(),
        }
    }

    /// These parameters as constants: no tape is recorded for what is computed from them.
    pub fn frozen(&self) -> Self {
        let values = self.values.iter().map(|v| v.clone().without_autodiff());
        Self {
            specs: self.specs.clone(),
            values: values.collect(),
            index: self.index.clone(),
            device: self.device.clone().without_autodiff(),
        }
    }

    /// The leading block of `shape` of a parameter, as a narrower network sees it. Its gradient is
    /// exactly zero outside the block.
    ///
    /// # Errors
    /// [`NnError::Param`] for an unknown name or a shape that the parameter does not contain.
    pub fn block<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, NnError> {
        let (index, full) = self.find(name, shape)?;
        let value = self.values[index].clone().reshape(full);
        Ok(leading(value, shape))
    }

    /// As [`block`](Self::block), fake-quantised per output channel.
    ///
    /// The scale of an output channel comes from its full width, also where the block leaves
    /// inputs out (quantise, then slice): the codes of a narrow network are part of the wide
    /// one's. Through the scale, the gradient therefore reaches a channel's largest weight even
    /// where that lies outside the block.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn quantised_block<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        rounding: WeightRounding,
    ) -> Result<Tensor<D>, NnError> {
        let WeightRounding {
            bits,
            grid,
            detach_scale,
        } = rounding;
        let (index, full) = self.find(name, shape)?;
        let row: usize = full[1..].iter().product();
        let rows = leading(self.values[index].clone(), [shape[0] * row]);
        let rows = rows.reshape([shape[0], row]);
        let quantised = ops::fake_quant_weight(rows, bits, grid, detach_scale);
        let mut rows_of = full;
        rows_of[0] = shape[0];
        Ok(leading(quantised.reshape(rows_of), shape))
    }

    fn position(&self, name: &str) -> Result<usize, NnError> {
        self.index.get(name).copied().ok_or_else(|| NnError::Param {
            name: name.to_owned(),
            what: "is missing".to_owned(),
        })
    }

    fn find<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<(usize, [usize; D]), NnError> {
        let fault = |what: String| NnError::Param {
            name: name.to_owned(),
            what,
        };
        let index = self.position(name)?;
        let full = &self.specs[index].shape;
        match <[usize; D]>::try_from(full.as_slice()) {
            Ok(full) if shape.iter().zip(full).all(|(&n, max)| n <= max) => Ok((index, full)),
            _ => Err(fault(format!("shape {full:?} contains no block {shape:?}"))),
        }
    }
}

fn leading<const D: usize>(value: Tensor<D>, shape: [usize; D]) -> Tensor<D> {
    if value.dims() == shape {
        value
    } else {
        value.slice(shape.map(|n| 0..n))
    }
}

fn leaf(data: Vec<f32>, device: &Device) -> Tensor<1> {
    let len = data.len();
    let value = Tensor::from_data(TensorData::new(data, [len]), device);
    if device.is_autodiff() {
        value.require_grad()
    } else {
        value
    }
}

/// The values of a tensor in row-major order.
pub(crate) fn to_vec<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor
        .clone()
        .without_autodiff()
        .into_data()
        .try_to_vec()
        .expect("tensors of this crate hold f32")
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(device: &Device) -> ParamStore {
        let spec = |name: &str, shape: &[usize]| ParamSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        };
        let specs = vec![spec("w", &[3, 4]), spec("b", &[3])];
        let w = (0..12).map(|v| v as f32).collect();
        ParamStore::new(
            specs,
            vec![w, vec![f32::MIN_POSITIVE, -0.0, f32::NAN]],
            device,
        )
        .unwrap()
    }

    #[test]
    fn a_block_is_the_leading_part_and_has_no_gradient_elsewhere() {
        let store = store(&Device::flex().autodiff());
        let block = store.block::<2>("w", [2, 3]).unwrap();
        assert_eq!(to_vec(&block), [0.0, 1.0, 2.0, 4.0, 5.0, 6.0]);
        let grads = block.sum().backward();
        let gradient = to_vec(&store.values()[0].grad(&grads).unwrap());
        let inside = [1.0, 1.0, 1.0, 0.0];
        assert_eq!(gradient[..8], [inside, inside].concat());
        assert_eq!(gradient[8..], [0.0; 4]);
    }

    #[test]
    fn bytes_restore_every_bit() {
        let device = Device::flex();
        let saved = store(&device).to_bytes();
        let mut other = store(&device);
        other.replace(0, Tensor::zeros([12], &device));
        assert_ne!(other.to_bytes(), saved);
        other.load_bytes(&saved).unwrap();
        assert_eq!(other.to_bytes(), saved);
        assert!(other.load_bytes(&saved[1..]).is_err());
    }

    #[test]
    fn a_copy_shares_nothing_and_a_frozen_store_records_nothing() {
        let device = Device::flex().autodiff();
        let mut store = store(&device);
        let copy = store.copy_to(&device);
        let before = copy.to_bytes();
        store.replace(0, Tensor::zeros([12], &device));
        assert_eq!(copy.to_bytes(), before);
        assert!(store.values()[0].is_require_grad());
        assert!(!store.frozen().block::<1>("b", [2]).unwrap().is_autodiff());
    }

    #[test]
    fn a_block_that_is_not_there_is_refused() {
        let store = store(&Device::flex());
        assert!(store.block::<1>("c", [1]).is_err());
        assert!(store.block::<2>("w", [4, 4]).is_err());
        assert!(store.block::<1>("w", [4]).is_err());
    }
}
