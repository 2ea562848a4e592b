//! Pixels as a decoder gives them.

use std::borrow::Cow;
use std::fmt;

/// An 8-bit image in HWC order: `pixels[(y * width + x) * channels + c]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `height * width * channels` values, channels interleaved.
    pub pixels: Vec<u8>,
}

impl Image {
    /// Wraps interleaved pixels.
    ///
    /// # Errors
    /// [`SettingError`] when `channels` is neither 1 nor 3, a side is zero, or the length
    /// does not fit the shape.
    pub fn new(
        channels: usize,
        height: usize,
        width: usize,
        pixels: Vec<u8>,
    ) -> Result<Self, SettingError> {
        let expected = height
            .checked_mul(width)
            .and_then(|area| area.checked_mul(channels));
        if !matches!(channels, 1 | 3) || height == 0 || width == 0 || expected != Some(pixels.len())
        {
            let reason = format!(
                "{height}x{width}x{channels} does not describe {} grey or RGB values",
                pixels.len()
            );
            return Err(SettingError::new("image", reason));
        }
        Ok(Image {
            channels,
            height,
            width,
            pixels,
        })
    }

    /// The image with 1 or 3 channels: RGB to grey by the ITU-R 601-2 luma weights as Pillow rounds
    /// them, grey to RGB by repetition.
    pub fn with_channels(&self, channels: usize) -> Cow<'_, Image> {
        let pixels = match (self.channels, channels) {
            (3, 1) => self.pixels.chunks_exact(3).map(luma).collect(),
            (1, 3) => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => return Cow::Borrowed(self),
        };
        Cow::Owned(Image {
            channels,
            height: self.height,
            width: self.width,
            pixels,
        })
    }

    /// Exchanges left and right.
    pub fn flip_horizontal(&mut self) {
        let channels = self.channels;
        for row in self.pixels.chunks_exact_mut(self.width * channels) {
            match channels {
                1 => row.reverse(),
                _ => row.as_chunks_mut::<3>().0.reverse(),
            }
        }
    }
}

/// `0.299 R + 0.587 G + 0.114 B` in units of 2^-16, rounded half up.
///
/// # Panics
/// Where `rgb` has fewer than three values.
#[inline]
pub fn luma(rgb: &[u8]) -> u8 {
    ((19_595 * u32::from(rgb[0]) + 38_470 * u32::from(rgb[1]) + 7_471 * u32::from(rgb[2]) + 0x8000)
        >> 16) as u8
}

/// A size, a channel count or a normalisation that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The setting's name.
    pub name: &'static str,
    /// The value and what it should be.
    pub reason: String,
}

impl SettingError {
    pub(crate) fn new(name: &'static str, reason: impl Into<String>) -> Self {
        Self {
            name,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

impl std::error::Error for SettingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_must_describe_the_pixels() {
        assert!(Image::new(3, 2, 2, vec![0; 12]).is_ok());
        for (channels, height, width, len) in [
            (2, 1, 1, 2),
            (1, 0, 4, 0),
            (3, 2, 2, 11),
            (1, usize::MAX, 2, 0),
        ] {
            let error = Image::new(channels, height, width, vec![0; len])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("{height}x{width}x{channels}")),
                "{error}"
            );
        }
    }

    #[test]
    fn luma_keeps_grey_and_weighs_primaries() {
        for grey in 0..=255 {
            assert_eq!(luma(&[grey; 3]), grey);
        }
        assert_eq!(
            [luma(&[255, 0, 0]), luma(&[0, 255, 0]), luma(&[0, 0, 255])],
            [76, 150, 29]
        );
    }

    #[test]
    fn flip_reverses_pixels_not_channels() {
        let mut rgb = Image::new(3, 1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        rgb.flip_horizontal();
        assert_eq!(rgb.pixels, [4, 5, 6, 1, 2, 3]);
        let mut grey = Image::new(1, 2, 2, vec![1, 2, 3, 4]).unwrap();
        grey.flip_horizontal();
        assert_eq!(grey.pixels, [2, 1, 4, 3]);
    }
}
