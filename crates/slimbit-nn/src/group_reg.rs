use burn::tensor::{Tensor, TensorData};
use slimbit_graph::ParamSpec;

use crate::ParamStore;
use crate::params::to_vec;

/// US3L's group regularisation (spec section 3.7): an L2 penalty that falls linearly from the
/// leading output channels, which every width uses, to the trailing ones. It takes the place of
/// weight decay.
///
/// `R = Σᵢ λᵢ ‖θᵢ‖²` (no ½), `λᵢ = λ (1 - α_e i)`, over `groups` groups of `⌊C / groups⌋` output
/// channels, the last of which takes the remainder. Matrices (linear layers) are penalised by `λ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupReg {
    /// Penalty of the leading group: half of the weight decay it replaces.
    pub lambda: f64,
    /// Final slope per group; 0.05 in the paper.
    pub alpha: f64,
    /// Groups; 8 in the paper.
    pub groups: usize,
    /// Epochs with slope 0.
    pub warm_up: usize,
    /// Epochs of the training: the slope reaches `alpha` at half of them.
    pub epochs: usize,
}

impl GroupReg {
    /// The paper's penalty: 8 groups, `α = 0.05`, no warm-up.
    pub fn new(lambda: f64, epochs: usize) -> Self {
        Self {
            lambda,
            alpha: 0.05,
            groups: 8,
            warm_up: 0,
            epochs,
        }
    }

    /// The slope `α_e` at an epoch.
    pub fn slope(&self, epoch: usize) -> f64 {
        let (epoch, start, half) = (epoch as f64, self.warm_up as f64, self.epochs as f64 / 2.0);
        if epoch < start {
            0.0
        } else if epoch < half {
            self.alpha * (epoch - start) / (half - start)
        } else {
            self.alpha
        }
    }

    /// The penalty of a group at an epoch.
    pub fn coefficient(&self, group: usize, epoch: usize) -> f64 {
        self.lambda * (1.0 - self.slope(epoch) * group as f64)
    }

    /// `R` of all parameters of the stores.
    pub fn loss(&self, stores: &[&ParamStore], epoch: usize) -> f64 {
        let params = stores
            .iter()
            .flat_map(|store| store.specs().iter().zip(store.values()));
        params
            .map(|(spec, value)| {
                let value = to_vec(value);
                let row = value.len() / spec.shape[0];
                let rows = value.chunks_exact(row).zip(self.per_row(spec, epoch));
                rows.map(|(row, coefficient)| {
                    coefficient * row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()
                })
                .sum::<f64>()
            })
            .sum()
    }

    /// `∂R/∂θ` of one parameter.
    pub(crate) fn gradient(&self, spec: &ParamSpec, value: Tensor<1>, epoch: usize) -> Tensor<1> {
        let elements = value.dims()[0];
        let coefficients = self.per_row(spec, epoch).into_iter();
        let coefficients: Vec<f32> = coefficients.map(|c| (2.0 * c) as f32).collect();
        let rows = coefficients.len();
        let coefficients = TensorData::new(coefficients, [rows, 1]);
        let coefficients = Tensor::<2>::from_data(coefficients, &value.device());
        (value.reshape([rows, elements / rows]) * coefficients).reshape([elements])
    }

    /// The coefficient of each output channel.
    fn per_row(&self, spec: &ParamSpec, epoch: usize) -> Vec<f64> {
        let rows = spec.shape[0];
        if spec.shape.len() == 2 {
            return vec![self.lambda; rows];
        }
        let (size, last) = (rows / self.groups.max(1), self.groups.saturating_sub(1));
        let group = |row: usize| row.checked_div(size).map_or(last, |group| group.min(last));
        (0..rows)
            .map(|row| self.coefficient(group(row), epoch))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// U6: the golden values of spec section 3.7.
    #[test]
    fn golden_losses() {
        let ones = |shapes: &[&[usize]]| {
            let specs: Vec<ParamSpec> = (0..shapes.len())
                .map(|i| ParamSpec {
                    name: i.to_string(),
                    shape: shapes[i].to_vec(),
                })
                .collect();
            let data = shapes
                .iter()
                .map(|shape| vec![1.0; shape.iter().product()])
                .collect();
            ParamStore::new(specs, data, &Device::flex()).unwrap()
        };
        let net = ones(&[&[20, 3, 3, 3], &[20], &[20], &[5, 20], &[5]]);
        let head = ones(&[&[5, 5], &[5]]);
        let reg = GroupReg::new(5e-5, 400);
        for (epoch, full, narrower) in [
            (0, 0.03425, 0.03575),
            (50, 0.032705625, 0.03418375),
            (100, 0.03116125, 0.0326175),
            (200, 0.0280725, 0.029485),
            (399, 0.0280725, 0.029485),
        ] {
            assert!((reg.loss(&[&net], epoch) - full).abs() < 1e-12, "{epoch}");
            let both = reg.loss(&[&net, &head], epoch);
            assert!((both - narrower).abs() < 1e-12, "{epoch}");
        }
        let ratios: Vec<f64> = (0..8).map(|i| reg.coefficient(i, 100) / 5e-5).collect();
        for (ratio, wanted) in ratios
            .iter()
            .zip([1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825])
        {
            assert!((ratio - wanted).abs() < 1e-12);
        }
    }

    #[test]
    fn a_late_warm_up_makes_a_step() {
        let reg = GroupReg {
            warm_up: 60,
            ..GroupReg::new(1.0, 100)
        };
        assert_eq!([59, 60].map(|epoch| reg.slope(epoch)), [0.0, 0.05]);
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let spec = ParamSpec {
            name: "w".to_owned(),
            shape: vec![17, 2, 1, 1],
        };
        let data: Vec<f32> = (0..34).map(|i| i as f32 / 10.0 - 1.0).collect();
        let reg = GroupReg::new(0.01, 10);
        let value = Tensor::from_data(data.as_slice(), &Device::flex());
        let gradient = to_vec(&reg.gradient(&spec, value, 7));
        let loss = |data: Vec<f32>| {
            let store = ParamStore::new(vec![spec.clone()], vec![data], &Device::flex()).unwrap();
            reg.loss(&[&store], 7)
        };
        for i in [0, 3, 20, 33] {
            let shifted = |by: f32| {
                let mut shifted = data.clone();
                shifted[i] += by;
                loss(shifted)
            };
            let slope = (shifted(0.125) - shifted(-0.125)) / 0.25;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-6, "{i}");
        }
    }
}
