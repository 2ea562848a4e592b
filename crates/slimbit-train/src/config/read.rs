use std::fs;
use std::path::Path;

use toml::{Table, Value};

use super::{TrainConfig, recipes};
use crate::TrainError;

impl TrainConfig {
    /// Reads a TOML file and lays `key=value` overrides over it.
    ///
    /// # Errors
    /// [`TrainError::Io`] where the file cannot be read; otherwise as [`TrainConfig::from_toml`].
    pub fn load(path: &Path, overrides: &[impl AsRef<str>]) -> Result<Self, TrainError> {
        let text = fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
        read(&path.display().to_string(), &text, overrides)
    }

    /// Reads TOML text and lays `key=value` overrides with dotted keys over it. What neither names has the value of
    /// the recipe.
    ///
    /// # Errors
    /// [`TrainError::UnknownKey`] with the nearest existing key, [`TrainError::ConfigSyntax`], and what
    /// [`TrainConfig::validate`] finds.
    pub fn from_toml(text: &str, overrides: &[impl AsRef<str>]) -> Result<Self, TrainError> {
        read("config", text, overrides)
    }

    /// Every setting as TOML; [`TrainConfig::from_toml`] reads it back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("settings hold nothing that TOML cannot")
    }
}

fn read(
    origin: &str,
    text: &str,
    overrides: &[impl AsRef<str>],
) -> Result<TrainConfig, TrainError> {
    let config = settle(asked(origin, text, overrides)?)?;
    config.validate()?;
    Ok(config)
}

/// What a file and overrides ask for, with keys that all exist.
pub(crate) fn asked(
    origin: &str,
    text: &str,
    overrides: &[impl AsRef<str>],
) -> Result<Table, TrainError> {
    let syntax = |what: String| TrainError::ConfigSyntax {
        origin: origin.to_owned(),
        what,
    };
    let file: Table = text
        .parse()
        .map_err(|e: toml::de::Error| syntax(one_line(&e.to_string())))?;
    let known = table_of(&TrainConfig::default());
    check_keys(origin, &file, &known, "")?;

    let mut asked = file;
    for text in overrides {
        apply(&mut asked, text.as_ref(), &known)?;
    }
    Ok(asked)
}

/// Every setting, where `asked` says some: its recipe gives the others. Values are not validated.
pub(crate) fn settle(asked: Table) -> Result<TrainConfig, TrainError> {
    let mut settings = table_of(&TrainConfig::default());
    lay_recipes(&mut settings, &asked, MOST_BASES)?;
    overlay(&mut settings, asked);
    serde_path_to_error::deserialize(Value::Table(settings))
        .map_err(|e| TrainError::value(e.path().to_string(), spelt(e.inner().message())))
}

/// Recipes that may be laid over one another.
const MOST_BASES: usize = 8;

/// Lays the recipe that `asked` names over `settings`, and before it the ones that it is laid over itself.
fn lay_recipes(settings: &mut Table, asked: &Table, left: usize) -> Result<(), TrainError> {
    let name = match asked.get("recipe") {
        None => return Ok(()),
        Some(Value::String(name)) => name,
        Some(other) => {
            return Err(TrainError::value(
                "recipe",
                format!("{other} is not a name"),
            ));
        }
    };
    if left == 0 {
        return Err(TrainError::value(
            "recipe",
            format!("`{name}` is laid over itself"),
        ));
    }
    let recipe: Table =
        recipes::text(name)?
            .parse()
            .map_err(|e: toml::de::Error| TrainError::ConfigSyntax {
                origin: format!("recipe {name}"),
                what: one_line(&e.to_string()),
            })?;
    check_keys(&format!("recipe {name}"), &recipe, settings, "")?;
    lay_recipes(settings, &recipe, left - 1)?;
    overlay(settings, recipe);
    Ok(())
}

fn table_of(config: &TrainConfig) -> Table {
    Table::try_from(config).expect("settings hold nothing that TOML cannot")
}

/// A parser's message without the drawing of the place, which spans lines.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What `serde` says of a value, without the names of Rust's types.
fn spelt(message: &str) -> String {
    let message = one_line(message);
    let Some((what, wanted)) = message.rsplit_once("expected ") else {
        return message;
    };
    let wanted = match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "path string" | "a string" => "text in quotes",
        other => other,
    };
    let what = what.replace("floating point", "number");
    let what = what
        .trim_start_matches("invalid type: ")
        .trim_start_matches("invalid value: ")
        .trim_end_matches(", ");
    format!("{what}; expected {wanted}")
}

fn check_keys(origin: &str, asked: &Table, known: &Table, prefix: &str) -> Result<(), TrainError> {
    for (key, value) in asked {
        let path = format!("{prefix}{key}");
        match (known.get(key), value) {
            (None, _) => return Err(unknown(origin, path)),
            (Some(Value::Table(known)), Value::Table(value)) => {
                check_keys(origin, value, known, &format!("{path}."))?;
            }
            (Some(Value::Table(_)), _) => {
                return Err(TrainError::value(
                    path,
                    format!("{value} is not a table of settings"),
                ));
            }
            (Some(_), _) => {}
        }
    }
    Ok(())
}

/// Sets one `dotted.key=value`. A value that is not TOML, or that stands where text is wanted, is taken as text.
fn apply(asked: &mut Table, text: &str, known: &Table) -> Result<(), TrainError> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(TrainError::ConfigSyntax {
            origin: "override".to_owned(),
            what: format!("`{text}` is not of the form key=value"),
        });
    };
    let (key, value) = (key.trim(), value.trim());
    let default = lookup(known, key).ok_or_else(|| unknown("override", key.to_owned()))?;
    let text_value = || Value::String(value.trim_matches('"').to_owned());
    let value = match value.parse::<Value>() {
        _ if default.is_str() => text_value(),
        Ok(value) => value,
        Err(_) => text_value(),
    };
    if default.is_table() {
        return Err(TrainError::value(key, "is a table; set one of its entries"));
    }
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or(key);
    let mut table = asked;
    for part in path {
        let entry = table
            .entry(part)
            .or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = entry else {
            return Err(TrainError::value(
                key,
                format!("`{part}` is not a table of settings"),
            ));
        };
        table = inner;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

/// The value of a dotted key.
pub(crate) fn lookup<'a>(known: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = known.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_table()?.get(part))
}

pub(crate) fn overlay(settings: &mut Table, asked: Table) {
    for (key, value) in asked {
        match (settings.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => overlay(inner, value),
            (_, value) => {
                settings.insert(key, value);
            }
        }
    }
}

fn unknown(origin: &str, key: String) -> TrainError {
    let mut keys = Vec::new();
    collect_keys(&table_of(&TrainConfig::default()), "", &mut keys);
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let nearest = keys
        .into_iter()
        .map(|known| {
            // A right name in the wrong place counts as one mistake.
            let moved = strsim::damerau_levenshtein(&last(&key), &last(&known)) + 1;
            (strsim::damerau_levenshtein(&key, &known).min(moved), known)
        })
        .min();
    let tolerated = 1 + last(&key).chars().count() / 3;
    let nearest = nearest
        .filter(|(distance, _)| *distance <= tolerated)
        .map(|(_, known)| known);
    TrainError::UnknownKey {
        origin: origin.to_owned(),
        key,
        nearest,
    }
}

fn collect_keys(table: &Table, prefix: &str, keys: &mut Vec<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        if let Value::Table(inner) = value {
            collect_keys(inner, &format!("{path}."), keys);
        }
        keys.push(path);
    }
}

#[cfg(test)]
mod tests {
    use slimbit_graph::backbones;

    use super::*;
    use crate::config::{Course, Loss};

    const NONE: &[&str] = &[];

    #[test]
    fn every_recipe_is_valid_and_survives_toml() {
        for recipe in recipes::names() {
            let config = TrainConfig::recipe(&recipe).unwrap();
            assert_eq!(config.recipe, recipe);
            assert!(!recipes::summary(&recipe).unwrap().is_empty());
            let (backbone, input) = (&config.model.backbone, &config.preprocess);
            let [c, h, w] = [input.channels, input.height, input.width];
            let graph = backbones::by_name(backbone, c, h, w, None).unwrap();
            let stages = graph.stages().unwrap();
            for map in &config.objective.maps {
                assert!(
                    stages.iter().any(|stage| stage.name == *map),
                    "{recipe}: {map}"
                );
            }
            assert_eq!(
                TrainConfig::from_toml(&config.to_toml(), NONE).unwrap(),
                config
            );
        }
    }

    #[test]
    fn the_file_is_laid_over_the_recipe_and_overrides_over_the_file() {
        let text = "recipe = \"ssql/resnet18-cifar10-byol\"\n[optim]\nlr = 0.2\n[objective]\nbase_loss = \"infonce\"\nhead = \"none\"";
        let overrides = [
            "optim.lr=0.1",
            "objective.widths.schedule=static",
            "data.path = a b/c",
        ];
        let config = TrainConfig::from_toml(text, &overrides).unwrap();
        assert_eq!(config.optim.lr, 0.1);
        assert_eq!(config.optim.weight_decay, 5e-4);
        assert_eq!(config.objective.base_loss, Loss::InfoNce);
        assert_eq!(config.objective.widths.schedule, Course::Static);
        assert_eq!(config.data.path, Path::new("a b/c"));
    }

    #[test]
    fn an_override_may_name_the_recipe_and_text_that_looks_like_a_number() {
        let config =
            TrainConfig::from_toml("", &["recipe=us3l/resnet18-cifar100", "data.path=2024"])
                .unwrap();
        assert_eq!(config.recipe, "us3l/resnet18-cifar100");
        assert_eq!(config.data.path, Path::new("2024"));
    }

    #[test]
    fn mistakes_are_named_where_they_are() {
        for (text, overrides, message) in [
            (
                "epoch = 3",
                NONE,
                "config: there is no setting `epoch`; did you mean `epochs`?",
            ),
            (
                "lr = 0.1",
                NONE,
                "config: there is no setting `lr`; did you mean `optim.lr`?",
            ),
            (
                "[objective.bits]\nwieght = [2, 8]",
                NONE,
                "config: there is no setting `objective.bits.wieght`; did you mean `objective.bits.weight`?",
            ),
            ("zebra = 1", NONE, "config: there is no setting `zebra`"),
            (
                "optim = 3",
                NONE,
                "setting `optim`: 3 is not a table of settings",
            ),
            (
                "",
                &["optim.learning=1"],
                "override: there is no setting `optim.learning`",
            ),
            (
                "",
                &["epochs"],
                "override: `epochs` is not of the form key=value",
            ),
            (
                "",
                &["optim=1"],
                "setting `optim`: is a table; set one of its entries",
            ),
            (
                "epochs = \"ten\"",
                NONE,
                "setting `epochs`: string \"ten\"; expected a whole number of at least 0",
            ),
        ] {
            let error = TrainConfig::from_toml(text, overrides).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = TrainConfig::from_toml("epochs = = 3", NONE)
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 1"), "{error}");
        let error = TrainConfig::from_toml("", &["objective.base_loss=hinge"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("objective.base_loss") && error.contains("infonce"),
            "{error}"
        );
        let error = TrainConfig::from_toml("recipe = \"us4l/resnet18-cifar100\"", NONE)
            .unwrap_err()
            .to_string();
        assert!(error.contains("us3l"), "{error}");
    }
}
