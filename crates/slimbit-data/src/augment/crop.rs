use rand::Rng;

use super::AugmentConfig;
use crate::Image;
use slimbit_engine::resample::Window;

const TRIES: usize = 10;

/// The window of torchvision's random resized crop: an area and an aspect ratio that fit within ten
/// tries, or else the largest central window whose ratio is allowed.
pub(super) fn random_window<R: Rng + ?Sized>(
    image: &Image,
    config: &AugmentConfig,
    rng: &mut R,
) -> Window {
    let (height, width) = (image.height, image.width);
    let [scale_low, scale_high] = config.crop_scale;
    let [ratio_low, ratio_high] = config.crop_ratio;
    let (log_low, log_high) = (ratio_low.ln(), ratio_high.ln());
    for _ in 0..TRIES {
        let area = (height * width) as f64 * rng.random_range(scale_low..=scale_high);
        let ratio = rng.random_range(log_low..=log_high).exp();
        let crop_width = (area * ratio).sqrt().round_ties_even() as usize;
        let crop_height = (area / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            return Window {
                top: rng.random_range(0..=height - crop_height),
                left: rng.random_range(0..=width - crop_width),
                height: crop_height,
                width: crop_width,
            };
        }
    }
    central_window(height, width, config.crop_ratio)
}

fn central_window(height: usize, width: usize, [ratio_low, ratio_high]: [f64; 2]) -> Window {
    let ratio = width as f64 / height as f64;
    let (crop_height, crop_width) = if ratio < ratio_low {
        ((width as f64 / ratio_low).round_ties_even() as usize, width)
    } else if ratio > ratio_high {
        (
            height,
            (height as f64 * ratio_high).round_ties_even() as usize,
        )
    } else {
        (height, width)
    };
    // A ratio below 1/2 of a one-pixel side would round the window away.
    let (crop_height, crop_width) = (crop_height.clamp(1, height), crop_width.clamp(1, width));
    Window {
        top: (height - crop_height) / 2,
        left: (width - crop_width) / 2,
        height: crop_height,
        width: crop_width,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn blank(height: usize, width: usize) -> Image {
        Image::new(1, height, width, vec![0; height * width]).unwrap()
    }

    #[test]
    fn windows_cover_the_ranges_and_nothing_else() {
        let (image, config) = (blank(100, 100), AugmentConfig::cifar());
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let windows: Vec<Window> = (0..4000)
            .map(|_| random_window(&image, &config, &mut rng))
            .collect();
        let share = |w: &Window| (w.height * w.width) as f64 / 1e4;
        let ratio = |w: &Window| w.width as f64 / w.height as f64;
        for window in &windows {
            assert!(window.top + window.height <= 100 && window.left + window.width <= 100);
            assert!((0.19..=1.0).contains(&share(window)), "{window:?}");
            assert!((0.73..=1.37).contains(&ratio(window)), "{window:?}");
        }
        let mean = windows.iter().map(share).sum::<f64>() / windows.len() as f64;
        // Uniform on 0.2..1 has mean 0.6; large windows that do not fit are drawn again, which
        // takes a little off.
        assert!((0.54..0.6).contains(&mean), "{mean}");
        assert!(windows.iter().any(|w| share(w) < 0.22) && windows.iter().any(|w| share(w) > 0.95));
        assert!(windows.iter().any(|w| w.top == 0) && windows.iter().any(|w| w.left > 40));
    }

    #[test]
    fn extreme_shapes_fall_back_to_the_centre() {
        let config = AugmentConfig::cifar();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let full = AugmentConfig {
            crop_scale: [1.0, 1.0],
            ..config
        };
        let wide = random_window(&blank(10, 1000), &full, &mut rng);
        assert_eq!(
            wide,
            Window {
                top: 0,
                left: 493,
                height: 10,
                width: 13
            }
        );
        let tall = random_window(&blank(1000, 10), &full, &mut rng);
        assert_eq!(
            tall,
            Window {
                top: 493,
                left: 0,
                height: 13,
                width: 10
            }
        );
    }

    #[test]
    fn single_pixels_survive() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let window = random_window(&blank(1, 1), &AugmentConfig::cifar(), &mut rng);
        assert_eq!(
            window,
            Window {
                top: 0,
                left: 0,
                height: 1,
                width: 1
            }
        );
    }
}
