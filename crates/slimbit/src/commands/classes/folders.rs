//! Which class folder is which class of a network.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use slimbit_data::{Dataset, printable};
use slimbit_graph::ClassNames;

use super::{Classes, listed, quoted};

impl Classes {
    /// The network's class of every class of a dataset that has images, by the dataset's number; `map` says
    /// which folder is which class where its name does not.
    ///
    /// # Errors
    /// Where some folder fits no class, which is then named.
    pub(in crate::commands) fn of_folders(
        &self,
        dataset: &Dataset,
        map: &[(String, String)],
        data: &Path,
    ) -> Result<Vec<Option<u32>>> {
        let found = dataset.classes();
        let labels: BTreeSet<u32> = (0..dataset.len())
            .filter_map(|i| dataset.label(i))
            .collect();
        ensure!(
            !labels.is_empty(),
            "{} has no labels; give an image folder with one subfolder per class, or IDX or CIFAR files",
            data.display()
        );
        let folders: BTreeMap<u32, &str> = labels
            .into_iter()
            .map(|label| (label, found[label as usize].as_str()))
            .collect();
        let matches = self.matches(&folders, found.len(), map).with_context(|| {
            format!(
                "matching the class folders of {} with the network's classes",
                data.display()
            )
        })?;
        self.mention_doubts(&folders, &matches);
        let of = |label| matches.get(&label).map(|found| found.class);
        Ok((0..found.len() as u32).map(of).collect())
    }

    fn matches(
        &self,
        folders: &BTreeMap<u32, &str>,
        among: usize,
        map: &[(String, String)],
    ) -> Result<BTreeMap<u32, Match>> {
        let mut matches = BTreeMap::new();
        for (folder, class) in map {
            let label = folders
                .iter()
                .find(|(_, name)| *name == folder)
                .map(|(&label, _)| label);
            let Some(label) = label else {
                bail!("--map {folder}={class}: there is no class folder `{folder}` with images");
            };
            let class = self
                .wanted(class)
                .with_context(|| format!("--map {folder}={class}"))?;
            matches.insert(
                label,
                Match {
                    class,
                    by: By::Name,
                },
            );
        }
        let rest: BTreeMap<u32, &str> = folders
            .iter()
            .filter(|(label, _)| !matches.contains_key(label))
            .map(|(&label, &name)| (label, name))
            .collect();
        let numbers = || -> Option<BTreeMap<u32, u64>> {
            rest.iter()
                .map(|(&label, name)| Some((label, name.parse().ok()?)))
                .collect()
        };
        let Some(names) = &self.names else {
            matches.extend(match numbers() {
                Some(numbers) => self.by_number(&numbers)?,
                None if map.is_empty() => self.by_place(&rest, among)?,
                None => bail!(
                    "the network's classes have no names, so --map must say of every folder which class it is; it does not \
                     say it of {}",
                    quoted(&rest.values().copied().collect::<Vec<_>>())
                ),
            });
            return Ok(matches);
        };
        let named = by_name(&rest, names.names());
        match numbers() {
            Some(numbers) if named.is_empty() => matches.extend(self.by_number(&numbers)?),
            _ => matches.extend(named),
        }
        let unknown: Vec<&str> = folders
            .iter()
            .filter(|(label, _)| !matches.contains_key(label))
            .map(|(_, &n)| n)
            .collect();
        if unknown.is_empty() {
            return Ok(matches);
        }
        let missing = self.missing(&matches);
        let none = "every class of the network has a folder".to_owned();
        bail!(
            "no class of the network is called {}; {}; rename the folders, say which class they are with --map \
             FOLDER=CLASS, or give the network's class names with --classes NAMES.TXT",
            quoted(&unknown),
            match missing.is_empty() {
                true => none,
                false => format!("its classes without a folder are {}", quoted(&missing)),
            }
        )
    }

    /// The class that `--map` names.
    fn wanted(&self, text: &str) -> Result<u32> {
        if let Some(names) = &self.names
            && let Some(class) = names.names().iter().position(|name| name == text)
        {
            return Ok(class as u32);
        }
        match text.parse::<usize>() {
            Ok(class) if class < self.count => Ok(class as u32),
            _ => bail!(
                "the network has no class `{}`; its classes are {}",
                printable(text),
                self.listed()
            ),
        }
    }

    fn listed(&self) -> String {
        match &self.names {
            Some(names) => quoted(&names.names().iter().map(String::as_str).collect::<Vec<_>>()),
            None => format!("the numbers 0 to {}", self.count - 1),
        }
    }

    fn by_number(&self, numbers: &BTreeMap<u32, u64>) -> Result<BTreeMap<u32, Match>> {
        let class = |(&label, &number): (&u32, &u64)| {
            ensure!(
                number < self.count as u64,
                "the folders are named by numbers, but `{number}` is no class of the network: its classes are {}; rename \
                 the folders, or say which class they are with --map FOLDER=CLASS",
                self.listed()
            );
            Ok((
                label,
                Match {
                    class: number as u32,
                    by: By::Number,
                },
            ))
        };
        numbers.iter().map(class).collect()
    }

    /// The folders in alphabetical order, where there is one for every class.
    fn by_place(&self, rest: &BTreeMap<u32, &str>, among: usize) -> Result<BTreeMap<u32, Match>> {
        ensure!(
            among == self.count,
            "there are {among} classes, {}, and the network has {} classes without names; give their names with \
             --classes NAMES.TXT, or say which class each folder is with --map FOLDER=NUMBER",
            quoted(&rest.values().copied().collect::<Vec<_>>()),
            self.count
        );
        let place = |&label: &u32| {
            (
                label,
                Match {
                    class: label,
                    by: By::Place,
                },
            )
        };
        Ok(rest.keys().map(place).collect())
    }

    /// Names of the classes that no folder is.
    fn missing(&self, matches: &BTreeMap<u32, Match>) -> Vec<&str> {
        let there: BTreeSet<u32> = matches.values().map(|found| found.class).collect();
        let names = self.names.iter().flat_map(ClassNames::names).zip(0..);
        names
            .filter(|(_, class)| !there.contains(class))
            .map(|(name, _)| &**name)
            .collect()
    }

    /// Says on standard error what was concluded and not read.
    fn mention_doubts(&self, folders: &BTreeMap<u32, &str>, matches: &BTreeMap<u32, Match>) {
        let doubtful = |by: By| -> Vec<String> {
            let these = matches.iter().filter(|(_, found)| found.by == by);
            these
                .map(|(label, found)| {
                    format!(
                        "`{}` as {}",
                        printable(folders[label]),
                        self.mention(found.class as usize)
                    )
                })
                .collect()
        };
        let all = |doubts: &[String]| listed(doubts.iter().map(String::as_str), doubts.len());
        let alike = doubtful(By::Likeness);
        if !alike.is_empty() {
            log::warn!(
                "class folders are taken by likeness of their names: {}",
                all(&alike)
            );
        }
        let numbered = doubtful(By::Number);
        let from_one = matches.values().all(|found| found.class != 0);
        if !numbered.is_empty() && (self.names.is_some() || from_one) {
            log::warn!(
                "class folders are taken by their numbers, of which the first is 0: {}",
                all(&numbered)
            );
        }
        let placed = doubtful(By::Place);
        if !placed.is_empty() {
            log::warn!(
                "the network's classes have no names, so class folders are taken in alphabetical order: {}; --classes \
                 NAMES.TXT names them",
                all(&placed)
            );
        }
        let missing = self.missing(matches);
        if !missing.is_empty() {
            log::warn!("no images of {}", quoted(&missing));
        }
    }
}

/// The class that a folder is, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Match {
    class: u32,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Name,
    /// The same letters and digits.
    Likeness,
    Number,
    Place,
}

/// The folders whose names are those of classes: the same, the WordNet identifier before it, or one that has the same
/// letters and digits and is the only such.
fn by_name(folders: &BTreeMap<u32, &str>, names: &[String]) -> BTreeMap<u32, Match> {
    let mut exact: HashMap<&str, u32> = HashMap::new();
    let identifiers: Option<Vec<&str>> = names.iter().map(|name| wordnet(name)).collect();
    exact.extend(identifiers.into_iter().flatten().zip(0..));
    exact.extend(names.iter().map(String::as_str).zip(0..));
    let mut matches = BTreeMap::new();
    for (&label, folder) in folders {
        if let Some(&class) = exact.get(folder) {
            matches.insert(
                label,
                Match {
                    class,
                    by: By::Name,
                },
            );
        }
    }
    let taken: BTreeSet<u32> = matches.values().map(|found| found.class).collect();
    let mut alike: HashMap<String, Vec<u32>> = HashMap::new();
    for (class, name) in (0..).zip(names) {
        alike.entry(letters(name)).or_default().push(class);
    }
    let mut guesses: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&label, folder) in folders
        .iter()
        .filter(|(label, _)| !matches.contains_key(label))
    {
        let letters = letters(folder);
        if let (false, Some([class])) =
            (letters.is_empty(), alike.get(&letters).map(|all| &all[..]))
        {
            guesses.entry(*class).or_default().push(label);
        }
    }
    for (class, labels) in guesses {
        if let ([label], false) = (&labels[..], taken.contains(&class)) {
            matches.insert(
                *label,
                Match {
                    class,
                    by: By::Likeness,
                },
            );
        }
    }
    matches
}

/// `n01440764` of `n01440764 tench`.
fn wordnet(name: &str) -> Option<&str> {
    let first = name.split_whitespace().next()?;
    let digits = first.strip_prefix('n')?;
    (digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(first)
}

/// `t shirt top` of `T-shirt/top`.
fn letters(name: &str) -> String {
    let lower = name.to_lowercase();
    let words = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Classes {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Classes {
            count: names.len(),
            names: Some(ClassNames::new(names).unwrap()),
        }
    }

    fn unnamed(count: usize) -> Classes {
        Classes { names: None, count }
    }

    fn classes(network: &Classes, folders: &[&str], map: &[(&str, &str)]) -> Result<Vec<u32>> {
        let folders: BTreeMap<u32, &str> = (0..).zip(folders.iter().copied()).collect();
        let map: Vec<_> = map
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        let matches = network.matches(&folders, folders.len(), &map)?;
        Ok(matches.values().map(|found| found.class).collect())
    }

    fn error(network: &Classes, folders: &[&str], map: &[(&str, &str)]) -> String {
        format!("{:#}", classes(network, folders, map).unwrap_err())
    }

    #[test]
    fn names_decide_and_not_places() {
        let network = named(&["zebra", "T-shirt/top", "ant"]);
        assert_eq!(classes(&network, &["ant", "zebra"], &[]).unwrap(), [2, 0]);
        assert_eq!(
            classes(&network, &["ant", "t_shirt top"], &[]).unwrap(),
            [2, 1]
        );
        let map = [("a", "zebra"), ("b", "zebra"), ("c", "2")];
        assert_eq!(
            classes(&network, &["a", "b", "c"], &map).unwrap(),
            [0, 0, 2]
        );
        let refused = error(&network, &["ant", "shirt"], &[]);
        assert!(refused.contains("called `shirt`"), "{refused}");
        assert!(
            refused.contains("without a folder are `zebra`, `T-shirt/top`;"),
            "{refused}"
        );
        assert!(error(&network, &["a"], &[("a", "cow")]).contains("no class `cow`"));
        assert!(error(&network, &["a"], &[("b", "ant")]).contains("no class folder `b`"));
    }

    #[test]
    fn likeness_that_fits_two_is_none() {
        let network = named(&["c++", "c#", "rust"]);
        assert!(error(&network, &["c", "rust"], &[]).contains("called `c`"));
        let network = named(&["red fox", "cat"]);
        assert!(error(&network, &["red_fox", "Red-Fox"], &[]).contains("`red_fox`, `Red-Fox`"));
        let network = named(&["+", "-"]);
        assert!(error(&network, &["*"], &[]).contains("called `*`"));
    }

    #[test]
    fn wordnet_identifiers_are_names() {
        let network = named(&["n01443537 goldfish", "n01440764 tench, Tinca tinca"]);
        assert_eq!(
            classes(&network, &["n01440764", "n01443537"], &[]).unwrap(),
            [1, 0]
        );
        assert!(error(&network, &["n00000000"], &[]).contains("`n00000000`"));
    }

    #[test]
    fn numbers_are_classes_where_no_names_say_otherwise() {
        let folders = ["0", "10", "2"];
        assert_eq!(classes(&unnamed(11), &folders, &[]).unwrap(), [0, 10, 2]);
        assert!(error(&unnamed(10), &folders, &[]).contains("`10` is no class"));
        let network = named(&["cat", "dog", "fox"]);
        assert_eq!(classes(&network, &["0", "2"], &[]).unwrap(), [0, 2]);
        assert!(error(&network, &["1", "2", "3"], &[]).contains("`3` is no class"));
        // Names that are numbers: by name, so that they need not start at 0.
        let network = named(&["1", "2", "3"]);
        assert_eq!(classes(&network, &["1", "2", "3"], &[]).unwrap(), [0, 1, 2]);
        assert!(error(&network, &["0", "1"], &[]).contains("called `0`"));
    }

    #[test]
    fn places_need_as_many_folders_as_classes() {
        assert_eq!(classes(&unnamed(2), &["cat", "dog"], &[]).unwrap(), [0, 1]);
        let refused = error(&unnamed(1000), &["cat", "dog"], &[]);
        assert!(
            refused.contains("2 classes, `cat`, `dog`, and the network has 1000"),
            "{refused}"
        );
    }

    #[test]
    fn messages_have_no_control_characters() {
        let refused = error(&named(&["a", "b"]), &["x\u{1b}[31m\ny"], &[]);
        assert!(!refused.chars().any(char::is_control), "{refused:?}");
    }
}
