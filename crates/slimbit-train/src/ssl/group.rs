use crate::config::GroupConfig;

/// Group regularisation at one moment of a run (spec section 3.7): `R = sum of lambda_i · |group i|²`, with smaller
/// penalties for later output channels, which only wide networks use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GroupPenalty {
    lambda: f64,
    slope: f64,
    groups: usize,
}

impl GroupPenalty {
    /// The penalty in force in an epoch; nothing where it is switched off.
    pub(crate) fn at(config: &GroupConfig, epoch: u64, epochs: u64) -> Option<Self> {
        let half = epochs as f64 / 2.0;
        let (now, start) = (epoch as f64, config.start as f64);
        let slope = if now < start {
            0.0
        } else if now < half {
            config.alpha * (now - start) / (half - start)
        } else {
            config.alpha
        };
        (config.lambda > 0.0).then_some(Self {
            lambda: config.lambda,
            slope,
            groups: config.groups,
        })
    }

    /// `lambda` of each element of a parameter of this shape, row-major. Vectors and kernels are cut along their
    /// first dimension; matrices have one penalty. The gradient of `R` is twice this times the parameter.
    pub(crate) fn lambdas(&self, shape: &[usize]) -> Vec<f32> {
        let elements: usize = shape.iter().product();
        if shape.len() == 2 {
            return vec![self.lambda as f32; elements];
        }
        let channels = shape[0];
        let size = channels / self.groups;
        let per_channel = elements / channels;
        (0..channels)
            .flat_map(|channel| {
                // The last group takes the remainder: all of a tensor with fewer channels than groups.
                let group = channel
                    .checked_div(size)
                    .unwrap_or(self.groups)
                    .min(self.groups - 1);
                let lambda = self.lambda * (1.0 - self.slope * group as f64);
                std::iter::repeat_n(lambda as f32, per_channel)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> GroupConfig {
        GroupConfig {
            lambda: 5e-5,
            alpha: 0.05,
            groups: 8,
            start: 0,
        }
    }

    /// U6.
    #[test]
    fn golden_values() {
        let encoder: [&[usize]; 5] = [&[20, 3, 3, 3], &[20], &[20], &[5, 20], &[5]];
        let head: [&[usize]; 2] = [&[5, 5], &[5]];
        for (epoch, at_full_width, below) in [
            (0, 0.03425, 0.03575),
            (50, 0.032705625, 0.03418375),
            (100, 0.03116125, 0.0326175),
            (200, 0.0280725, 0.029485),
            (399, 0.0280725, 0.029485),
        ] {
            let penalty = GroupPenalty::at(&recipe(), epoch, 400).unwrap();
            let sum = |shapes: &[&[usize]]| -> f64 {
                let lambdas = shapes.iter().flat_map(|shape| penalty.lambdas(shape));
                lambdas.map(f64::from).sum()
            };
            let (encoder, head) = (sum(&encoder), sum(&head));
            assert!(
                (encoder - at_full_width).abs() < 1e-8,
                "epoch {epoch}: {encoder}"
            );
            assert!(
                (encoder + head - below).abs() < 1e-8,
                "epoch {epoch}: {}",
                encoder + head
            );
        }
    }

    #[test]
    fn the_slope_rises_from_the_start_to_the_middle() {
        let config = GroupConfig {
            start: 100,
            ..recipe()
        };
        let relative = |config: &GroupConfig, epoch| {
            let lambdas = GroupPenalty::at(config, epoch, 400).unwrap().lambdas(&[8]);
            lambdas
                .into_iter()
                .map(|l| f64::from(l) / 5e-5)
                .collect::<Vec<_>>()
        };
        let expected = [1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825];
        for (config, epoch) in [(recipe(), 100), (config, 150)] {
            for (a, b) in relative(&config, epoch).into_iter().zip(expected) {
                assert!((a - b).abs() < 1e-6, "{a} instead of {b}");
            }
        }
        assert!(relative(&config, 99).iter().all(|r| (r - 1.0).abs() < 1e-6));
    }

    #[test]
    fn a_lambda_of_zero_switches_it_off() {
        assert_eq!(
            GroupPenalty::at(
                &GroupConfig {
                    lambda: 0.0,
                    ..recipe()
                },
                0,
                10
            ),
            None
        );
    }
}
