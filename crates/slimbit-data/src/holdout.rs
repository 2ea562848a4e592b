use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand::seq::SliceRandom;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::DataError;
use crate::seed::holdout_rng;

/// How many images of one folder are held out, to be measured on.
///
/// ```
/// use slimbit_data::Holdout;
///
/// let holdout: Holdout = "20%".parse()?;
/// let labels: Vec<u32> = (0..50).map(|image| image % 5).collect();
/// assert_eq!(holdout.draw(50, Some(&labels), 0)?.len(), 10);
/// # Ok::<(), slimbit_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holdout {
    /// This share of all images, between 0 and 1.
    Share(f64),
    /// This many images.
    Count(usize),
}

impl Holdout {
    /// The positions of the images that are held out of `images`, in ascending order.
    ///
    /// Every class gives its share, to the nearest image, and keeps at least one image. In which order
    /// a class gives its images follows from `seed` and the class alone. Without labels, all images
    /// are one class.
    ///
    /// # Errors
    /// [`DataError::Setting`] where that is no image at all, or more than the classes can spare.
    pub fn draw(
        &self,
        images: usize,
        labels: Option<&[u32]>,
        seed: u64,
    ) -> Result<Vec<usize>, DataError> {
        let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for image in 0..images {
            let label = labels.map_or(0, |labels| labels[image]);
            classes.entry(label).or_default().push(image);
        }
        let spare: usize = classes.values().map(|members| members.len() - 1).sum();
        let wanted = match *self {
            Self::Share(share) => ((share * images as f64).round() as usize).clamp(1, spare.max(1)),
            Self::Count(count) => count,
        };
        if wanted == 0 || wanted > spare {
            let classes = match classes.len() {
                0 | 1 => "the folder".to_owned(),
                more => format!("each of the {more} classes"),
            };
            let reason = format!(
                "{self} of {images} image{} cannot be held out: {classes} must keep one, which leaves {spare} at most",
                if images == 1 { "" } else { "s" }
            );
            return Err(DataError::setting("holdout", reason));
        }
        let mut quotas: Vec<(u32, usize, f64)> = classes
            .iter()
            .map(|(&class, members)| {
                let exact = wanted as f64 * members.len() as f64 / images as f64;
                let whole = (exact.floor() as usize).min(members.len() - 1);
                (class, whole, exact - whole as f64)
            })
            .collect();
        // The images that rounding down left over go to the classes that lost most by it.
        let mut missing = wanted - quotas.iter().map(|quota| quota.1).sum::<usize>();
        quotas.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
        while missing > 0 {
            for (class, quota, _) in &mut quotas {
                if missing > 0 && *quota + 1 < classes[class].len() {
                    *quota += 1;
                    missing -= 1;
                }
            }
        }
        let mut drawn = Vec::with_capacity(wanted);
        for (class, quota, _) in quotas {
            let members = classes.get_mut(&class).expect("it has a quota");
            members.shuffle(&mut holdout_rng(seed, class));
            drawn.extend_from_slice(&members[..quota]);
        }
        drawn.sort_unstable();
        Ok(drawn)
    }
}

impl Serialize for Holdout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Holdout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Holdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Not the product with 100, which would show 7.000000000000001 %.
            Self::Share(share) => write!(f, "{}%", (share * 1e10).round() / 1e8),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl FromStr for Holdout {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        let holdout = match text.strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|percent| *percent > 0.0 && *percent < 100.0)
                .map(|percent| Self::Share(percent / 100.0)),
            None => text
                .parse()
                .ok()
                .filter(|&count| count > 0)
                .map(Self::Count),
        };
        holdout.ok_or_else(|| {
            let reason = format!(
                "expected a share of the images such as 20%, or a number of images such as 500, got `{text}`"
            );
            DataError::setting("holdout", reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<u32> {
        // 60, 30, 9 and 1 of four classes.
        let sizes = [60, 30, 9, 1];
        (0..4)
            .flat_map(|class| std::iter::repeat_n(class, sizes[class as usize]))
            .collect()
    }

    fn per_class(drawn: &[usize]) -> [usize; 4] {
        let labels = labels();
        let mut counts = [0; 4];
        drawn
            .iter()
            .for_each(|&row| counts[labels[row] as usize] += 1);
        counts
    }

    #[test]
    fn every_class_gives_its_share_and_keeps_an_image() {
        let draw = |text: &str, seed| {
            let holdout: Holdout = text.parse().unwrap();
            holdout.draw(100, Some(&labels()), seed).unwrap()
        };
        assert_eq!(per_class(&draw("20%", 0)), [12, 6, 2, 0]);
        assert_eq!(per_class(&draw("20", 0)), [12, 6, 2, 0]);
        assert_eq!(per_class(&draw("96", 0)), [59, 29, 8, 0]);
        assert_eq!(per_class(&draw("99%", 0)), [59, 29, 8, 0]);
        assert_eq!(draw("0.01%", 0).len(), 1);
        assert_eq!(draw("20%", 3), draw("20%", 3));
        assert_ne!(draw("20%", 3), draw("20%", 4));
        let (few, many) = (draw("20%", 3), draw("40%", 3));
        assert!(few.iter().all(|row| many.contains(row)));
        assert!(few.is_sorted());
    }

    #[test]
    fn unlabelled_images_are_one_class() {
        assert_eq!(Holdout::Count(5).draw(40, None, 1).unwrap().len(), 5);
        assert_eq!(Holdout::Share(0.5).draw(2, None, 1).unwrap().len(), 1);
        let error = Holdout::Share(0.5)
            .draw(1, None, 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("50% of 1 image cannot"), "{error}");
    }

    #[test]
    fn what_cannot_be_held_out_is_refused() {
        let error = Holdout::Count(97)
            .draw(100, Some(&labels()), 0)
            .unwrap_err();
        assert!(error.to_string().contains("leaves 96 at most"), "{error}");
        for text in ["0", "0%", "100%", "-5%", "nan%", "half", "", "1.5"] {
            let error = text.parse::<Holdout>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        for text in ["20%", "7%", "500"] {
            assert_eq!(text.parse::<Holdout>().unwrap().to_string(), text);
        }
    }
}
