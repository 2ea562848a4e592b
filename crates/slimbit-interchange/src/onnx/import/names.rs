use std::collections::BTreeMap;

/// Longest name that is kept whole.
const LONGEST: usize = 160;

/// Names that have been given away, with the number to try next where one is wanted again: a file of
/// nodes of one name must not be counted through from 1 for each.
#[derive(Default)]
pub(super) struct Names(BTreeMap<String, usize>);

impl Names {
    /// `wanted` as a plain path, with a number behind it where that is taken.
    pub(super) fn unique(&mut self, wanted: &str) -> String {
        let plain = sanitise(wanted);
        let Some(&next) = self.0.get(&plain) else {
            self.0.insert(plain.clone(), 1);
            return plain;
        };
        let mut number = next;
        let mut name = format!("{plain}_{number}");
        while self.0.contains_key(&name) {
            number += 1;
            name = format!("{plain}_{number}");
        }
        self.0.insert(plain, number + 1);
        self.0.insert(name.clone(), 1);
        name
    }
}

/// `/layer1/conv1/Conv` to `layer1.conv1.Conv`: letters, digits, and `.`, `_`, `-` between them.
pub(super) fn sanitise(name: &str) -> String {
    let plain: String = name
        .chars()
        .take(LONGEST)
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' => c,
            '/' | '.' => '.',
            _ => '_',
        })
        .collect();
    match plain.trim_matches('.') {
        "" => "node".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_unique() {
        let mut names = Names::default();
        let given = ["/layer1/conv1/Conv", "layer1.conv1.Conv", "", "", "a:0 b"];
        let made: Vec<String> = given.iter().map(|name| names.unique(name)).collect();
        let expected = [
            "layer1.conv1.Conv",
            "layer1.conv1.Conv_1",
            "node",
            "node_1",
            "a_0_b",
        ];
        assert_eq!(made, expected);
    }
}
