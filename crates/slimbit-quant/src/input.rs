//! From pixels to the codes of the first stage.

use slimbit_engine::InputCodes;
use slimbit_num::{ActQuant, Table};

use crate::QuantError;

/// The codes of an image whose real value is `(p / 255 − mean) / std`, per channel.
///
/// Where all channels share one mean and deviation, the codes are the pixels themselves, with scale
/// `1 / (255·std)` and the mean rounded to a whole pixel: that rounded mean *is* then the definition
/// of the network's input, in calibration too, so no precision is lost. Otherwise the channels share
/// one 8-bit quantiser over the range of them all, and each has a table into it.
///
/// # Errors
/// [`QuantError::Normalisation`] unless there is one finite mean and one positive finite deviation
/// per channel.
///
/// ```
/// let grey = slimbit_quant::input_codes(&[0.5], &[0.25])?;
/// assert!(grey.tables[0].is_identity());
/// assert_eq!(grey.quant.zero_point, 128);
/// # Ok::<(), slimbit_quant::QuantError>(())
/// ```
pub fn input_codes(mean: &[f32], std: &[f32]) -> Result<InputCodes, QuantError> {
    if mean.is_empty() || mean.len() != std.len() {
        return Err(QuantError::Normalisation(format!(
            "{} means and {} deviations, wanted one of each per channel",
            mean.len(),
            std.len()
        )));
    }
    let usable = |&(m, s): &(&f32, &f32)| m.is_finite() && s.is_finite() && *s > 0.0;
    if let Some((m, s)) = mean.iter().zip(std).find(|pair| !usable(pair)) {
        return Err(QuantError::Normalisation(format!(
            "mean {m} and deviation {s}; means must be finite and deviations positive"
        )));
    }
    let alike = mean.iter().all(|m| *m == mean[0]) && std.iter().all(|s| *s == std[0]);
    let (quant, tables) = if alike && (0.0..=1.0).contains(&mean[0]) {
        let quant = ActQuant {
            scale: (1.0 / (255.0 * f64::from(std[0]))) as f32,
            zero_point: (255.0 * f64::from(mean[0])).round() as u8,
            bits: 8,
        };
        let identity = Table(std::array::from_fn(|p| p as u8));
        (quant, vec![identity; mean.len()])
    } else {
        let value =
            |p: usize, c: usize| (p as f64 / 255.0 - f64::from(mean[c])) / f64::from(std[c]);
        let channels = 0..mean.len();
        let min = channels.clone().map(|c| value(0, c)).fold(0.0, f64::min);
        let max = channels.clone().map(|c| value(255, c)).fold(0.0, f64::max);
        let quant = ActQuant::from_range(min as f32, max as f32, 8);
        let code = |x: f64| {
            let steps = (x / f64::from(quant.scale) + 0.5).floor();
            (steps + f64::from(quant.zero_point)).clamp(0.0, 255.0) as u8
        };
        let table = |c| Table(std::array::from_fn(|p| code(value(p, c))));
        (quant, channels.map(table).collect())
    };
    Ok(InputCodes {
        tables,
        quant,
        mean: mean.to_vec(),
        std: std.to_vec(),
    })
}

/// The real values that the engine sees of a batch of images: pixels in NHWC order to values in
/// NCHW order.
///
/// # Panics
/// Where the pixels are not whole images of `codes.tables.len()` channels and `plane` pixels each.
pub fn input_values(codes: &InputCodes, pixels: &[u8], plane: usize) -> Vec<f32> {
    let channels = codes.tables.len();
    let image = channels * plane;
    assert!(
        image > 0 && pixels.len().is_multiple_of(image),
        "whole images of {image} bytes"
    );
    let values: Vec<[f32; 256]> = codes
        .tables
        .iter()
        .map(|table| std::array::from_fn(|p| codes.quant.dequantise(table.apply(p as u8))))
        .collect();
    let mut out = Vec::with_capacity(pixels.len());
    for image in pixels.chunks_exact(image) {
        for (c, values) in values.iter().enumerate() {
            out.extend(
                image
                    .iter()
                    .skip(c)
                    .step_by(channels)
                    .map(|&p| values[usize::from(p)]),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_codes_stay_within_half_a_step() {
        let (mean, std) = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]);
        let codes = input_codes(&mean, &std).unwrap();
        for c in 0..3 {
            for p in 0..=255u8 {
                let real = (f64::from(p) / 255.0 - f64::from(mean[c])) / f64::from(std[c]);
                let seen = codes.quant.dequantise(codes.tables[c].apply(p));
                let error = (real - f64::from(seen)).abs();
                assert!(
                    error <= 0.75 * f64::from(codes.quant.scale),
                    "{c} {p}: {error}"
                );
            }
        }
    }

    #[test]
    fn values_are_what_the_codes_mean() {
        let codes = input_codes(&[0.5, 0.25], &[0.5, 0.5]).unwrap();
        let values = input_values(&codes, &[0, 10, 255, 20], 2);
        let at = |c: usize, p| codes.quant.dequantise(codes.tables[c].apply(p));
        assert_eq!(values, [at(0, 0), at(0, 255), at(1, 10), at(1, 20)]);
    }

    #[test]
    fn useless_constants_are_refused() {
        let bad: [(&[f32], &[f32]); 5] = [
            (&[], &[]),
            (&[0.5], &[0.5, 0.5]),
            (&[0.5], &[0.0]),
            (&[f32::NAN], &[1.0]),
            (&[0.5], &[f32::INFINITY]),
        ];
        for (mean, std) in bad {
            assert!(input_codes(mean, std).is_err(), "{mean:?} {std:?}");
        }
    }
}
