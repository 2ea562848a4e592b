//! From a decoded image of any size to the bytes that a network takes.
//!
//! Integers only, once the taps of the resize are made: `docs/numerics.md` defines them to the bit.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::resample::{self, Filter, Window};
use crate::{EngineError, Image, Model, SettingError};

/// How an image of any size becomes one of the network's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Both sides at once, without regard to the aspect ratio.
    #[default]
    Stretch,
    /// The shorter side to this many pixels, then the centre of it: `{ shorter = 256 }`.
    Shorter(usize),
}

/// The key of a model's free text under which its [`Preprocess`] lies, as JSON.
pub const PREPROCESS: &str = "preprocess";

/// What a network is fed in evaluation: grey or RGB, a size, and the normalisation `(code / 255 -
/// mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// 1 (grey) or 3 (RGB); images are converted.
    pub channels: usize,
    /// Rows of the network's input.
    pub height: usize,
    /// Columns of the network's input.
    pub width: usize,
    /// The way from the image's size to the network's.
    #[serde(default)]
    pub resize: Resize,
    /// The kernel of the resize.
    #[serde(default)]
    pub filter: Filter,
    /// Mean per channel, of pixels in 0..=1.
    pub mean: Vec<f32>,
    /// Standard deviation per channel, of pixels in 0..=1.
    pub std: Vec<f32>,
}

impl Preprocess {
    /// The transform that a file carries: with it, a device gets from a photo's pixels the features
    /// that the command line gets.
    ///
    /// ```no_run
    /// use slimbit_engine::{Image, Model, Preprocess};
    ///
    /// let model = Model::open("model.slim")?;
    /// let photo = Image::new(3, 480, 640, vec![0; 3 * 480 * 640])?; // RGB, row by row
    /// let pixels = Preprocess::from_model(&model)?.codes(&photo); // what `Session::run` takes
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Setting`] where the file carries none, or one that cannot be used or that makes
    /// images of another size than the network takes.
    pub fn from_model(model: &Model) -> Result<Self, EngineError> {
        let Some(text) = model.metadata().get(PREPROCESS) else {
            let what = "the file carries none; export it again, or make one with the network's \
                        size, mean and deviation";
            return Err(SettingError::new(PREPROCESS, what).into());
        };
        let preprocess: Self = serde_json::from_str(text)
            .map_err(|error| SettingError::new(PREPROCESS, error.to_string()))?;
        preprocess.validate()?;
        let shape = model.graph().input_shape();
        let (height, width) = shape.spatial();
        let own = [preprocess.channels, preprocess.height, preprocess.width];
        if own != [shape.channels(), height, width] {
            let what = format!("makes images of shape {own:?}, but the network takes {shape}");
            return Err(SettingError::new(PREPROCESS, what).into());
        }
        Ok(preprocess)
    }

    /// CIFAR images as they are, with the constants that US3L and SSQL use for CIFAR-10 and
    /// CIFAR-100 alike.
    pub fn cifar() -> Self {
        Preprocess {
            channels: 3,
            height: 32,
            width: 32,
            resize: Resize::Stretch,
            filter: Filter::Bilinear,
            mean: vec![0.4914, 0.4822, 0.4465],
            std: vec![0.2023, 0.1994, 0.2010],
        }
    }

    /// ImageNet evaluation: the shorter side to 256, the central 224 × 224.
    pub fn imagenet() -> Self {
        Preprocess {
            channels: 3,
            height: 224,
            width: 224,
            resize: Resize::Shorter(256),
            filter: Filter::Bilinear,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        }
    }

    /// Fashion-MNIST images as they are, with the mean and deviation of its 60,000 training images.
    pub fn fashion_mnist() -> Self {
        Preprocess {
            channels: 1,
            height: 28,
            width: 28,
            resize: Resize::Stretch,
            filter: Filter::Bilinear,
            mean: vec![0.2860],
            std: vec![0.3530],
        }
    }

    /// Checks that the shape, the resize and the constants can be used.
    ///
    /// # Errors
    /// [`SettingError`] names the first setting that cannot.
    pub fn validate(&self) -> Result<(), SettingError> {
        let Preprocess {
            channels,
            height,
            width,
            ..
        } = *self;
        if !matches!(channels, 1 | 3) {
            return Err(SettingError::new(
                "preprocess.channels",
                format!("{channels} is neither 1 nor 3"),
            ));
        }
        if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
            let reason = format!("{height}x{width} is not between 1x1 and {MAX_SIDE}x{MAX_SIDE}");
            return Err(SettingError::new("preprocess.height, width", reason));
        }
        if let Resize::Shorter(side) = self.resize
            && !(height.max(width)..=MAX_SIDE).contains(&side)
        {
            let reason = format!(
                "shorter = {side} is not in {}..={MAX_SIDE}",
                height.max(width)
            );
            return Err(SettingError::new("preprocess.resize", reason));
        }
        for (name, values) in [
            ("preprocess.mean", &self.mean),
            ("preprocess.std", &self.std),
        ] {
            if values.len() != channels || values.iter().any(|value| !value.is_finite()) {
                let reason =
                    format!("{values:?} are not {channels} finite values, one per channel");
                return Err(SettingError::new(name, reason));
            }
        }
        if self.std.iter().any(|&value| value <= 0.0) {
            return Err(SettingError::new(
                "preprocess.std",
                format!("{:?} are not all positive", self.std),
            ));
        }
        Ok(())
    }

    /// Values of one image: `channels * height * width`.
    pub fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether an image has no values, which [`Self::validate`] excludes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The network's input as 8-bit codes in HWC order: converted, resized and cropped, not yet
    /// normalised.
    ///
    /// Sizes are rounded as torchvision's `Resize` and `CenterCrop` do.
    pub fn codes(&self, image: &Image) -> Vec<u8> {
        let image = image.with_channels(self.channels);
        let Resize::Shorter(side) = self.resize else {
            return resample::resize(
                &image,
                Window::whole(&image),
                self.height,
                self.width,
                self.filter,
            )
            .pixels;
        };
        let (short, long) = (image.height.min(image.width), image.height.max(image.width));
        // In 64 bits on every machine: a side of 2^31 pixels is no reason to wrap.
        let long = (side as u64 * long as u64 / short as u64) as usize;
        let (height, width) = if image.height <= image.width {
            (side, long)
        } else {
            (long, side)
        };
        let centre = Window {
            top: ((height - self.height) as f64 / 2.0).round_ties_even() as usize,
            left: ((width - self.width) as f64 / 2.0).round_ties_even() as usize,
            height: self.height,
            width: self.width,
        };
        resample::resize_then_crop(&image, (height, width), centre, self.filter).pixels
    }

    /// Normalised values in CHW order from codes in HWC order; a whole NHWC batch gives NCHW.
    ///
    /// # Panics
    /// When the number of codes is not a multiple of [`Self::len`].
    pub fn normalise(&self, codes: &[u8]) -> Vec<f32> {
        assert_eq!(
            codes.len() % self.len(),
            0,
            "{} codes are not whole images of {}",
            codes.len(),
            self.len()
        );
        let normaliser = Normaliser::new(self);
        let mut values = vec![0.0; codes.len()];
        for (codes, values) in codes
            .chunks_exact(self.len())
            .zip(values.chunks_exact_mut(self.len()))
        {
            normaliser.write(codes, values);
        }
        values
    }
}

/// Bounds what a mistyped size can allocate.
const MAX_SIDE: usize = 8192;

/// The normalised value of every code of every channel.
pub struct Normaliser {
    tables: Vec<[f32; 256]>,
}

impl Normaliser {
    /// Of a transform.
    pub fn new(preprocess: &Preprocess) -> Self {
        const CODES: Range<usize> = 0..256;
        let tables = preprocess
            .mean
            .iter()
            .zip(&preprocess.std)
            .map(|(mean, std)| {
                let mut table = [0.0; 256];
                for code in CODES {
                    table[code] = (code as f32 / 255.0 - mean) / std;
                }
                table
            });
        Normaliser {
            tables: tables.collect(),
        }
    }

    /// One image from HWC codes to CHW values.
    ///
    /// # Panics
    /// Where the codes are not whole pixels, or more than the values.
    pub fn write(&self, codes: &[u8], values: &mut [f32]) {
        let channels = self.tables.len();
        let planes = values.chunks_exact_mut(codes.len() / channels);
        for (channel, (plane, table)) in planes.zip(&self.tables).enumerate() {
            for (value, pixel) in plane.iter_mut().zip(codes.chunks_exact(channels)) {
                *value = table[usize::from(pixel[channel])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_from_hwc_to_chw() {
        let preprocess = Preprocess {
            height: 1,
            width: 2,
            ..Preprocess::cifar()
        };
        let values = preprocess.normalise(&[0, 51, 102, 153, 204, 255]);
        let exact = |code: f32, c: usize| (code / 255.0 - preprocess.mean[c]) / preprocess.std[c];
        let expected = [
            exact(0., 0),
            exact(153., 0),
            exact(51., 1),
            exact(204., 1),
            exact(102., 2),
            exact(255., 2),
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn shorter_side_then_centre() {
        let pixels = (0..40 * 60).map(|i| (i % 60) as u8).collect();
        let image = Image::new(1, 40, 60, pixels).unwrap();
        let preprocess = Preprocess {
            height: 32,
            width: 30,
            resize: Resize::Shorter(40),
            ..Preprocess::fashion_mnist()
        };
        let codes = preprocess.codes(&image);
        assert_eq!((codes.len(), codes[0], codes[29]), (32 * 30, 15, 44));
    }

    #[test]
    fn extreme_shapes_are_cropped_not_padded() {
        for (height, width) in [(1, 1), (1, 97), (97, 1), (31, 33)] {
            let image = Image::new(1, height, width, vec![200; height * width]).unwrap();
            for preprocess in [
                Preprocess::cifar(),
                Preprocess {
                    resize: Resize::Shorter(36),
                    ..Preprocess::cifar()
                },
            ] {
                assert!(preprocess.codes(&image) == [200; 32 * 32 * 3]);
            }
        }
    }

    #[test]
    fn unusable_settings_are_named() {
        let base = Preprocess::cifar;
        for (preprocess, name) in [
            (
                Preprocess {
                    channels: 4,
                    ..base()
                },
                "channels",
            ),
            (
                Preprocess {
                    height: 0,
                    ..base()
                },
                "height",
            ),
            (
                Preprocess {
                    resize: Resize::Shorter(31),
                    ..base()
                },
                "resize",
            ),
            (
                Preprocess {
                    mean: vec![0.5],
                    ..base()
                },
                "mean",
            ),
            (
                Preprocess {
                    std: vec![0.2, 0.0, 0.2],
                    ..base()
                },
                "std",
            ),
        ] {
            let error = preprocess.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
