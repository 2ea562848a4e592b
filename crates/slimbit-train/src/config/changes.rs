//! In what two settings differ, and what of that a run may change once it has begun.

use std::fmt;

use toml::{Table, Value};

use super::TrainConfig;
use crate::TrainError;

/// Settings that a run may change when it is resumed, for messages.
pub(crate) const CHANGEABLE: &str = "epochs, workers, data.path, run.* and watch.*";

/// A setting of which two configurations have different values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) before: Value,
    pub(crate) after: Value,
}

impl Change {
    /// Whether a run that has begun may go on with it.
    pub(crate) fn is_allowed(&self) -> bool {
        matches!(self.key.as_str(), "epochs" | "workers" | "data.path")
            || ["run.", "watch."]
                .iter()
                .any(|table| self.key.starts_with(table))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, after } = self;
        write!(f, "{key} = {before} before, {after} now")
    }
}

impl TrainConfig {
    /// These settings with `key=value` overrides laid over them.
    ///
    /// # Errors
    /// As [`TrainConfig::from_toml`].
    pub(crate) fn with(&self, overrides: &[String]) -> Result<Self, TrainError> {
        Self::from_toml(&self.to_toml(), overrides)
    }

    /// The settings that differ from those of `before`.
    pub(crate) fn changes_since(&self, before: &Self) -> Vec<Change> {
        let table = |config: &Self| {
            Table::try_from(config).expect("settings hold nothing that TOML cannot")
        };
        let mut changes = Vec::new();
        compare(&table(before), &table(self), "", &mut changes);
        changes
    }
}

fn compare(before: &Table, after: &Table, prefix: &str, changes: &mut Vec<Change>) {
    for (key, after) in after {
        let path = format!("{prefix}{key}");
        match (before.get(key), after) {
            (Some(Value::Table(before)), Value::Table(after)) => {
                compare(before, after, &format!("{path}."), changes);
            }
            (Some(before), after) if before != after => changes.push(Change {
                key: path,
                before: before.clone(),
                after: after.clone(),
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_key_and_those_of_the_method_are_not_allowed() {
        let before = TrainConfig::default();
        let overrides = ["epochs=9", "watch.window=3", "run.keep=4", "optim.lr=0.1"];
        let after = before.with(&overrides.map(str::to_owned)).unwrap();
        let changes = after.changes_since(&before);
        let keys: Vec<(&str, bool)> = changes
            .iter()
            .map(|change| (change.key.as_str(), change.is_allowed()))
            .collect();
        let expected = [
            ("epochs", true),
            ("optim.lr", false),
            ("run.keep", true),
            ("watch.window", true),
        ];
        assert_eq!(keys, expected);
        assert_eq!(changes[1].to_string(), "optim.lr = 0.5 before, 0.1 now");
    }
}
