//! Whether two networks see the same images.

/// How the two inputs are related, channel by channel.
#[derive(Clone, Debug, Default)]
pub(super) struct InputFit {
    channels: Vec<Moments>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    model: f64,
    float: f64,
    model_square: f64,
    float_square: f64,
    product: f64,
}

/// The normalisation `(p / 255 − mean) / std` of every channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// Means, as fractions of white.
    pub mean: Vec<f64>,
    /// Standard deviations, as fractions of white.
    pub std: Vec<f64>,
}

impl InputFit {
    /// Adds values `[images, channels, positions]` of both networks.
    pub(super) fn add(&mut self, model: &[f32], float: &[f32], channels: usize, positions: usize) {
        self.channels.resize(channels, Moments::default());
        let planes = model
            .chunks_exact(positions)
            .zip(float.chunks_exact(positions));
        for (index, (model, float)) in planes.enumerate() {
            let m = &mut self.channels[index % channels];
            for (&x, &y) in model.iter().zip(float) {
                let (x, y) = (f64::from(x), f64::from(y));
                m.count += 1.0;
                m.model += x;
                m.float += y;
                m.model_square += x * x;
                m.float_square += y * y;
                m.product += x * y;
            }
        }
    }

    /// The reference's normalisation, given the model's, if an affine map of every channel leaves no
    /// more than `tolerance` (root mean square) of the difference.
    pub(super) fn normalisation(
        &self,
        mean: &[f32],
        std: &[f32],
        tolerance: f64,
    ) -> Option<Normalisation> {
        let mut found = Normalisation {
            mean: Vec::new(),
            std: Vec::new(),
        };
        for (m, (&mean, &std)) in self.channels.iter().zip(mean.iter().zip(std)) {
            let (x, y) = (m.model / m.count, m.float / m.count);
            let covariance = m.product / m.count - x * y;
            let slope = covariance / (m.model_square / m.count - x * x);
            let offset = y - slope * x;
            let left = m.float_square / m.count - y * y - slope * covariance;
            if !(slope.is_finite() && slope > 0.0 && left.max(0.0).sqrt() <= tolerance) {
                return None;
            }
            // p / 255 = std·x + mean, and the reference sees slope·x + offset of the same pixel.
            let own = f64::from(std) / slope;
            found.std.push(own);
            found.mean.push(f64::from(mean) - offset * own);
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(reference: impl Fn(usize) -> f32) -> InputFit {
        let (mut model, mut float) = (Vec::new(), Vec::new());
        for p in 0..200 {
            model.push((p as f32 / 255.0 - 0.5) / 0.25);
            float.push(reference(p));
        }
        let mut fit = InputFit::default();
        fit.add(&model, &float, 2, 50);
        fit
    }

    #[test]
    fn other_constants_are_found() {
        let fit = fit(|p| (p as f32 / 255.0 - 0.3) / 0.2);
        let found = fit.normalisation(&[0.5; 2], &[0.25; 2], 1e-3).unwrap();
        for (mean, std) in found.mean.iter().zip(&found.std) {
            assert!(
                (mean - 0.3).abs() < 1e-4 && (std - 0.2).abs() < 1e-4,
                "{found:?}"
            );
        }
    }

    #[test]
    fn other_pixels_have_no_constants() {
        let fit = fit(|p| ((p * 37 % 256) as f32 / 255.0 - 0.5) / 0.25);
        assert_eq!(fit.normalisation(&[0.5; 2], &[0.25; 2], 0.1), None);
    }
}
