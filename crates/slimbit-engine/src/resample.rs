//! Separable resampling in fixed point, in Pillow's arithmetic: weights in units of 2^-22, a
//! rounding to `u8` between the horizontal and the vertical pass, and support that grows with the
//! reduction (antialiasing). Own code, because no crate gives Pillow's bytes on every CPU, and
//! calibrated ranges and golden tests depend on the bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::Image;

const PRECISION: u32 = 22;
const HALF: i32 = 1 << (PRECISION - 1);

/// The interpolation kernel of a resize, widened by the reduction factor when the image shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle, support 1.
    #[default]
    Bilinear,
    /// Keys' cubic with a = -1/2, support 2.
    Bicubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    }
}

/// A rectangle of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows above it.
    pub top: usize,
    /// Columns to the left of it.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Window {
    /// All of an image.
    pub fn whole(image: &Image) -> Self {
        Window {
            top: 0,
            left: 0,
            height: image.height,
            width: image.width,
        }
    }
}

/// For every output position along one axis, the run of inputs that it reads, all runs of one
/// length.
struct Taps {
    starts: Vec<usize>,
    length: usize,
    weights: Vec<i32>,
}

impl Taps {
    /// The positions `kept` of `output` positions.
    fn resize(input: usize, output: usize, kept: Range<usize>, filter: Filter) -> Self {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let length = (support.ceil() as usize * 2 + 1).min(input);
        let mut taps = Taps {
            starts: Vec::with_capacity(kept.len()),
            length,
            weights: vec![0; kept.len() * length],
        };
        let mut exact = Vec::with_capacity(length);
        for (position, weights) in kept.zip(taps.weights.chunks_exact_mut(length)) {
            let centre = (position as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            exact.clear();
            exact.extend(
                (first..end).map(|x| filter.weight((x as f64 - centre + 0.5) * (1.0 / stretch))),
            );
            let start = first.min(input - length);
            quantise(&exact, &mut weights[first - start..]);
            taps.starts.push(start);
        }
        taps
    }

    /// Positions beyond the border repeat the border pixel.
    fn gaussian(size: usize, sigma: f64) -> Self {
        let radius = (3.0 * sigma).ceil() as isize;
        let bell: Vec<f64> = (-radius..=radius)
            .map(|x| (-0.5 * (x as f64 / sigma).powi(2)).exp())
            .collect();
        let length = bell.len().min(size);
        let mut taps = Taps {
            starts: Vec::with_capacity(size),
            length,
            weights: vec![0; size * length],
        };
        let mut exact = vec![0.0; length];
        for (position, weights) in taps.weights.chunks_exact_mut(length).enumerate() {
            let start = position.saturating_sub(radius as usize).min(size - length);
            exact.fill(0.0);
            for (offset, weight) in (-radius..=radius).zip(&bell) {
                let input = (position as isize + offset).clamp(0, size as isize - 1) as usize;
                exact[input - start] += weight;
            }
            quantise(&exact, weights);
            taps.starts.push(start);
        }
        taps
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.starts
            .iter()
            .copied()
            .zip(self.weights.chunks_exact(self.length))
    }
}

/// Writes weights that sum to one as integers, rounded half away from zero.
fn quantise(exact: &[f64], out: &mut [i32]) {
    let sum: f64 = exact.iter().sum();
    for (out, weight) in out.iter_mut().zip(exact) {
        *out = (weight / sum * f64::from(1 << PRECISION)).round() as i32;
    }
}

#[inline]
fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Resizes a window of an image to `height` × `width`; pixels outside the window are not read.
pub fn resize(image: &Image, window: Window, height: usize, width: usize, filter: Filter) -> Image {
    let horizontal =
        (window.width != width).then(|| Taps::resize(window.width, width, 0..width, filter));
    let vertical =
        (window.height != height).then(|| Taps::resize(window.height, height, 0..height, filter));
    separable(image, window, horizontal.as_ref(), vertical.as_ref())
}

/// The window `kept` of the image resized to `height` × `width`; the rest of it is not made.
pub fn resize_then_crop(
    image: &Image,
    (height, width): (usize, usize),
    kept: Window,
    filter: Filter,
) -> Image {
    let columns = kept.left..kept.left + kept.width;
    let rows = kept.top..kept.top + kept.height;
    let horizontal = Taps::resize(image.width, width, columns, filter);
    let vertical = Taps::resize(image.height, height, rows, filter);
    separable(
        image,
        Window::whole(image),
        Some(&horizontal),
        Some(&vertical),
    )
}

/// Gaussian blur with standard deviation `sigma` in pixels, truncated at 3 sigma.
pub fn gaussian_blur(image: &Image, sigma: f64) -> Image {
    let horizontal = Taps::gaussian(image.width, sigma);
    let vertical = Taps::gaussian(image.height, sigma);
    separable(
        image,
        Window::whole(image),
        Some(&horizontal),
        Some(&vertical),
    )
}

fn separable(
    image: &Image,
    window: Window,
    horizontal: Option<&Taps>,
    vertical: Option<&Taps>,
) -> Image {
    let channels = image.channels;
    let stride = image.width * channels;
    let width = horizontal.map_or(window.width, |taps| taps.starts.len());
    let mut rows = Vec::with_capacity(window.height * width * channels);
    for row in image
        .pixels
        .chunks_exact(stride)
        .skip(window.top)
        .take(window.height)
    {
        let row = &row[window.left * channels..][..window.width * channels];
        match (horizontal, channels) {
            (None, _) => rows.extend_from_slice(row),
            (Some(taps), 1) => horizontal_pass::<1>(row, taps, &mut rows),
            (Some(taps), _) => horizontal_pass::<3>(row, taps, &mut rows),
        }
    }
    let (height, pixels) = match vertical {
        None => (window.height, rows),
        Some(taps) => (
            taps.starts.len(),
            vertical_pass(&rows, width * channels, taps),
        ),
    };
    Image {
        channels,
        height,
        width,
        pixels,
    }
}

fn horizontal_pass<const C: usize>(row: &[u8], taps: &Taps, out: &mut Vec<u8>) {
    let (row, _) = row.as_chunks::<C>();
    for (start, weights) in taps.iter() {
        let mut sums = [HALF; C];
        for (pixel, weight) in row[start..].iter().zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.map(to_u8));
    }
}

fn vertical_pass(rows: &[u8], stride: usize, taps: &Taps) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.starts.len() * stride);
    let mut sums = vec![0; stride];
    for (start, weights) in taps.iter() {
        sums.fill(HALF);
        for (row, &weight) in rows[start * stride..].chunks_exact(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| to_u8(sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> Image {
        let pixels = (0..height * width).map(|i| (i * 37 % 251) as u8).collect();
        Image::new(1, height, width, pixels).unwrap()
    }

    #[test]
    fn same_size_is_a_crop() {
        let image = ramp(5, 6);
        let window = Window {
            top: 1,
            left: 2,
            height: 3,
            width: 4,
        };
        let crop = resize(&image, window, 3, 4, Filter::Bicubic);
        for (y, x) in [(0, 0), (2, 3), (1, 2)] {
            assert_eq!(crop.pixels[y * 4 + x], image.pixels[(y + 1) * 6 + x + 2]);
        }
    }

    #[test]
    fn constant_images_stay_constant() {
        for size in [1, 2, 7, 33] {
            let image = Image::new(3, size, size, vec![255; size * size * 3]).unwrap();
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                let resized = resize(&image, Window::whole(&image), 11, 3, filter);
                assert!(resized.pixels.iter().all(|&value| value == 255));
            }
            assert_eq!(gaussian_blur(&image, 2.0), image);
        }
    }

    #[test]
    fn halving_averages_with_antialiasing() {
        // A step edge: the triangle of support 2 reaches over it, a plain bilinear sample would
        // not.
        let image = Image::new(1, 1, 8, vec![0, 0, 0, 0, 255, 255, 255, 255]).unwrap();
        let half = resize(&image, Window::whole(&image), 1, 4, Filter::Bilinear);
        assert_eq!(half.pixels, [0, 32, 223, 255]);
    }

    #[test]
    fn blur_spreads_by_sigma() {
        let mut image = Image::new(1, 41, 41, vec![0; 41 * 41]).unwrap();
        for y in 19..22 {
            image.pixels[y * 41 + 19..y * 41 + 22].fill(255);
        }
        let sigma = 2.0;
        let row: Vec<f64> = (0..41)
            .map(|x| gaussian_blur(&image, sigma).pixels[20 * 41 + x].into())
            .collect();
        let mass: f64 = row.iter().sum();
        let variance = row
            .iter()
            .enumerate()
            .map(|(x, v)| v * (x as f64 - 20.0).powi(2))
            .sum::<f64>()
            / mass;
        // The 3-pixel bar adds its own variance of 2/3.
        assert!(
            (variance - sigma * sigma - 2.0 / 3.0).abs() < 0.25,
            "{variance}"
        );
    }
}
