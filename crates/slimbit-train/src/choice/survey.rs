//! What the images of a dataset are like.

use std::time::Instant;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use slimbit_data::{AugmentConfig, DataError, Dataset, Image, augment};

use crate::TrainError;

/// Images that are looked at, spread over the dataset.
const SAMPLE: usize = 64;
/// Pixels of an image that count in the mean and the deviation, about.
const PIXELS: usize = 4096;
/// Side of the views whose making is timed.
const VIEW: usize = 64;
/// Share of images that are less oblong than [`Survey::aspect`].
const NEARLY_ALL: f64 = 0.9;
/// Least deviation, for images of a single colour.
const LEAST_STD: f32 = 0.02;

/// What was seen of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Survey {
    /// Images in all.
    pub(crate) images: usize,
    /// 1 where all images are grey, else 3.
    pub(crate) channels: usize,
    /// Height and width of the image whose shorter side is the median.
    pub(crate) typical: (usize, usize),
    /// Longer side over shorter side that nearly all images stay below.
    pub(crate) aspect: f64,
    /// Mean per channel, of pixels in 0..=1.
    pub(crate) mean: Vec<f32>,
    /// Standard deviation per channel, of pixels in 0..=1.
    pub(crate) std: Vec<f32>,
    /// Seconds that an image takes to be read, decoded and made into two views, with every core at it.
    pub(crate) seconds: f64,
}

/// What was seen of one image.
struct Seen {
    size: (usize, usize),
    pixels: f64,
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Survey {
    /// Looks at images that are spread over a dataset; `channels` overrides how many the images have.
    ///
    /// # Errors
    /// [`TrainError::Data`] where an image cannot be read, or none can be decoded.
    pub(crate) fn of(dataset: &Dataset, channels: Option<usize>) -> Result<Self, TrainError> {
        let images = dataset.len();
        let channels = channels.unwrap_or(dataset.shape().0);
        let count = images.min(SAMPLE);
        let started = Instant::now();
        let seen = (0..count)
            .into_par_iter()
            .map(|position| {
                let index = position * images / count;
                match dataset.image(index) {
                    Ok(image) => Ok(Some(look(&image, channels, index as u64))),
                    // The dataset has reported it.
                    Err(DataError::Decode { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .collect::<Result<Vec<_>, DataError>>()?;
        let seconds = started.elapsed().as_secs_f64() / count as f64;
        let seen: Vec<Seen> = seen.into_iter().flatten().collect();
        if seen.is_empty() {
            return Err(TrainError::Data(DataError::Empty {
                path: dataset.path().to_owned(),
                skipped: count,
            }));
        }
        let mut sizes: Vec<(usize, usize)> = seen.iter().map(|seen| seen.size).collect();
        sizes.sort_by_key(|&(height, width)| (height.min(width), height.max(width)));
        let mut aspects: Vec<f64> = sizes
            .iter()
            .map(|&(height, width)| height.max(width) as f64 / height.min(width) as f64)
            .collect();
        aspects.sort_by(f64::total_cmp);
        let pixels: f64 = seen.iter().map(|seen| seen.pixels).sum();
        let average = |of: &dyn Fn(&Seen) -> f64| seen.iter().map(of).sum::<f64>() / pixels;
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for channel in 0..channels {
            let first = average(&|seen| seen.sums[channel]);
            let second = average(&|seen| seen.squares[channel]);
            mean.push(rounded(first));
            std.push(rounded((second - first * first).max(0.0).sqrt()).max(LEAST_STD));
        }
        Ok(Self {
            images,
            channels,
            typical: sizes[sizes.len() / 2],
            aspect: aspects[((aspects.len() - 1) as f64 * NEARLY_ALL) as usize],
            mean,
            std,
            seconds,
        })
    }

    /// The shorter side of a typical image.
    pub(crate) fn shorter(&self) -> usize {
        self.typical.0.min(self.typical.1)
    }
}

fn look(image: &Image, channels: usize, index: u64) -> Seen {
    let size = (image.height, image.width);
    let image = image.with_channels(channels);
    let mut rng = ChaCha8Rng::seed_from_u64(index);
    for _ in 0..2 {
        augment(&image, (VIEW, VIEW), &AugmentConfig::imagenet(), &mut rng);
    }
    let every = (image.height * image.width / PIXELS).max(1);
    let (mut pixels, mut sums, mut squares) = (0.0, vec![0.0; channels], vec![0.0; channels]);
    for pixel in image.pixels.chunks_exact(channels).step_by(every) {
        pixels += 1.0;
        for (channel, &code) in pixel.iter().enumerate() {
            let value = f64::from(code) / 255.0;
            sums[channel] += value;
            squares[channel] += value * value;
        }
    }
    Seen {
        size,
        pixels,
        sums,
        squares,
    }
}

fn rounded(value: f64) -> f32 {
    ((value * 1e3).round() / 1e3) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_colours_and_moments_are_seen() {
        let mut pixels = vec![0; 10 * 4 * 6 * 3];
        pixels.iter_mut().step_by(3).for_each(|red| *red = 255);
        let dataset = Dataset::from_pixels((3, 4, 6), pixels, None).unwrap();
        let survey = Survey::of(&dataset, None).unwrap();
        assert_eq!((survey.images, survey.channels), (10, 3));
        assert_eq!((survey.typical, survey.shorter()), ((4, 6), 4));
        assert_eq!(survey.aspect, 1.5);
        assert_eq!(survey.mean, [1.0, 0.0, 0.0]);
        assert_eq!(survey.std, [LEAST_STD; 3]);
        let grey = Survey::of(&dataset, Some(1)).unwrap();
        assert_eq!(grey.mean.len(), 1);
    }
}
