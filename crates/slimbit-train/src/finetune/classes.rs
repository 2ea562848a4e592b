//! Which class of the data is which logit of the classifier, and what it is called.

use std::collections::HashMap;

use slimbit_data::Dataset;
use slimbit_graph::ClassNames;

use crate::TrainError;

/// More classes than anyone has are a sign of folders named by something else.
const MOST_CLASSES: u32 = 100_000;

/// The classifier's classes.
pub(super) struct Classes {
    /// Their names, in the order of the logits.
    pub(super) names: ClassNames,
    /// The logit of every class of the data.
    logits: Vec<u32>,
}

impl Classes {
    /// A class for every one of the data, in the order of their names; numbers in that of their values, so
    /// that `10` follows `9`.
    pub(super) fn begin(dataset: &Dataset, labels: &[u32]) -> Result<Self, TrainError> {
        let found = dataset.classes();
        if let [only] = found {
            return Err(refuse(
                dataset,
                &format!("has no class but `{only}`; a classifier needs at least two"),
            ));
        }
        let numbers: Option<Vec<u64>> = found.iter().map(|name| name.parse().ok()).collect();
        let mut order: Vec<usize> = (0..found.len()).collect();
        if let Some(numbers) = numbers {
            order.sort_by_key(|&class| numbers[class]);
        }
        let names = order.iter().map(|&class| found[class].clone()).collect();
        let classes = Self::named(names, dataset)?;
        let mut images = vec![0_usize; found.len()];
        for &label in labels {
            images[label as usize] += 1;
        }
        for (name, _) in found.iter().zip(&images).filter(|(_, count)| **count == 0) {
            log::warn!("class `{name}` has no training image, so the network cannot learn it");
        }
        Ok(classes)
    }

    /// The classes of a tuning that goes on, whatever order the data have them in now.
    pub(super) fn named(names: Vec<String>, dataset: &Dataset) -> Result<Self, TrainError> {
        let names = ClassNames::new(names)?;
        let known: HashMap<&str, u32> = names.names().iter().map(String::as_str).zip(0..).collect();
        let logits: Option<Vec<u32>> = dataset
            .classes()
            .iter()
            .map(|name| known.get(name.as_str()).copied())
            .collect();
        let Some(logits) = logits else {
            let is_new = |name: &&String| !known.contains_key(name.as_str());
            let new: Vec<&str> = dataset
                .classes()
                .iter()
                .filter(is_new)
                .map(|n| &**n)
                .collect();
            return Err(refuse(
                dataset,
                &format!(
                    "has classes now that it did not have when the tuning began: {}; remove them, or start another tuning",
                    new.join(", ")
                ),
            ));
        };
        Ok(Self { names, logits })
    }

    /// As programs numbered classes that kept no names: folders that are all named by numbers are those
    /// classes.
    pub(super) fn numbered(dataset: &Dataset, labels: &[u32]) -> Result<Self, TrainError> {
        let found = dataset.classes();
        let numbers: Option<Vec<u32>> = found.iter().map(|name| name.parse().ok()).collect();
        let logits = numbers
            .clone()
            .unwrap_or_else(|| (0..).take(found.len()).collect());
        let class = |&label: &u32| logits[label as usize];
        let most = labels.iter().map(class).max().unwrap_or(0);
        if most >= MOST_CLASSES {
            return Err(refuse(
                dataset,
                &format!(
                    "has a class folder `{most}`, and folders that are all named by numbers are those classes; name them \
                     by words or by numbers below {MOST_CLASSES}"
                ),
            ));
        }
        let name = |class: usize| match &numbers {
            None => found[class].clone(),
            Some(_) => class.to_string(),
        };
        Ok(Self {
            names: ClassNames::new((0..=most as usize).map(name).collect())?,
            logits,
        })
    }

    /// The logit of a label of the data.
    pub(super) fn logit(&self, label: u32) -> u32 {
        self.logits[label as usize]
    }
}

fn refuse(dataset: &Dataset, what: &str) -> TrainError {
    TrainError::value("data", format!("{} {what}", dataset.path().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dataset of one image a class.
    fn folders(names: &[&str]) -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let class = folder.path().join(name);
            std::fs::create_dir(&class).unwrap();
            std::fs::write(class.join("a.pgm"), b"P5 1 1 255\n7").unwrap();
        }
        let dataset = Dataset::open(folder.path()).unwrap();
        (folder, dataset)
    }

    #[test]
    fn years_are_three_classes_and_not_two_thousand() {
        let (_folder, dataset) = folders(&["2020", "999", "2019"]);
        let classes = Classes::begin(&dataset, &[0, 1, 2]).unwrap();
        assert_eq!(classes.names.names(), ["999", "2019", "2020"]);
        for (label, name) in dataset.classes().iter().enumerate() {
            let logit = classes.logit(label as u32);
            assert_eq!(&classes.names.names()[logit as usize], name);
        }
    }

    #[test]
    fn a_tuning_that_goes_on_keeps_its_logits() {
        let (_folder, dataset) = folders(&["cat", "dog"]);
        let names = ["zebra", "dog", "cat"].map(str::to_owned).to_vec();
        let classes = Classes::named(names, &dataset).unwrap();
        assert_eq!([classes.logit(0), classes.logit(1)], [2, 1]);
        let error = Classes::named(vec!["dog".to_owned()], &dataset)
            .err()
            .unwrap();
        assert!(error.to_string().contains("began: cat;"), "{error}");
    }

    #[test]
    fn runs_without_names_are_numbered_as_they_were() {
        let (_folder, dataset) = folders(&["0", "1", "3"]);
        let classes = Classes::numbered(&dataset, &[0, 1, 2]).unwrap();
        assert_eq!(classes.names.len(), 4);
        assert_eq!(classes.logit(2), 3);
        let (_folder, dataset) = folders(&["cat", "dog"]);
        let classes = Classes::numbered(&dataset, &[0, 1]).unwrap();
        assert_eq!(classes.names.names(), ["cat", "dog"]);
    }

    #[test]
    fn one_class_is_none() {
        let (_folder, dataset) = folders(&["cat"]);
        let error = Classes::begin(&dataset, &[0]).err().unwrap().to_string();
        assert!(error.contains("no class but `cat`"), "{error}");
    }
}
