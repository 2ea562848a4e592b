use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DataError;

/// The distribution from which views are drawn (`specs/us3l_ssql.md`, section 1.1). The default is
/// [`Self::cifar`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Range of the crop's area as a share of the image's.
    pub crop_scale: [f64; 2],
    /// Range of the crop's width over height, drawn uniformly in the logarithm.
    pub crop_ratio: [f64; 2],
    /// Probability of the colour jitter.
    pub jitter_p: f64,
    /// Brightness factors are drawn from `max(0, 1 - x)..=1 + x`.
    pub brightness: f64,
    /// Contrast factors, drawn as brightness.
    pub contrast: f64,
    /// Saturation factors, drawn as brightness.
    pub saturation: f64,
    /// Hue shifts are drawn from `-x..=x` turns; at most 0.5.
    pub hue: f64,
    /// Probability of taking the colours away.
    pub grey_p: f64,
    /// Probability of the Gaussian blur.
    pub blur_p: f64,
    /// Range of the blur's standard deviation, in pixels of the view.
    pub blur_sigma: [f64; 2],
    /// Probability of the horizontal flip.
    pub flip_p: f64,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self::cifar()
    }
}

impl AugmentConfig {
    /// CIFAR-10 and CIFAR-100: no blur.
    pub fn cifar() -> Self {
        AugmentConfig {
            blur_p: 0.0,
            ..Self::imagenet()
        }
    }

    /// ImageNet: blur in half of the views.
    pub fn imagenet() -> Self {
        AugmentConfig {
            crop_scale: [0.2, 1.0],
            crop_ratio: [3.0 / 4.0, 4.0 / 3.0],
            jitter_p: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
            grey_p: 0.2,
            blur_p: 0.5,
            blur_sigma: [0.1, 2.0],
            flip_p: 0.5,
        }
    }

    /// Small grey images: [`Self::cifar`] without what only changes colours.
    pub fn fashion_mnist() -> Self {
        AugmentConfig {
            saturation: 0.0,
            hue: 0.0,
            grey_p: 0.0,
            ..Self::cifar()
        }
    }

    /// Checks every range.
    ///
    /// # Errors
    /// [`DataError::Setting`] names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), DataError> {
        let probabilities = [
            ("augment.jitter_p", self.jitter_p),
            ("augment.grey_p", self.grey_p),
            ("augment.blur_p", self.blur_p),
            ("augment.flip_p", self.flip_p),
        ];
        for (name, p) in probabilities {
            if !(0.0..=1.0).contains(&p) {
                return Err(DataError::setting(
                    name,
                    format!("{p} is not a probability in 0..=1"),
                ));
            }
        }
        let strengths = [
            ("augment.brightness", self.brightness, f64::MAX),
            ("augment.contrast", self.contrast, f64::MAX),
            ("augment.saturation", self.saturation, f64::MAX),
            ("augment.hue", self.hue, 0.5),
        ];
        for (name, strength, most) in strengths {
            if !(0.0..=most).contains(&strength) {
                let bound = if most < 1.0 {
                    "in 0..=0.5"
                } else {
                    "finite and at least 0"
                };
                return Err(DataError::setting(
                    name,
                    format!("{strength} is not {bound}"),
                ));
            }
        }
        let ranges = [
            ("augment.crop_scale", self.crop_scale, 1.0),
            ("augment.crop_ratio", self.crop_ratio, f64::MAX),
            ("augment.blur_sigma", self.blur_sigma, 100.0),
        ];
        for (name, [low, high], most) in ranges {
            if !(low > 0.0 && low <= high && high <= most) {
                let bound = if most == f64::MAX {
                    String::new()
                } else {
                    format!(" <= {most}")
                };
                let reason = format!("[{low}, {high}] does not satisfy 0 < low <= high{bound}");
                return Err(DataError::setting(name, reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_survive_toml() {
        for preset in [
            AugmentConfig::cifar(),
            AugmentConfig::imagenet(),
            AugmentConfig::fashion_mnist(),
        ] {
            preset.validate().unwrap();
            let text = toml::to_string(&preset).unwrap();
            assert_eq!(toml::from_str::<AugmentConfig>(&text).unwrap(), preset);
        }
    }

    #[test]
    fn misspelt_settings_are_refused() {
        let error = toml::from_str::<AugmentConfig>("flip_prob = 0.5")
            .unwrap_err()
            .to_string();
        assert!(error.contains("flip_prob"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        let default = AugmentConfig::default;
        for (config, name) in [
            (
                AugmentConfig {
                    flip_p: 1.5,
                    ..default()
                },
                "flip_p",
            ),
            (
                AugmentConfig {
                    hue: 0.6,
                    ..default()
                },
                "hue",
            ),
            (
                AugmentConfig {
                    contrast: f64::NAN,
                    ..default()
                },
                "contrast",
            ),
            (
                AugmentConfig {
                    crop_scale: [0.0, 1.0],
                    ..default()
                },
                "crop_scale",
            ),
            (
                AugmentConfig {
                    crop_ratio: [2.0, 1.0],
                    ..default()
                },
                "crop_ratio",
            ),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
