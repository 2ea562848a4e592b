//! What is measured of a stage, value by value.

use slimbit_engine::OutputQuant;

use super::WeightDistance;

/// How far a stage of the model is from its twin in the float network.
#[derive(Clone, Debug, PartialEq)]
pub struct StageComparison {
    /// The model's name of the stage.
    pub stage: String,
    /// The reference's name of it.
    pub reference: String,
    /// Values compared.
    pub values: usize,
    /// Signal-to-quantisation-noise ratio in dB: the energy of the float network's values over that
    /// of their differences from the model's. Infinite where nothing differs.
    pub sqnr: f64,
    /// Cosine of the angle between the two.
    pub cosine: f64,
    /// The largest difference.
    pub largest: f64,
    /// The stage's own ratio, in dB: the model's output against the float stage on the model's own
    /// operands, so that errors of earlier stages do not count.
    pub own_sqnr: f64,
    /// Root mean square of the own error.
    pub own_error: f64,
    /// Root mean square of its part that the model's weights and constants cause.
    pub weight_error: f64,
    /// Root mean square of its part that the rounding and clipping of the output cause.
    pub output_error: f64,
    /// Root mean square of its part that values beyond the ends of the code range cause.
    pub clipping_error: f64,
    /// Share of values beyond the ends of the code range.
    pub clipped: f64,
    /// The least and the greatest value of the float stage on the model's operands.
    pub float_range: [f64; 2],
    /// The real values of the first and the last code; nothing for 32-bit outputs.
    pub code_range: Option<[f64; 2]>,
    /// The real value of one step of the output.
    pub step: f64,
    /// Codes from the least to the greatest in use, and codes that there are; nothing for 32-bit
    /// outputs.
    pub codes: Option<(usize, usize)>,
    /// How far the weights are from the reference's, where the stage has some.
    pub weights: Option<WeightDistance>,
    /// Mean squared distance from the float network's values with the model's weights: with the
    /// model's constants (what batch-norm, bias and correction became), and with the reference's.
    pub constants: Option<[f64; 2]>,
}

/// One batch of a stage's values, channels before positions.
pub(super) struct Values<'a> {
    /// The float network's.
    pub(super) float: &'a [f32],
    /// The model's.
    pub(super) model: &'a [f32],
    /// The float stage's on the model's operands.
    pub(super) own: &'a [f32],
    /// On the model's operands with the model's weights: with the model's constants, and with the
    /// reference's.
    pub(super) weighted: Option<[&'a [f32]; 2]>,
}

/// Sums over all batches.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    output: OutputQuant,
    ends: Option<[f64; 2]>,
    count: usize,
    signal: f64,
    noise: f64,
    product: f64,
    energy: f64,
    largest: f64,
    own_signal: f64,
    own_noise: f64,
    weight_noise: f64,
    output_noise: f64,
    clipping_noise: f64,
    clipped: usize,
    range: [f64; 2],
    codes: [f64; 2],
    constants: Option<[f64; 2]>,
}

impl Sums {
    pub(super) fn new(output: OutputQuant) -> Self {
        let ends = match output {
            OutputQuant::Codes(quant) => {
                let real = |code: i32| {
                    f64::from(code - i32::from(quant.zero_point)) * f64::from(quant.scale)
                };
                let clip = quant.clip();
                Some([real(clip.lo), real(clip.hi)])
            }
            OutputQuant::Wide { .. } => None,
        };
        Self {
            output,
            ends,
            count: 0,
            signal: 0.0,
            noise: 0.0,
            product: 0.0,
            energy: 0.0,
            largest: 0.0,
            own_signal: 0.0,
            own_noise: 0.0,
            weight_noise: 0.0,
            output_noise: 0.0,
            clipping_noise: 0.0,
            clipped: 0,
            range: [f64::INFINITY, f64::NEG_INFINITY],
            codes: [f64::INFINITY, f64::NEG_INFINITY],
            constants: None,
        }
    }

    pub(super) fn add(&mut self, values: &Values) {
        self.count += values.model.len();
        let half = f64::from(self.output.scale()) / 2.0;
        let [lo, hi] = self.ends.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        for ((&x, &y), &own) in values.float.iter().zip(values.model).zip(values.own) {
            let (x, y, own) = (f64::from(x), f64::from(y), f64::from(own));
            self.signal += x * x;
            self.energy += y * y;
            self.product += x * y;
            self.noise += (y - x).powi(2);
            self.largest = self.largest.max((y - x).abs());
            self.own_signal += own * own;
            self.own_noise += (y - own).powi(2);
            let beyond = own - own.clamp(lo, hi);
            self.clipping_noise += beyond * beyond;
            self.clipped += usize::from(beyond.abs() > half);
            widen(&mut self.range, own);
            widen(&mut self.codes, y);
        }
        // Without weights, all that a stage does wrong is done to its output.
        let [exact, uncorrected] = values.weighted.unwrap_or([values.own; 2]);
        for ((&y, &own), &exact) in values.model.iter().zip(values.own).zip(exact) {
            let [y, own, exact] = [y, own, exact].map(f64::from);
            self.output_noise += (y - exact).powi(2);
            self.weight_noise += (exact - own).powi(2);
        }
        if values.weighted.is_some() {
            let [model, reference] = self.constants.get_or_insert([0.0; 2]);
            for ((&x, &exact), &uncorrected) in values.float.iter().zip(exact).zip(uncorrected) {
                *model += f64::from(exact - x).powi(2);
                *reference += f64::from(uncorrected - x).powi(2);
            }
        }
    }

    /// Of the differences from the float network.
    pub(super) fn root_mean_square(&self) -> f64 {
        (self.noise / self.count.max(1) as f64).sqrt()
    }

    pub(super) fn finish(
        &self,
        stage: &str,
        reference: &str,
        weights: Option<WeightDistance>,
    ) -> StageComparison {
        let count = self.count.max(1) as f64;
        let rms = |sum: f64| (sum / count).sqrt();
        let step = f64::from(self.output.scale());
        let codes = match self.output {
            OutputQuant::Codes(quant) => {
                let span = ((self.codes[1] - self.codes[0]) / step).round().max(0.0);
                Some((span as usize + 1, 1 << quant.bits))
            }
            OutputQuant::Wide { .. } => None,
        };
        let norm = (self.signal * self.energy).sqrt();
        StageComparison {
            stage: stage.to_owned(),
            reference: reference.to_owned(),
            values: self.count,
            sqnr: decibels(self.signal, self.noise),
            cosine: if norm > 0.0 { self.product / norm } else { 1.0 },
            largest: self.largest,
            own_sqnr: decibels(self.own_signal, self.own_noise),
            own_error: rms(self.own_noise),
            weight_error: rms(self.weight_noise),
            output_error: rms(self.output_noise),
            clipping_error: rms(self.clipping_noise),
            clipped: self.clipped as f64 / count,
            float_range: self.range,
            code_range: self.ends,
            step,
            codes,
            weights,
            constants: self.constants.map(|sums| sums.map(|sum| sum / count)),
        }
    }
}

fn widen(range: &mut [f64; 2], x: f64) {
    *range = [range[0].min(x), range[1].max(x)];
}

/// `10·log₁₀(signal / noise)`; infinite without noise.
fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 {
        return f64::INFINITY;
    }
    10.0 * (signal / noise).log10()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_num::ActQuant;

    fn codes(scale: f32, zero_point: u8, bits: u8) -> OutputQuant {
        OutputQuant::Codes(ActQuant {
            scale,
            zero_point,
            bits,
        })
    }

    #[test]
    fn the_ratio_is_that_of_energies() {
        assert_eq!(decibels(100.0, 1.0), 20.0);
        assert_eq!(decibels(5.0, 0.0), f64::INFINITY);
        assert_eq!(decibels(0.0, 1.0), f64::NEG_INFINITY);
    }

    #[test]
    fn own_error_is_told_from_what_was_inherited() {
        let mut sums = Sums::new(codes(0.5, 0, 8));
        let values = Values {
            float: &[10.0, 20.0],
            model: &[8.0, 16.0],
            own: &[8.25, 16.0],
            weighted: None,
        };
        sums.add(&values);
        let found = sums.finish("a", "b", None);
        assert!(
            (found.sqnr - 10.0 * 25f64.log10()).abs() < 1e-9,
            "{found:?}"
        );
        assert!(found.own_sqnr > 35.0, "{found:?}");
        assert_eq!((found.largest, found.cosine), (4.0, 1.0));
        assert_eq!(found.codes, Some((17, 256)));
    }

    #[test]
    fn values_beyond_the_codes_are_clipped() {
        // Codes from −1.5 to 6.
        let mut sums = Sums::new(codes(0.5, 3, 4));
        let own = [-2.5, -1.6, 0.0, 6.2, 9.0];
        let model = [-1.5, -1.5, 0.0, 6.0, 6.0];
        sums.add(&Values {
            float: &own,
            model: &model,
            own: &own,
            weighted: None,
        });
        let found = sums.finish("a", "a", None);
        assert_eq!(found.code_range, Some([-1.5, 6.0]));
        assert_eq!(found.clipped, 0.4);
        assert!((found.clipping_error - found.own_error).abs() < 1e-6);
        assert_eq!(
            (found.float_range, found.codes),
            ([-2.5, 9.0], Some((16, 16)))
        );
    }

    #[test]
    fn weights_and_rounding_share_the_error() {
        let mut sums = Sums::new(codes(1.0, 0, 8));
        let values = Values {
            float: &[2.0, 2.0],
            model: &[3.0, 3.0],
            own: &[2.0, 2.0],
            weighted: Some([&[3.25, 3.25], &[2.5, 2.5]]),
        };
        sums.add(&values);
        let found = sums.finish("a", "a", None);
        assert_eq!((found.weight_error, found.output_error), (1.25, 0.25));
        assert_eq!(found.constants, Some([1.5625, 0.25]));
    }
}
