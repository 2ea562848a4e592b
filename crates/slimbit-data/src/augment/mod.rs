//! The self-supervised augmentation of US3L and SSQL, in torchvision's semantics on 8-bit pixels.

mod colour;
mod config;
mod crop;

use rand::Rng;
use rand::seq::SliceRandom;

pub use config::AugmentConfig;

use crate::Image;
use slimbit_engine::{Filter, resample};

/// Makes one random view of an image, `size` = (height, width): random resized crop, colour jitter
/// in random order, greyscale, Gaussian blur, horizontal flip.
///
/// The number of channels stays. On grey images saturation, hue and greyscale have no effect, as in
/// torchvision; they draw from `rng` all the same, so that the geometry of a view does not depend
/// on its colours.
///
/// ```
/// use rand::SeedableRng;
/// use slimbit_data::{AugmentConfig, Image, augment};
///
/// let photo = Image::new(3, 48, 64, vec![90; 48 * 64 * 3])?;
/// let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
/// let view = augment(&photo, (32, 32), &AugmentConfig::cifar(), &mut rng);
/// assert_eq!((view.channels, view.height, view.width), (3, 32, 32));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Panics
/// When `config` does not pass [`AugmentConfig::validate`] or a side of `size` is zero.
pub fn augment<R: Rng + ?Sized>(
    image: &Image,
    size: (usize, usize),
    config: &AugmentConfig,
    rng: &mut R,
) -> Image {
    let window = crop::random_window(image, config, rng);
    let mut view = resample::resize(image, window, size.0, size.1, Filter::Bilinear);
    if rng.random_bool(config.jitter_p) {
        jitter(&mut view, config, rng);
    }
    if rng.random_bool(config.grey_p) {
        colour::desaturate(&mut view);
    }
    if rng.random_bool(config.blur_p) {
        let [low, high] = config.blur_sigma;
        view = resample::gaussian_blur(&view, rng.random_range(low..=high));
    }
    if rng.random_bool(config.flip_p) {
        view.flip_horizontal();
    }
    view
}

fn jitter<R: Rng + ?Sized>(view: &mut Image, config: &AugmentConfig, rng: &mut R) {
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let mut factor =
        |strength: f64| rng.random_range((1.0 - strength).max(0.0)..=1.0 + strength) as f32;
    let (brightness, contrast, saturation) = (
        factor(config.brightness),
        factor(config.contrast),
        factor(config.saturation),
    );
    let shift = rng.random_range(-config.hue..=config.hue);
    for operation in order {
        match operation {
            0 => colour::adjust_brightness(view, brightness),
            1 => colour::adjust_contrast(view, contrast),
            2 => colour::adjust_saturation(view, saturation),
            _ => colour::shift_hue(view, shift),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn still() -> AugmentConfig {
        AugmentConfig {
            crop_scale: [1.0, 1.0],
            crop_ratio: [1.0, 1.0],
            jitter_p: 0.0,
            grey_p: 0.0,
            blur_p: 0.0,
            flip_p: 0.0,
            ..AugmentConfig::cifar()
        }
    }

    fn gradient(channels: usize, height: usize, width: usize) -> Image {
        let pixels = (0..height * width * channels)
            .map(|i| (i * 89 % 256) as u8)
            .collect();
        Image::new(channels, height, width, pixels).unwrap()
    }

    /// How often `changed` views of 2,000 differ from the image.
    fn rate(image: &Image, config: &AugmentConfig) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let size = (image.height, image.width);
        (0..2000)
            .filter(|_| augment(image, size, config, &mut rng) != *image)
            .count() as f64
            / 2000.0
    }

    #[test]
    fn everything_off_is_the_identity() {
        assert_eq!(rate(&gradient(3, 9, 9), &still()), 0.0);
    }

    #[test]
    fn each_operation_occurs_at_its_rate() {
        let image = gradient(3, 8, 8);
        let flip = AugmentConfig {
            flip_p: 0.5,
            ..still()
        };
        let jitter = AugmentConfig {
            jitter_p: 0.8,
            ..still()
        };
        let grey = AugmentConfig {
            grey_p: 0.2,
            ..still()
        };
        let blur = AugmentConfig {
            blur_p: 0.5,
            blur_sigma: [1.0, 2.0],
            ..still()
        };
        for (config, p) in [(flip, 0.5), (jitter, 0.8), (grey, 0.2), (blur, 0.5)] {
            let rate = rate(&image, &config);
            assert!((rate - p).abs() < 0.04, "{rate} instead of {p}");
        }
    }

    #[test]
    fn grey_images_ignore_colour_operations() {
        let config = AugmentConfig {
            jitter_p: 1.0,
            brightness: 0.0,
            contrast: 0.0,
            grey_p: 1.0,
            ..still()
        };
        assert_eq!(rate(&gradient(1, 8, 8), &config), 0.0);
        assert_eq!(rate(&gradient(3, 8, 8), &config), 1.0);
    }
}
