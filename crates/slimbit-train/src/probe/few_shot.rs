use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::TrainError;

/// How many of the training labels are used.
///
/// ```
/// use slimbit_train::probe::LabelBudget;
///
/// let budget: LabelBudget = "10%".parse()?;
/// let labels: Vec<u32> = (0..200).map(|image| image % 4).collect();
/// assert_eq!(budget.draw(&labels, 7)?.len(), 20);
/// # Ok::<(), slimbit_train::TrainError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LabelBudget {
    /// All of them.
    #[default]
    All,
    /// A share above 0 and up to 1 of all labels, divided evenly between the classes.
    Share(f64),
    /// This many of every class.
    PerClass(usize),
}

impl LabelBudget {
    /// The images whose labels are used, in ascending order: as many of each class, drawn by `seed`.
    ///
    /// A smaller budget draws a part of what a larger one draws with the same seed. A share gives every
    /// class at least one image.
    ///
    /// # Errors
    /// [`TrainError::Probe`] where a class has fewer images than it should give.
    pub fn draw(&self, labels: &[u32], seed: u64) -> Result<Vec<usize>, TrainError> {
        self.draw_of(labels, &[], seed)
    }

    /// [`draw`](Self::draw), with the classes' names for the error; a class without a name is called by
    /// its number.
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    pub fn draw_of(
        &self,
        labels: &[u32],
        names: &[String],
        seed: u64,
    ) -> Result<Vec<usize>, TrainError> {
        let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (image, &label) in labels.iter().enumerate() {
            classes.entry(label).or_default().push(image);
        }
        let wanted = match *self {
            Self::All => return Ok((0..labels.len()).collect()),
            Self::Share(share) => {
                let per_class = share * labels.len() as f64 / classes.len().max(1) as f64;
                (per_class.round() as usize).max(1)
            }
            Self::PerClass(count) => count,
        };
        let fewest = classes.values().map(Vec::len).min().unwrap_or(0);
        let mut drawn = Vec::with_capacity(wanted * classes.len());
        for (&class, images) in &mut classes {
            if images.len() < wanted {
                let class = match names.get(class as usize) {
                    Some(name) => format!("`{name}`"),
                    None => class.to_string(),
                };
                return Err(TrainError::Probe(format!(
                    "labels = {self} asks for {wanted} images of each class, but class {class} has {}; ask for at \
                     most {fewest} per class",
                    images.len()
                )));
            }
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(class.into());
            images.shuffle(&mut rng);
            drawn.extend_from_slice(&images[..wanted]);
        }
        drawn.sort_unstable();
        Ok(drawn)
    }
}

impl fmt::Display for LabelBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            // Not the product with 100, which would show 7.000000000000001 %.
            Self::Share(share) => write!(f, "{}%", (share * 1e10).round() / 1e8),
            Self::PerClass(count) => count.fmt(f),
        }
    }
}

impl FromStr for LabelBudget {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let refuse = || {
            TrainError::Probe(format!(
                "expected a share of the labels (1%, 10%), a number per class (25) or all, got `{text}`"
            ))
        };
        if text == "all" {
            return Ok(Self::All);
        }
        match text.strip_suffix('%') {
            Some(percent) => match percent.trim().parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent <= 100.0 => {
                    Ok(Self::Share(percent / 100.0))
                }
                _ => Err(refuse()),
            },
            None => match text.parse() {
                Ok(count) if count > 0 => Ok(Self::PerClass(count)),
                _ => Err(refuse()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<u32> {
        (0..900)
            .map(|image| [4, 7, 9][image * image % 7 % 3])
            .collect()
    }

    fn of_each(drawn: &[usize], labels: &[u32]) -> [usize; 3] {
        [4, 7, 9].map(|class| {
            drawn
                .iter()
                .filter(|&&image| labels[image] == class)
                .count()
        })
    }

    #[test]
    fn every_class_gives_as_many() {
        let labels = labels();
        for (text, each) in [("1%", 3), ("10%", 30), ("25", 25), ("0.01%", 1)] {
            let budget: LabelBudget = text.parse().unwrap();
            let drawn = budget.draw(&labels, 1).unwrap();
            assert_eq!(of_each(&drawn, &labels), [each; 3], "{text}");
            assert!(drawn.is_sorted_by(|a, b| a < b), "{text}");
            assert_eq!(budget.to_string(), text);
        }
        assert_eq!(LabelBudget::All.draw(&labels, 1).unwrap().len(), 900);
    }

    #[test]
    fn a_seed_decides_and_small_budgets_are_parts_of_large_ones() {
        let labels = labels();
        let draw = |count, seed| LabelBudget::PerClass(count).draw(&labels, seed).unwrap();
        assert_eq!(draw(20, 1), draw(20, 1));
        assert_ne!(draw(20, 1), draw(20, 2));
        let large = draw(20, 1);
        assert!(draw(5, 1).iter().all(|image| large.contains(image)));
    }

    #[test]
    fn a_class_that_is_too_small_is_named() {
        let mut labels = labels();
        labels.extend([11; 4]);
        let names: Vec<String> = (0..12).map(|class| format!("kind {class}")).collect();
        let error = LabelBudget::PerClass(5).draw_of(&labels, &names, 0);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("class `kind 11` has 4")
        );
        let error = LabelBudget::PerClass(5)
            .draw(&labels, 1)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "probe: labels = 5 asks for 5 images of each class, but class 11 has 4; ask for at most 4 per class"
        );
    }

    #[test]
    fn what_is_no_budget_is_refused() {
        for text in ["0", "0%", "101%", "-1", "1.5", "many", "%", ""] {
            let error = text.parse::<LabelBudget>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
