//! Pillow's `ImageEnhance` and HSV arithmetic, byte for byte: the enhanced value is a blend of the
//! image with a degenerate one (black, its mean grey, its grey version), truncated.

use std::sync::LazyLock;

use crate::Image;
use slimbit_engine::luma;

#[inline]
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (degenerate, value) = (f32::from(degenerate), f32::from(value));
    (degenerate + factor * (value - degenerate)) as u8
}

fn blend_with_constant(image: &mut Image, degenerate: u8, factor: f32) {
    let table: [u8; 256] = std::array::from_fn(|value| blend(degenerate, value as u8, factor));
    for value in &mut image.pixels {
        *value = table[usize::from(*value)];
    }
}

pub(super) fn adjust_brightness(image: &mut Image, factor: f32) {
    blend_with_constant(image, 0, factor);
}

pub(super) fn adjust_contrast(image: &mut Image, factor: f32) {
    let count = (image.height * image.width) as u64;
    let sum: u64 = match image.channels {
        1 => image.pixels.iter().map(|&value| u64::from(value)).sum(),
        _ => image
            .pixels
            .chunks_exact(3)
            .map(|rgb| u64::from(luma(rgb)))
            .sum(),
    };
    let mean = (2 * sum + count) / (2 * count);
    blend_with_constant(image, mean as u8, factor);
}

pub(super) fn adjust_saturation(image: &mut Image, factor: f32) {
    if image.channels == 3 {
        for rgb in image.pixels.as_chunks_mut::<3>().0 {
            let grey = luma(rgb);
            *rgb = rgb.map(|value| blend(grey, value, factor));
        }
    }
}

pub(super) fn desaturate(image: &mut Image) {
    if image.channels == 3 {
        for rgb in image.pixels.as_chunks_mut::<3>().0 {
            *rgb = [luma(rgb); 3];
        }
    }
}

/// Rotates the hue by `turns` in -0.5..=0.5, in steps of 1/256 as 8-bit HSV does.
pub(super) fn shift_hue(image: &mut Image, turns: f64) {
    let steps = (turns * 255.0) as i32 as u8;
    if image.channels == 3 {
        for rgb in image.pixels.as_chunks_mut::<3>().0 {
            let [hue, saturation, value] = rgb_to_hsv(*rgb);
            *rgb = hsv_to_rgb([hue.wrapping_add(steps), saturation, value]);
        }
    }
}

// The mixture of single and double precision below is what makes the truncated bytes Pillow's.

fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    if high == low {
        return [0, 0, high];
    }
    let chroma = f32::from(high - low);
    let saturation = chroma / f32::from(high);
    let distance = |value: u8| f32::from(high - value) / chroma;
    let sextant = if r == high {
        distance(b) - distance(g)
    } else if g == high {
        (2.0 + f64::from(distance(r)) - f64::from(distance(b))) as f32
    } else {
        (4.0 + f64::from(distance(g)) - f64::from(distance(r))) as f32
    };
    let turns = f64::from(sextant) / 6.0 + 1.0;
    let hue = (turns - turns.floor()) as f32;
    [
        (f64::from(hue) * 255.0) as u8,
        (f64::from(saturation) * 255.0) as u8,
        high,
    ]
}

/// For each 8-bit hue, its sextant of the colour circle and the position within it.
static SEXTANTS: LazyLock<[(u8, f32); 256]> = LazyLock::new(|| {
    std::array::from_fn(|hue| {
        let position = hue as f64 * 6.0 / 255.0;
        (
            (position.floor() as u8) % 6,
            (position - position.floor()) as f32,
        )
    })
});

fn hsv_to_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let (sextant, position) = SEXTANTS[usize::from(hue)];
    let saturation = f32::from(saturation) / 255.0;
    let toward_grey = |share: f64| (f64::from(value) * (1.0 - share) + 0.5) as u8;
    let saturation = f64::from(saturation);
    let low = toward_grey(saturation);
    let falling = toward_grey(saturation * f64::from(position));
    let rising = toward_grey(saturation * (1.0 - f64::from(position)));
    match sextant {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::from_pillow;

    fn assert_equals_pillow(name: &str, change: impl FnOnce(&mut Image)) {
        let mut image = from_pillow("input");
        change(&mut image);
        assert!(image == from_pillow(name), "{name}");
    }

    #[test]
    fn enhancements_equal_pillow() {
        for (name, factor) in [("0.0", 0.0), ("0.63", 0.63), ("1.4", 1.4)] {
            assert_equals_pillow(&format!("brightness-{name}"), |image| {
                adjust_brightness(image, factor);
            });
            assert_equals_pillow(&format!("contrast-{name}"), |image| {
                adjust_contrast(image, factor);
            });
            assert_equals_pillow(&format!("saturation-{name}"), |image| {
                adjust_saturation(image, factor);
            });
        }
    }

    #[test]
    fn hue_equals_pillow() {
        for (name, turns) in [("-0.5", -0.5), ("-0.07", -0.07), ("0.0", 0.0), ("0.1", 0.1)] {
            assert_equals_pillow(&format!("hue-{name}"), |image| shift_hue(image, turns));
        }
    }

    #[test]
    fn blends_truncate_and_saturate() {
        assert_eq!(blend(0, 255, 0.5), 127);
        assert_eq!(blend(100, 255, 1.4), 255);
        assert_eq!(blend(100, 0, 1.4), 0);
        assert!((0..=255).all(|v| blend(77, v, 1.0) == v && blend(77, v, 0.0) == 77));
    }

    #[test]
    fn primaries_have_their_hues() {
        assert_eq!(rgb_to_hsv([255, 0, 0]), [0, 255, 255]);
        assert_eq!(rgb_to_hsv([0, 255, 0]), [85, 255, 255]);
        assert_eq!(rgb_to_hsv([0, 0, 255]), [170, 255, 255]);
        for rgb in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]] {
            assert_eq!(hsv_to_rgb(rgb_to_hsv(rgb)), rgb);
        }
    }

    #[test]
    fn a_third_of_a_turn_permutes_primaries() {
        let mut image = Image::new(3, 1, 2, vec![255, 0, 0, 0, 255, 0]).unwrap();
        shift_hue(&mut image, 1.0 / 3.0);
        assert_eq!(image.pixels, [0, 255, 0, 0, 0, 255]);
    }

    #[test]
    fn contrast_zero_is_the_mean_grey() {
        let mut image = Image::new(1, 1, 4, vec![0, 1, 2, 3]).unwrap();
        adjust_contrast(&mut image, 0.0);
        assert_eq!(image.pixels, [2; 4]);
    }
}
