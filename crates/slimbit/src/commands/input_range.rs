//! What range the input of an ONNX file has. Files do not say; what they do to their input first
//! often shows it.

use anyhow::{Result, bail};
use slimbit_data::Preprocess;
use slimbit_interchange::onnx::Normalisation;

/// How pixels in 0 to 1 become the file's own input: `(p - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Feed {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

/// Both ends of the way: what the file is fed, and what the network that was made of it is.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub feed: Feed,
    pub preprocess: Preprocess,
    /// Where the range comes from, in words.
    pub origin: String,
    /// Whether that is a guess.
    pub assumed: bool,
}

impl Feed {
    fn unit(channels: usize) -> Self {
        Self {
            mean: vec![0.0; channels],
            std: vec![1.0; channels],
        }
    }

    /// Pixels of 0 to 255.
    fn bytes(channels: usize) -> Self {
        Self {
            mean: vec![0.0; channels],
            std: vec![1.0 / 255.0; channels],
        }
    }
}

/// Joins what a file does to its image with what the image is before that.
///
/// `default` is what the flags say, and else what networks like this one were published with;
/// `given` whether `--mean` or `--std` was given; `takes_bytes` whether the file takes bytes.
///
/// # Errors
/// For a file whose range neither it nor the flags tell, and for flags against the file.
pub(super) fn resolve(
    default: Preprocess,
    given: bool,
    takes_bytes: bool,
    normalisation: &Normalisation,
) -> Result<Input> {
    let channels = default.channels;
    let stated = Feed {
        mean: default.mean.clone(),
        std: default.std.clone(),
    };
    let (feed, origin, assumed) = match (takes_bytes, given, normalisation) {
        (true, true, _) => bail!(
            "the file takes pixels as bytes and normalises them itself; leave --mean and --std out"
        ),
        (true, false, _) => (
            Feed::bytes(channels),
            "read from the file, which takes pixels as bytes".to_owned(),
            false,
        ),
        (false, true, _) => (stated, "as --mean and --std say".to_owned(), false),
        (false, false, Normalisation::None) => (
            stated,
            "assumed: the file does not say how its input is normalised".to_owned(),
            true,
        ),
        (false, false, Normalisation::PerChannel { gain, shift }) => match guess(gain, shift) {
            Some(Range::Unit) => (
                Feed::unit(channels),
                "read from the file, whose input must be pixels in 0 to 1".to_owned(),
                false,
            ),
            Some(Range::Bytes) => (
                Feed::bytes(channels),
                "read from the file, whose input must be pixels in 0 to 255".to_owned(),
                false,
            ),
            None => bail!(
                "the file multiplies its image by {gain:?} and adds {shift:?}, which fits neither \
                     pixels in 0 to 1 nor pixels in 0 to 255; {ASK}"
            ),
        },
        (false, false, Normalisation::Mixed) => bail!(
            "the file normalises its image in several ways at once, so that the range of its input \
             cannot be read from it; {ASK}"
        ),
    };
    let mut preprocess = default;
    (preprocess.mean, preprocess.std) = match normalisation {
        Normalisation::PerChannel { gain, shift } => compose(&feed, gain, shift),
        _ => (feed.mean.clone(), feed.std.clone()),
    };
    preprocess.validate()?;
    Ok(Input {
        feed,
        preprocess,
        origin,
        assumed,
    })
}

/// What to do where the range is unknown.
const ASK: &str = "say with --mean and --std how pixels in 0 to 1 become the file's input: \
                   `--mean 0,0,0 --std 1,1,1` where it takes them as they are, \
                   `--mean 0,0,0 --std 0.00392157,0.00392157,0.00392157` for 0 to 255, \
                   `--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225` for images normalised as \
                   ImageNet's are (one number each for grey images)";

/// `gain · (p - mean) / std + shift` as `(p - mean) / std`.
fn compose(feed: &Feed, gain: &[f32], shift: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let lines = feed.mean.iter().zip(&feed.std).zip(gain.iter().zip(shift));
    lines
        .map(|((&mean, &std), (&gain, &shift))| {
            let std = f64::from(std) / f64::from(gain);
            let mean = f64::from(mean) - f64::from(shift) * std;
            (mean as f32, std as f32)
        })
        .unzip()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Range {
    Unit,
    Bytes,
}

/// The range for which `gain · x + shift` is a normalisation: what is subtracted lies within it, and
/// what is divided by is a deviation that images of the range have.
fn guess(gain: &[f32], shift: &[f32]) -> Option<Range> {
    let of_channel = |(&gain, &shift): (&f32, &f32)| {
        let (mean, deviation) = (-shift / gain, 1.0 / gain);
        let within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
        if within(mean, 0.02, 1.0) && within(deviation, 0.05, 1.2) {
            return Some(Range::Unit);
        }
        let centred = within(mean, 2.0, 256.0) && within(deviation, 0.3, 300.0);
        let scaled = mean == 0.0 && within(deviation, 100.0, 300.0);
        (centred || scaled).then_some(Range::Bytes)
    };
    let mut channels = gain.iter().zip(shift).map(of_channel);
    let first = channels.next()??;
    channels.all(|range| range == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(gain: [f32; 3], shift: [f32; 3]) -> Normalisation {
        Normalisation::PerChannel {
            gain: gain.to_vec(),
            shift: shift.to_vec(),
        }
    }

    fn imagenet(scale: f32) -> Normalisation {
        let Preprocess { mean, std, .. } = Preprocess::imagenet();
        let gain: Vec<f32> = std.iter().map(|s| scale / s).collect();
        let shift = mean.iter().zip(&std).map(|(m, s)| -m / s).collect();
        Normalisation::PerChannel { gain, shift }
    }

    #[test]
    fn ranges_are_read_from_what_a_file_subtracts() {
        for (takes_bytes, normalisation, std) in [
            (false, imagenet(1.0), 0.229),
            (false, imagenet(1.0 / 255.0), 0.229),
            (true, imagenet(1.0 / 255.0), 0.229),
            (true, line([1.0 / 127.5; 3], [-1.0; 3]), 0.5),
            (false, line([1.0 / 127.5; 3], [-1.0; 3]), 0.5),
            (false, line([2.0; 3], [-1.0; 3]), 0.5),
            (false, line([1.0 / 255.0; 3], [0.0; 3]), 1.0),
            (false, line([1.0; 3], [-123.7, -116.3, -103.5]), 1.0 / 255.0),
            (true, Normalisation::None, 1.0 / 255.0),
            (true, Normalisation::Mixed, 1.0 / 255.0),
        ] {
            let default = Preprocess::imagenet();
            let input = resolve(default, false, takes_bytes, &normalisation).unwrap();
            let found = &input.preprocess.std;
            assert!(
                (found[0] - std).abs() < 1e-5,
                "{normalisation:?}: {found:?}"
            );
            assert!(!input.assumed, "{normalisation:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_asked_for() {
        let odd = [
            line([1.0; 3], [-0.001; 3]),
            line([5.0; 3], [0.0; 3]),
            line([1.0, 1.0, 2.0], [-100.0, -0.5, -1.0]),
            Normalisation::Mixed,
        ];
        for normalisation in odd {
            let default = Preprocess::imagenet();
            let error = resolve(default.clone(), false, false, &normalisation).unwrap_err();
            assert!(error.to_string().contains("--mean"), "{error}");
            assert!(resolve(default, true, false, &normalisation).is_ok());
        }
        let default = Preprocess::imagenet();
        assert!(
            resolve(default.clone(), false, false, &Normalisation::None)
                .unwrap()
                .assumed
        );
        assert!(resolve(default, true, true, &Normalisation::None).is_err());
    }
}
