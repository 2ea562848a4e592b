//! Calibration: batch-norm statistics and activation ranges of every point, from unlabelled images.
//!
//! The order is that of spec section 5.5. Per width, in float: batch-norm is re-estimated with batch
//! statistics, then ranges are measured on the same images with those statistics. Per point, with
//! quantisation on and the ranges frozen: batch-norm is re-estimated again, because few bits shift
//! the means that a float pass saw; and, where asked for, ranges are measured a second time.

use std::collections::BTreeMap;

use slimbit_engine::InputCodes;
use slimbit_graph::{Graph, Params, Point, PointStatistics, Range, Width};
use slimbit_num::WeightGrid;

use crate::post::check_images;
use crate::{Progress, QuantError, Settings, Task, input_values};

/// Batch-norm mean and biased variance by node name.
pub type Norms = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// Range of each stage's output by stage name.
pub type Ranges = BTreeMap<String, Range>;

/// How much is measured, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Images used at most: the first of those given.
    pub images: usize,
    /// Images per batch at most. Batch statistics want a hundred or more.
    pub batch: usize,
    /// How the ranges of batches become one range.
    pub ranges: RangeRule,
    /// Whether ranges are measured a second time, with quantisation on.
    pub second_ranges: bool,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            images: 1024,
            batch: 128,
            ranges: RangeRule::MinMax,
            second_ranges: false,
        }
    }
}

/// How the extremes of batches become one range.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RangeRule {
    /// The extremes over all images: nothing is clipped (SSQL).
    #[default]
    MinMax,
    /// A percentile, above 50 and up to 100, of the batches' maxima, and of their minima likewise:
    /// a few outlying images then do not coarsen the codes of all others. 100 is `MinMax`.
    Percentile(f32),
}

/// A float network, as calibration needs it.
///
/// [`slimbit_nn::Net`] is one. The trait keeps the order of the passes apart from how they are run.
pub trait FloatNetwork {
    /// The network description.
    fn graph(&self) -> &Graph;

    /// The parameters at full width.
    fn params(&self) -> Params;

    /// Runs a batch of normalised images, NCHW, and reports what the pass saw.
    ///
    /// # Errors
    /// Where the pass cannot be run.
    fn measure(&self, batch: &[f32], pass: &Pass) -> Result<Measured, QuantError>;
}

/// How one pass is run.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The width.
    pub width: Width,
    /// Batch-norm statistics to use; the batch's own where there are none.
    pub norms: Option<&'a Norms>,
    /// Quantise weights and stage outputs as deployed; run in float where there is nothing.
    pub quantised: Option<Quantised<'a>>,
}

/// What a quantised pass needs.
#[derive(Clone, Copy, Debug)]
pub struct Quantised<'a> {
    /// The point.
    pub point: Point,
    /// The weight grid.
    pub grid: WeightGrid,
    /// The ranges of the quantisers. The input needs none: a batch holds the values of its codes.
    pub ranges: &'a Ranges,
}

/// What one pass saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// The batch's own mean and biased variance at every batch-norm; empty where the pass was given
    /// statistics.
    pub norms: Norms,
    /// Extremes of every stage output that has a quantiser, before that quantiser.
    pub ranges: Ranges,
}

/// Measures every point on `pixels`, whole images of the network's input shape in NHWC order.
///
/// Points of one width share its float passes. The result depends on nothing but the arguments.
///
/// # Errors
/// [`QuantError::Images`] for no images, parts of images or settings that use none; otherwise as
/// [`FloatNetwork::measure`].
pub fn calibrate(
    network: &impl FloatNetwork,
    pixels: &[u8],
    points: &[Point],
    settings: &Settings,
    calibration: &Calibration,
    progress: impl Fn(Progress),
) -> Result<Vec<PointStatistics>, QuantError> {
    let input = settings.input(network.graph())?;
    let batches = Batches::new(network.graph(), pixels, &input, calibration)?;
    let mut widths: Vec<Width> = Vec::new();
    for point in points {
        if !widths.contains(&point.width) {
            widths.push(point.width);
        }
    }
    let per_point = 1 + usize::from(calibration.second_ranges);
    let passes = 2 * widths.len() + per_point * points.len();
    let mut rounds = Rounds {
        network,
        batches: &batches,
        rule: calibration.ranges,
        progress,
        done: 0,
        total: passes * batches.count,
    };
    let mut statistics: Vec<Option<PointStatistics>> = vec![None; points.len()];
    for &width in &widths {
        let of_width = (0..points.len()).filter(|&i| points[i].width == width);
        let first = points.iter().find(|p| p.width == width).copied();
        let Some(first) = first else { continue };
        let float = Pass {
            width,
            norms: None,
            quantised: None,
        };
        let norms = rounds.norms(first, &float)?;
        let ranges = rounds.ranges(
            first,
            &Pass {
                norms: Some(&norms),
                ..float
            },
        )?;
        for index in of_width {
            let point = points[index];
            let quantised = Some(Quantised {
                point,
                grid: settings.grid,
                ranges: &ranges,
            });
            let pass = Pass {
                width,
                norms: None,
                quantised,
            };
            let norms = rounds.norms(point, &pass)?;
            let ranges = if calibration.second_ranges {
                rounds.ranges(
                    point,
                    &Pass {
                        norms: Some(&norms),
                        ..pass
                    },
                )?
            } else {
                ranges.clone()
            };
            statistics[index] = Some(PointStatistics {
                point,
                norms,
                ranges,
            });
        }
    }
    Ok(statistics.into_iter().flatten().collect())
}

/// The calibration images, in batches whose sizes differ by at most one.
struct Batches<'a> {
    pixels: &'a [u8],
    input: &'a InputCodes,
    image: usize,
    plane: usize,
    images: usize,
    count: usize,
}

impl<'a> Batches<'a> {
    fn new(
        graph: &Graph,
        pixels: &'a [u8],
        input: &'a InputCodes,
        calibration: &Calibration,
    ) -> Result<Self, QuantError> {
        let shape = graph.input_shape();
        let image = shape.elements();
        let (height, width) = shape.spatial();
        check_images(pixels, image, shape)?;
        if calibration.images == 0 || calibration.batch == 0 {
            return Err(QuantError::Images(format!(
                "{} images in batches of {}; both must be above 0",
                calibration.images, calibration.batch
            )));
        }
        if let RangeRule::Percentile(percent) = calibration.ranges
            && !(percent > 50.0 && percent <= 100.0)
        {
            let what = format!("percentile {percent} is not above 50 and at most 100");
            return Err(QuantError::Images(what));
        }
        let images = calibration.images.min(pixels.len() / image);
        Ok(Self {
            pixels,
            input,
            image,
            plane: height * width,
            images,
            count: images.div_ceil(calibration.batch),
        })
    }

    /// Values of each batch and the number of images in it.
    fn iter(&self) -> impl Iterator<Item = (Vec<f32>, usize)> {
        let start = |batch: usize| self.images * batch / self.count;
        (0..self.count).map(move |batch| {
            let (from, to) = (start(batch), start(batch + 1));
            let pixels = &self.pixels[from * self.image..to * self.image];
            (input_values(self.input, pixels, self.plane), to - from)
        })
    }
}

/// Passes over all batches.
struct Rounds<'a, N, P> {
    network: &'a N,
    batches: &'a Batches<'a>,
    rule: RangeRule,
    progress: P,
    done: usize,
    total: usize,
}

impl<N: FloatNetwork, P: Fn(Progress)> Rounds<'_, N, P> {
    fn measure(&mut self, point: Point, pass: &Pass) -> Result<Vec<(Measured, usize)>, QuantError> {
        let mut all = Vec::with_capacity(self.batches.count);
        for (batch, images) in self.batches.iter() {
            all.push((self.network.measure(&batch, pass)?, images));
            self.done += 1;
            (self.progress)(Progress {
                task: Task::Calibrate,
                point,
                stage: "",
                done: self.done,
                total: self.total,
            });
        }
        Ok(all)
    }

    /// Batch statistics, averaged over the images.
    fn norms(&mut self, point: Point, pass: &Pass) -> Result<Norms, QuantError> {
        let images = self.batches.images as f64;
        let mut sums: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
        for (measured, count) in self.measure(point, pass)? {
            let share = count as f64 / images;
            for (name, (mean, var)) in measured.norms {
                let zeros = || vec![0.0; mean.len()];
                let sums = sums.entry(name).or_insert_with(|| [zeros(), zeros()]);
                for (sums, values) in sums.iter_mut().zip([&mean, &var]) {
                    let pairs = sums.iter_mut().zip(values);
                    pairs.for_each(|(sum, &value)| *sum += share * f64::from(value));
                }
            }
        }
        let single = |sums: Vec<f64>| sums.into_iter().map(|sum| sum as f32).collect();
        let norms = sums.into_iter();
        Ok(norms
            .map(|(name, [mean, var])| (name, (single(mean), single(var))))
            .collect())
    }

    fn ranges(&mut self, point: Point, pass: &Pass) -> Result<Ranges, QuantError> {
        let measured = self.measure(point, pass)?;
        let mut extremes: BTreeMap<&str, (Vec<f32>, Vec<f32>)> = BTreeMap::new();
        for (measured, _) in &measured {
            for (name, range) in &measured.ranges {
                let (minima, maxima) = extremes.entry(name).or_default();
                minima.push(range.min);
                maxima.push(range.max);
            }
        }
        let rule = self.rule;
        let joined = |(minima, mut maxima): (Vec<f32>, Vec<f32>)| {
            let mut mirrored: Vec<f32> = minima.into_iter().map(|min| -min).collect();
            Range {
                min: -rule.upper(&mut mirrored),
                max: rule.upper(&mut maxima),
            }
        };
        let named = extremes.into_iter();
        Ok(named
            .map(|(name, ends)| (name.to_owned(), joined(ends)))
            .collect())
    }
}

impl RangeRule {
    /// The upper end of a range from the upper ends of batches, of which there is at least one.
    fn upper(self, maxima: &mut [f32]) -> f32 {
        maxima.sort_by(f32::total_cmp);
        let share = match self {
            Self::MinMax => 1.0,
            Self::Percentile(percent) => percent / 100.0,
        };
        // Linear between the two nearest, as numpy's percentile.
        let place = share * (maxima.len() - 1) as f32;
        let below = place.floor() as usize;
        let above = (below + 1).min(maxima.len() - 1);
        maxima[below] + (maxima[above] - maxima[below]) * place.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_between_the_batches() {
        let maxima = || vec![4.0, 1.0, 2.0, 3.0, 100.0];
        assert_eq!(RangeRule::MinMax.upper(&mut maxima()), 100.0);
        assert_eq!(RangeRule::Percentile(100.0).upper(&mut maxima()), 100.0);
        assert_eq!(RangeRule::Percentile(75.0).upper(&mut maxima()), 4.0);
        assert_eq!(RangeRule::Percentile(62.5).upper(&mut maxima()), 3.5);
        assert_eq!(RangeRule::Percentile(60.0).upper(&mut [7.0]), 7.0);
    }
}
