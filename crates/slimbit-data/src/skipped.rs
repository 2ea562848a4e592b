//! What is left out of a dataset, and how a user hears of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::printable;

/// Names that a warning gives before it only counts.
const NAMED: usize = 3;

/// Reasons that a warning gives before it only counts.
const GROUPS: usize = 6;

/// Damaged pictures that are reported one by one before they are only counted.
const REPORTED: usize = 5;

/// A picture or folder that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why it is left out.
    pub reason: String,
}

impl Skipped {
    pub(crate) fn new(path: PathBuf, reason: impl Into<String>) -> Self {
        Skipped {
            path,
            reason: reason.into(),
        }
    }
}

/// What is left out so far, and how much of it was reported.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    reasons: BTreeMap<PathBuf, String>,
    found_late: usize,
}

impl Damage {
    /// What was left out at opening.
    pub(crate) fn new(skipped: Vec<Skipped>) -> Self {
        let reasons = skipped.into_iter().map(|found| (found.path, found.reason));
        Damage {
            reasons: reasons.collect(),
            found_late: 0,
        }
    }

    /// A picture turned out to be damaged when it was decoded.
    pub(crate) fn add(&mut self, path: &Path, reason: &str) {
        if self.reasons.insert(path.into(), reason.into()).is_some() {
            return;
        }
        self.found_late += 1;
        let name = printable(path);
        match self.found_late {
            1..REPORTED => log::warn!("skipping {name}: {reason}"),
            REPORTED => {
                log::warn!("skipping {name}: {reason}; further ones are only shown with -v");
            }
            _ => log::info!("skipping {name}: {reason}"),
        }
    }

    pub(crate) fn list(&self) -> Vec<Skipped> {
        let all = self.reasons.iter();
        all.map(|(path, reason)| Skipped::new(path.clone(), reason.as_str()))
            .collect()
    }
}

/// What is left out below a folder by reason, the first of each by name: "a.jpg and b.jpg (outside the
/// class folders)".
pub(crate) fn summary(folder: &Path, skipped: &[Skipped]) -> String {
    let mut groups: Vec<(&str, Vec<&Path>)> = Vec::new();
    for Skipped { path, reason } in skipped {
        let path = path.strip_prefix(folder).unwrap_or(path);
        match groups.iter_mut().find(|(known, _)| known == reason) {
            Some((_, paths)) => paths.push(path),
            None => groups.push((reason, vec![path])),
        }
    }
    groups.sort_by_key(|(_, paths)| std::cmp::Reverse(paths.len()));
    let named = groups.iter().take(GROUPS);
    let mut texts: Vec<String> = named
        .map(|(reason, paths)| format!("{} ({reason})", names(paths.iter().copied())))
        .collect();
    let others = groups.iter().skip(GROUPS);
    let more: usize = others.map(|(_, paths)| paths.len()).sum();
    if more > 0 {
        texts.push(format!("and {more} for other reasons"));
    }
    texts.join("; ")
}

/// The first few names, and how many more there are.
pub(crate) fn names<'a>(paths: impl ExactSizeIterator<Item = &'a Path>) -> String {
    let more = paths.len().saturating_sub(NAMED);
    let named: Vec<_> = paths.take(NAMED).map(printable).collect();
    match more {
        0 => match named.split_last() {
            Some((last, [])) => last.to_string(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        },
        _ => format!("{} and {more} more", named.join(", ")),
    }
}

/// `1 file`, `2 files`.
pub(crate) fn files(count: usize) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

/// Warns once of all that opening a folder left out.
pub(crate) fn report(folder: &Path, skipped: &[Skipped], empty: &[PathBuf]) {
    if !skipped.is_empty() {
        log::warn!(
            "{}: {} left out: {}",
            printable(folder),
            files(skipped.len()),
            summary(folder, skipped)
        );
        for Skipped { path, reason } in skipped {
            log::info!("left out {}: {reason}", printable(path));
        }
    }
    if !empty.is_empty() {
        let below = empty
            .iter()
            .map(|path| path.strip_prefix(folder).unwrap_or(path));
        log::warn!(
            "{}: no images in {}; a folder without images is no class",
            printable(folder),
            names(below)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_grouped_and_names_are_few() {
        let mut skipped: Vec<Skipped> = (0..5)
            .map(|i| Skipped::new(format!("p/{i}.jpg").into(), "outside the class folders"))
            .collect();
        skipped.insert(1, Skipped::new("p/a\nb.png".into(), "truncated"));
        assert_eq!(
            summary(Path::new("p"), &skipped),
            "0.jpg, 1.jpg, 2.jpg and 2 more (outside the class folders); a\\nb.png (truncated)"
        );
        for index in 0..7 {
            skipped.push(Skipped::new("x".into(), format!("odd {index}")));
        }
        assert!(summary(Path::new("p"), &skipped).ends_with("; and 3 for other reasons"));
    }
}
