//! What quantisation does to a layer's outputs on average, and the affine map that undoes it.

use rayon::prelude::*;

/// What is corrected in every output channel before its activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Correction {
    /// Nothing.
    None,
    /// The mean: the expected shift of the output is taken from the constant of the rescaling (bias
    /// correction: Nagel et al., *Data-Free Quantization through Weight Equalization and Bias
    /// Correction*, 2019, section 4.2, with the expectation measured instead of derived).
    Mean,
    /// Mean and slope: the line of least squares from the quantised output to the float one.
    #[default]
    Line,
}

/// First and second moments of the float outputs `t` and the quantised ones `q` of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Moments {
    count: f64,
    t: f64,
    q: f64,
    tt: f64,
    qq: f64,
    tq: f64,
}

/// `q ↦ slope · q + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Adjustment {
    pub(crate) slope: f64,
    pub(crate) shift: f64,
}

impl Adjustment {
    pub(crate) const NONE: Self = Self {
        slope: 1.0,
        shift: 0.0,
    };
}

/// Adds a batch `[images, channels, positions]` to the moments of its channels.
pub(crate) fn observe(moments: &mut [Moments], float: &[f32], quantised: &[f32], positions: usize) {
    let channels = moments.len();
    moments.par_iter_mut().enumerate().for_each(|(channel, m)| {
        let planes = float
            .chunks_exact(positions)
            .zip(quantised.chunks_exact(positions))
            .skip(channel)
            .step_by(channels);
        for (float, quantised) in planes {
            for (&t, &q) in float.iter().zip(quantised) {
                let (t, q) = (f64::from(t), f64::from(q));
                m.count += 1.0;
                m.t += t;
                m.q += q;
                m.tt += t * t;
                m.qq += q * q;
                m.tq += t * q;
            }
        }
    });
}

impl Moments {
    /// The adjustment that `correction` allows.
    pub(crate) fn adjustment(&self, correction: Correction) -> Adjustment {
        if self.count == 0.0 || correction == Correction::None {
            return Adjustment::NONE;
        }
        let (t, q) = (self.t / self.count, self.q / self.count);
        let variance = self.qq / self.count - q * q;
        let covariance = self.tq / self.count - t * q;
        let slope = match correction {
            // A channel that hardly varies says nothing about its slope; nor is a slope believable
            // that would turn a channel off or blow it up.
            Correction::Line if variance > 1e-12 * (q * q) && variance > 0.0 => {
                (covariance / variance).clamp(0.5, 2.0)
            }
            _ => 1.0,
        };
        Adjustment {
            slope,
            shift: t - slope * q,
        }
    }

    /// Squared error after an adjustment, and the variance of the float outputs, both summed.
    pub(crate) fn error(&self, Adjustment { slope, shift }: Adjustment) -> (f64, f64) {
        let error = self.tt + slope * slope * self.qq + self.count * shift * shift
            - 2.0 * slope * self.tq
            - 2.0 * shift * self.t
            + 2.0 * slope * shift * self.q;
        let variance = self.tt - self.t * self.t / self.count.max(1.0);
        (error.max(0.0), variance.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels whose quantised outputs are off by a known map.
    fn measured() -> Vec<Moments> {
        let mut moments = vec![Moments::default(); 2];
        let quantised: Vec<f32> = (0..60).map(|i| (i as f32 * 0.9).sin() * 3.0).collect();
        let float: Vec<f32> = quantised
            .chunks(5)
            .enumerate()
            .flat_map(|(plane, values)| {
                let (slope, shift) = if plane % 2 == 0 {
                    (1.0, 0.5)
                } else {
                    (1.25, -2.0)
                };
                values.iter().map(move |v| slope * v + shift)
            })
            .collect();
        for (float, quantised) in float.chunks(20).zip(quantised.chunks(20)) {
            observe(&mut moments, float, quantised, 5);
        }
        moments
    }

    #[test]
    fn a_known_map_is_found_again() {
        let moments = measured();
        for (moments, slope, shift) in [(moments[0], 1.0, 0.5), (moments[1], 1.25, -2.0)] {
            let found = moments.adjustment(Correction::Line);
            assert!(
                (found.slope - slope).abs() < 1e-5 && (found.shift - shift).abs() < 1e-5,
                "{found:?}"
            );
            let [none, mean, line] = [Correction::None, Correction::Mean, Correction::Line]
                .map(|c| moments.error(moments.adjustment(c)).0);
            assert!(
                none > mean && mean >= line - 1e-9 && line < 1e-6,
                "{none} {mean} {line}"
            );
        }
    }

    #[test]
    fn the_mean_of_the_output_is_restored() {
        for m in measured() {
            let Adjustment { slope, shift } = m.adjustment(Correction::Mean);
            assert_eq!(slope, 1.0);
            assert!((m.q / m.count + shift - m.t / m.count).abs() < 1e-9);
        }
    }

    #[test]
    fn a_constant_channel_keeps_its_slope() {
        let mut moments = vec![Moments::default()];
        observe(&mut moments, &[1.0, 2.0], &[3.0, 3.0], 2);
        let found = moments[0].adjustment(Correction::Line);
        assert_eq!((found.slope, found.shift), (1.0, -1.5));
        assert_eq!(
            Moments::default().adjustment(Correction::Line),
            Adjustment::NONE
        );
    }
}
