//! A network's classes, and what they are called.

mod folders;

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use slimbit_data::printable;
use slimbit_graph::{ClassNames, Graph, LOGITS};

/// Largest list of names that is read, in bytes.
const LONGEST_LIST: u64 = 16 << 20;

/// Names that a message quotes of a longer list.
const QUOTED: usize = 8;

/// The classes of a network that has a classifier.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Classes {
    names: Option<ClassNames>,
    count: usize,
}

impl Classes {
    /// The classes of a network, by the names of `list` or else those in its own file.
    pub(super) fn of(
        graph: &Graph,
        in_file: Option<ClassNames>,
        list: Option<&Path>,
        file: &Path,
    ) -> Result<Self> {
        let count = classifier(graph, file)?;
        let names = match list {
            Some(list) => Some(read_names(list, graph)?),
            None => in_file,
        };
        Ok(Self { names, count })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Their names, if they have any.
    pub(super) fn names(&self) -> Option<&ClassNames> {
        self.names.as_ref()
    }

    /// What a class is called, or its number.
    pub(super) fn name(&self, class: usize) -> Cow<'_, str> {
        match &self.names {
            Some(names) => Cow::Borrowed(&names.names()[class]),
            None => Cow::Owned(class.to_string()),
        }
    }

    /// A class as a sentence mentions it.
    pub(super) fn mention(&self, class: usize) -> Cow<'_, str> {
        match &self.names {
            Some(names) => printable(&names.names()[class]),
            None => Cow::Owned(format!("class {class}")),
        }
    }
}

/// The number of classes, of a network that has a classifier.
fn classifier(graph: &Graph, file: &Path) -> Result<usize> {
    let file = file.display();
    match graph.classes()? {
        Some(1) => bail!(
            "{file} has one logit, which tells no classes apart: slimbit takes the largest of several logits for the class"
        ),
        Some(count) => Ok(count),
        None if graph.outputs().iter().any(|(name, _)| name == LOGITS) => {
            let shape = graph.output_shape(LOGITS, slimbit_graph::Width::FULL)?;
            bail!("{file} gives a map of logits, {shape}, and not a class for the whole image")
        }
        None => {
            let names: Vec<&str> = graph
                .outputs()
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            bail!(
                "{file} has no classifier: its outputs are {}, none of them `{LOGITS}`; `slimbit embed` writes feature \
                 vectors, `slimbit probe` judges them, and `slimbit finetune RUN --data LABELLED` trains a classifier, \
                 which `slimbit quantize` makes into a .slim file",
                quoted(&names)
            )
        }
    }
}

/// A list of class names, which must be as many as the graph has logits.
pub(super) fn read_names(list: &Path, graph: &Graph) -> Result<ClassNames> {
    let names = read_list(list)?;
    names
        .check(graph)
        .with_context(|| list.display().to_string())?;
    Ok(names)
}

/// A list of class names.
pub(super) fn read_list(list: &Path) -> Result<ClassNames> {
    let at = || list.display().to_string();
    let mut text = Vec::new();
    let file = File::open(list).with_context(at)?;
    file.take(LONGEST_LIST + 1)
        .read_to_end(&mut text)
        .with_context(at)?;
    ensure!(
        text.len() as u64 <= LONGEST_LIST,
        "{} is longer than {LONGEST_LIST} bytes, so it is no list of class names",
        list.display()
    );
    let text = String::from_utf8(text)
        .with_context(|| format!("{} is no UTF-8 text; save it as UTF-8", list.display()))?;
    ClassNames::parse(&text).with_context(at)
}

/// A few names between backquotes, and how many more there are.
pub(super) fn quoted(names: &[&str]) -> String {
    let quoted: Vec<String> = names
        .iter()
        .map(|name| format!("`{}`", printable(name)))
        .collect();
    listed(quoted.iter().map(String::as_str), quoted.len())
}

fn listed<'a>(items: impl Iterator<Item = &'a str>, count: usize) -> String {
    let mut text = items.take(QUOTED).collect::<Vec<_>>().join(", ");
    if count > QUOTED {
        text += &format!(" and {} more", count - QUOTED);
    }
    text
}
