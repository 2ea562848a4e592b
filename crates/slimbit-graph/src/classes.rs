//! What a classifier's logits are called.

use std::collections::{BTreeMap, HashMap};

use crate::{Graph, GraphError, Shape, Width};

/// The output whose largest value says which class an image shows.
pub const LOGITS: &str = "logits";

/// The names of a classifier's classes, in the order of its logits: at least one, each of its own,
/// none of them blank.
///
/// Float network files and `.slim` files carry them as a JSON list of strings under the metadata key
/// [`ClassNames::KEY`].
///
/// ```
/// use slimbit_graph::ClassNames;
///
/// let names = ClassNames::parse("cat\ndog\n")?;
/// assert_eq!(names.names(), ["cat", "dog"]);
/// assert_eq!(names, ClassNames::parse(&names.to_json())?);
/// assert!(ClassNames::parse("cat\ncat\n").is_err());
/// # Ok::<(), slimbit_graph::GraphError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames(Vec<String>);

impl ClassNames {
    /// The metadata key under which a file carries its class names.
    pub const KEY: &'static str = "classes";

    /// Takes names in the order of the logits.
    ///
    /// # Errors
    /// [`GraphError::Classes`] where there are none, one is blank, or two are equal.
    pub fn new(names: Vec<String>) -> Result<Self, GraphError> {
        if names.is_empty() {
            return Err(refuse("there are none; give one for every logit"));
        }
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (class, name) in names.iter().enumerate() {
            if name.trim().is_empty() {
                return Err(refuse(format!("that of class {class} is blank")));
            }
            if let Some(first) = seen.insert(name, class) {
                return Err(refuse(format!(
                    "`{}` names both class {first} and class {class}; give each class a name of its own, such as `{} \
                     ({class})`",
                    name.escape_debug(),
                    name.escape_debug()
                )));
            }
        }
        Ok(Self(names))
    }

    /// Reads a list of names: one a line, or a JSON list of strings. Lines are taken as they are, but
    /// for spaces at their ends; blank lines may only follow the last name.
    ///
    /// # Errors
    /// [`GraphError::Classes`], naming the line, and as [`ClassNames::new`].
    pub fn parse(text: &str) -> Result<Self, GraphError> {
        let text = text.trim_start_matches('\u{feff}');
        if text.trim_start().starts_with(['[', '{']) {
            let names = serde_json::from_str(text).map_err(|error| {
                refuse(format!(
                    "expected a JSON list of strings in the order of the logits, or one name a line: {error}"
                ))
            })?;
            return Self::new(names);
        }
        let lines: Vec<&str> = text.trim_end().lines().map(str::trim).collect();
        if let Some(blank) = lines.iter().position(|line| line.is_empty()) {
            return Err(refuse(format!(
                "line {} is blank, so it is not clear which logit the names below it belong to",
                blank + 1
            )));
        }
        Self::new(lines.into_iter().map(str::to_owned).collect())
    }

    /// The names that a file's metadata carry, if any.
    ///
    /// # Errors
    /// [`GraphError::Classes`] where they cannot be read, or are not as many as the graph has logits.
    pub fn of_metadata(
        metadata: &BTreeMap<String, String>,
        graph: &Graph,
    ) -> Result<Option<Self>, GraphError> {
        let Some(text) = metadata.get(Self::KEY) else {
            return Ok(None);
        };
        let names: Vec<String> = serde_json::from_str(text).map_err(|error| {
            refuse(format!(
                "expected a JSON list of strings in the metadata: {error}"
            ))
        })?;
        let names = Self::new(names)?;
        names.check(graph)?;
        Ok(Some(names))
    }

    /// Checks that the graph has as many logits as there are names.
    ///
    /// # Errors
    /// [`GraphError::Classes`].
    pub fn check(&self, graph: &Graph) -> Result<(), GraphError> {
        match graph.classes()? {
            Some(logits) if logits == self.len() => Ok(()),
            Some(logits) => Err(refuse(format!(
                "there are {} for {logits} logits; give one for every logit",
                self.len()
            ))),
            None => Err(refuse(format!(
                "there are {}, but the network has no vector `{LOGITS}` that they could name",
                self.len()
            ))),
        }
    }

    /// The names, in the order of the logits.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// How many there are; never none.
    #[allow(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// As files carry them.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.0).expect("a list of strings is JSON")
    }
}

impl Graph {
    /// The number of classes of a network that ends in a classifier: the length of its output
    /// [`LOGITS`]. Nothing where it has none, or where that output is a map.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn classes(&self) -> Result<Option<usize>, GraphError> {
        if !self.outputs().iter().any(|(name, _)| name == LOGITS) {
            return Ok(None);
        }
        Ok(match self.output_shape(LOGITS, Width::FULL)? {
            Shape::Vector { channels } => Some(channels),
            Shape::Map { .. } => None,
        })
    }
}

fn refuse(what: impl Into<String>) -> GraphError {
    GraphError::Classes(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbones;

    fn refused(text: &str) -> String {
        ClassNames::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_taken_as_they_are() {
        let names =
            ClassNames::parse("\u{feff}n01440764 tench, Tinca tinca\r\n  T-shirt/top \n\n\n");
        assert_eq!(
            names.unwrap().names(),
            ["n01440764 tench, Tinca tinca", "T-shirt/top"]
        );
        let list = ClassNames::parse(" [\"a b\", \"c\\nd\"]\n").unwrap();
        assert_eq!(list.names(), ["a b", "c\nd"]);
    }

    #[test]
    fn lists_that_leave_a_doubt_are_refused() {
        for (text, part) in [
            ("", "there are none"),
            ("\n \n", "there are none"),
            ("cat\n\ndog\n", "line 2 is blank"),
            (
                "crane\ncat\ncrane\n",
                "`crane` names both class 0 and class 2",
            ),
            ("[\"a\", \" \"]", "that of class 1 is blank"),
            ("[\"a\", 3]", "JSON list of strings"),
            ("{\"0\": \"cat\"}", "JSON list of strings"),
        ] {
            assert!(refused(text).contains(part), "{text:?}: {}", refused(text));
        }
    }

    #[test]
    fn names_must_be_as_many_as_logits() {
        let graph = |classes| backbones::by_name("resnet8", 3, 32, 32, classes).unwrap();
        let names = ClassNames::parse("a\nb\nc\n").unwrap();
        names.check(&graph(Some(3))).unwrap();
        let error = |classes| names.check(&graph(classes)).unwrap_err().to_string();
        assert!(error(Some(4)).contains("3 for 4 logits"));
        assert!(error(None).contains("no vector `logits`"));
        let mut metadata = BTreeMap::new();
        assert_eq!(
            ClassNames::of_metadata(&metadata, &graph(Some(3))),
            Ok(None)
        );
        metadata.insert("classes".to_owned(), names.to_json());
        assert_eq!(
            ClassNames::of_metadata(&metadata, &graph(Some(3))),
            Ok(Some(names))
        );
        assert!(ClassNames::of_metadata(&metadata, &graph(Some(2))).is_err());
    }
}
