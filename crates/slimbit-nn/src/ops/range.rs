//! The observed range of a tensor.

use burn::Tensor;
use burn::backend::Flex;

#[cfg(feature = "gpu")]
use super::composite;
use super::elementwise;
use super::host::{contiguous, values};

/// Smallest and largest value of `x`, outside of any graph. NaN is passed over; a tensor without
/// any number gives `(inf, -inf)`.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use slimbit_nn::ops::min_max;
///
/// let x = Tensor::<2>::from_floats([[0.5, -1.0], [3.0, 2.0]], &Device::flex());
/// assert_eq!(min_max(x), (-1.0, 3.0));
/// ```
pub fn min_max<const D: usize>(x: Tensor<D>) -> (f32, f32) {
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::min_max(x);
    }
    match x.without_autodiff().try_into_primitive::<Flex>() {
        Ok(x) => elementwise::min_max(values(&contiguous(x))),
        Err(e) => panic!("{e:?}"),
    }
}
