//! What the settings mean, as a JSON schema and as comments: both are the documentation comments of the settings.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::TrainConfig;

/// Columns of a comment.
const COLUMNS: usize = 100;

impl TrainConfig {
    /// The JSON schema of a settings file: every key with its meaning, its values and its default. No key is required.
    pub fn schema() -> Value {
        let mut settings = SchemaSettings::draft2020_12();
        settings.inline_subschemas = true;
        let schema = settings.into_generator().into_root_schema_for::<Self>();
        let mut schema = Value::from(schema);
        let defaults = serde_json::to_value(Self::default()).expect("settings are JSON");
        complete(&mut schema, &defaults);
        schema
    }

    /// Every setting as TOML, each below a comment that says what it means. [`TrainConfig::from_toml`] reads it back.
    pub fn to_commented_toml(&self) -> String {
        let schema = Self::schema();
        let mut text = String::new();
        let mut path: Vec<String> = Vec::new();
        for line in self.to_toml().lines() {
            let mut at = path.clone();
            if let Some(table) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                path = table.split('.').map(str::to_owned).collect();
                at.clone_from(&path);
            } else if let Some((key, _)) = line.split_once(" = ") {
                at.push(key.to_owned());
            } else {
                text += line;
                text.push('\n');
                continue;
            }
            if let Some(meaning) = find(&schema, &at).map(meaning) {
                comment(&meaning, &mut text);
            }
            text += line;
            text.push('\n');
        }
        text
    }
}

/// Adds defaults, takes away that keys are required, and writes links of the documentation as plain names.
fn complete(schema: &mut Value, default: &Value) {
    let Value::Object(object) = schema else {
        return;
    };
    object.remove("required");
    plain(object);
    match (object.get_mut("properties"), default) {
        (Some(Value::Object(properties)), Value::Object(defaults)) => {
            for (key, property) in properties {
                complete(property, defaults.get(key).unwrap_or(&Value::Null));
            }
        }
        _ if !default.is_null() => {
            object.insert("default".to_owned(), default.clone());
        }
        _ => {}
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(Value::Array(alternatives)) = object.get_mut(key) {
            for alternative in alternatives {
                complete_alternative(alternative);
            }
        }
    }
}

fn complete_alternative(alternative: &mut Value) {
    if let Value::Object(object) = alternative {
        plain(object);
    }
}

fn plain(object: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = object.get("description") {
        let text = plain_text(text);
        object.insert("description".to_owned(), json!(text));
    }
}

/// Documentation without examples, and without the brackets and targets of its links, on one line.
fn plain_text(text: &str) -> String {
    let text: String = text.split("```").step_by(2).collect();
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("[`") {
        plain += &rest[..start];
        let inner = &rest[start + 1..];
        let Some(end) = inner.find("`]") else {
            rest = &rest[start..];
            break;
        };
        plain += &inner[..=end];
        rest = &inner[end + 2..];
        if let Some(target) = rest.strip_prefix('(')
            && let Some(end) = target.find(')')
        {
            rest = &target[end + 1..];
        }
    }
    plain += rest;
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn find<'a>(schema: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(schema, |schema, key| schema.get("properties")?.get(key))
}

/// A setting's description, and its values where they are words.
fn meaning(schema: &Value) -> String {
    let text = |schema: &Value| {
        let text = schema.get("description").and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let mut meaning = text(schema);
    let alternatives = schema.get("oneOf").and_then(Value::as_array);
    let words = alternatives.into_iter().flatten().flat_map(|alternative| {
        let several = alternative.get("enum").and_then(Value::as_array);
        let one = alternative.get("const");
        let names = several.into_iter().flatten().chain(one);
        let names: Vec<String> = names.map(Value::to_string).collect();
        let what = text(alternative);
        names.into_iter().map(move |name| match what.as_str() {
            "" => name,
            what => format!("{name}: {what}"),
        })
    });
    for word in words {
        meaning += "\n  ";
        meaning += &word;
    }
    meaning
}

fn comment(meaning: &str, text: &mut String) {
    for paragraph in meaning.lines().filter(|line| !line.trim().is_empty()) {
        let indent = &paragraph[..paragraph.len() - paragraph.trim_start().len()];
        let mut line = format!("# {indent}");
        let mut empty = true;
        for word in paragraph.split_whitespace() {
            if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
                *text += &line;
                text.push('\n');
                line = format!("# {indent}  ");
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line += word;
            empty = false;
        }
        *text += &line;
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    const NONE: &[&str] = &[];

    /// The paths of a table's keys and of those in its tables.
    fn keys(table: &Table, prefix: &str) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for (key, value) in table {
            let path = format!("{prefix}{key}");
            if let toml::Value::Table(inner) = value {
                found.extend(keys(inner, &format!("{path}.")));
            }
            found.push(path.split('.').map(str::to_owned).collect());
        }
        found
    }

    #[test]
    fn every_setting_has_a_meaning_and_a_place_in_the_schema() {
        let schema = TrainConfig::schema();
        let table = Table::try_from(TrainConfig::default()).unwrap();
        for path in keys(&table, "") {
            let at = path.join(".");
            let property = find(&schema, &path).unwrap_or_else(|| panic!("{at} is missing"));
            let meaning = meaning(property);
            assert!(!meaning.is_empty(), "{at} has no meaning");
            assert!(!meaning.contains("[`"), "{at}: {meaning}");
        }
        for table in [&schema, &schema["properties"]["optim"]] {
            assert!(table.get("required").is_none(), "{table:#}");
        }
        assert_eq!(schema["description"], "Every setting of a training run.");
        let loss = find(&schema, &["objective".to_owned(), "base_loss".to_owned()]).unwrap();
        assert_eq!(loss["default"], "infonce");
        assert!(
            meaning(loss).contains("\"cosine\": Negative cosine"),
            "{loss:#}"
        );
    }

    #[test]
    fn comments_change_nothing_that_is_read() {
        for recipe in ["combined/resnet18-cifar10", "ssql/resnet18-imagenet"] {
            let config = TrainConfig::recipe(recipe).unwrap();
            let text = config.to_commented_toml();
            assert_eq!(TrainConfig::from_toml(&text, NONE).unwrap(), config);
            let lines: Vec<&str> = text.lines().collect();
            let at = lines
                .iter()
                .position(|l| l.starts_with("epochs ="))
                .unwrap();
            assert_eq!(lines[at - 1], "# Passes over the training images.");
            assert!(lines.iter().all(|line| line.chars().count() <= 110));
        }
    }
}
