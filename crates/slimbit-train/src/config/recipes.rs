//! Recipes: named settings, one TOML file each, embedded in the program.
//!
//! A recipe is laid over the one that its own `recipe` key names, down to the [defaults](TrainConfig::default). The
//! folder is the method, the file the network and the data: `ssql/resnet18-cifar10`.

use std::collections::BTreeSet;

use include_dir::{Dir, DirEntry, include_dir};

use super::TrainConfig;
use crate::TrainError;

/// The recipe that the defaults are.
pub const DEFAULT: &str = "combined/resnet18-cifar10";

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/recipes");

/// The names of all recipes, in order.
pub fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![&FILES];
    while let Some(folder) = folders.pop() {
        for entry in folder.entries() {
            match entry {
                DirEntry::Dir(inner) => folders.push(inner),
                DirEntry::File(file) => names.extend(name_of(&file.path().display().to_string())),
            }
        }
    }
    names.sort();
    names
}

fn name_of(path: &str) -> Option<String> {
    path.strip_suffix(".toml").map(str::to_owned)
}

/// A recipe's TOML. Its first line is a comment that says what it is.
///
/// # Errors
/// [`TrainError::ConfigValue`] for a name that is none, with those that resemble it, or else the methods.
pub fn text(name: &str) -> Result<&'static str, TrainError> {
    let file = FILES.get_file(format!("{name}.toml"));
    file.and_then(|file| file.contents_utf8()).ok_or_else(|| {
        let similar = similar(name);
        let hint = match &similar[..] {
            [] => {
                let methods: BTreeSet<String> = names()
                    .iter()
                    .filter_map(|name| Some(name.split_once('/')?.0.to_owned()))
                    .collect();
                let methods: Vec<String> = methods.into_iter().collect();
                format!(
                    "recipes are called METHOD/NETWORK-DATA, and the methods are {}",
                    methods.join(", ")
                )
            }
            [one] => format!("did you mean `{one}`?"),
            several => format!("did you mean one of {}?", several.join(", ")),
        };
        let what = format!("there is no recipe `{name}`; {hint} (`slimbit recipes` lists them)");
        TrainError::value("recipe", what)
    })
}

/// Recipes that someone who wrote `name` may have meant: those it is a part of, or else those that few mistakes turn it
/// into, as a whole or in one of their two parts.
fn similar(name: &str) -> Vec<String> {
    let wanted = name.trim_matches('/').to_lowercase();
    let names = names();
    if wanted.is_empty() {
        return Vec::new();
    }
    let containing: Vec<String> = (names.iter().filter(|known| known.contains(&wanted)))
        .cloned()
        .collect();
    if !containing.is_empty() {
        return containing;
    }
    let distance = |known: &str| {
        let parts = known.split('/').chain([known]);
        let tolerated =
            |part: &&str| strsim::damerau_levenshtein(&wanted, part) <= part.chars().count() / 4;
        let near = parts.filter(tolerated);
        near.map(|part| strsim::damerau_levenshtein(&wanted, part))
            .min()
    };
    let near = names
        .iter()
        .filter_map(|known| Some((distance(known)?, known)));
    let near: Vec<(usize, &String)> = near.collect();
    let least = near.iter().map(|(distance, _)| *distance).min();
    let nearest = near.iter().filter(|(distance, _)| Some(*distance) == least);
    nearest.map(|(_, known)| (*known).clone()).collect()
}

/// What a recipe is, in a line.
///
/// # Errors
/// As [`text`].
pub fn summary(name: &str) -> Result<&'static str, TrainError> {
    let first = text(name)?.lines().next().unwrap_or_default();
    Ok(first.trim_start_matches('#').trim())
}

impl TrainConfig {
    /// The settings of a recipe.
    ///
    /// # Errors
    /// As [`text`].
    pub fn recipe(name: &str) -> Result<Self, TrainError> {
        Self::from_toml("", &[format!("recipe={name}")])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_answered_with_what_it_may_have_been() {
        let error = |name| text(name).unwrap_err().to_string();
        let told = error("us4l/resnet18-cifar100");
        assert!(
            told.contains("did you mean `us3l/resnet18-cifar100`?"),
            "{told}"
        );
        let told = error("ssql/resnet18");
        assert!(
            told.contains("one of ssql/resnet18-cifar10,") && !told.contains("us3l"),
            "{told}"
        );
        let told = error("simsaim");
        assert!(told.contains("simsiam/resnet20-cifar10"), "{told}");
        for nothing in ["foo", "", "zzzzzzzz/resnet"] {
            let told = error(nothing);
            assert!(
                told.contains("the methods are byol, combined,") && !told.contains("did you mean"),
                "{told}"
            );
        }
    }
}
