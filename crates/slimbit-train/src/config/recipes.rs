//! Recipes: named settings, one TOML file each, embedded in the program.
//!
//! A recipe is laid over the one that its own `recipe` key names, down to the [defaults](TrainConfig::default). The
//! folder is the method, the file the network and the data: `ssql/resnet18-cifar10`.

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
/// [`TrainError::ConfigValue`] for a name that is none, with the nearest one.
pub fn text(name: &str) -> Result<&'static str, TrainError> {
    let file = FILES.get_file(format!("{name}.toml"));
    file.and_then(|file| file.contents_utf8()).ok_or_else(|| {
        let distance = |known: &String| strsim::damerau_levenshtein(name, known);
        let nearest = names().into_iter().min_by_key(distance).unwrap_or_default();
        let what = format!(
            "there is no recipe `{name}`; did you mean `{nearest}`? (`slimbit recipes` lists them)"
        );
        TrainError::value("recipe", what)
    })
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
