//! Mutations of valid settings: whatever they say, the answer is settings or an error, never a panic.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_train::TrainConfig;

const NONE: &[&str] = &[];

/// What a hand slips in: brackets, quotes, numbers at the edge of their types, letters outside ASCII.
const FRAGMENTS: [&str; 24] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "=",
    ".",
    "\n",
    "#",
    "-",
    "[[",
    "]]",
    "nan",
    "-inf",
    "1e400",
    "0",
    "-1",
    "9223372036854775807",
    "true",
    "[2, 8]",
    "\u{fffd}",
    "é",
    "1979-05-27",
];

fn mutate(text: &mut String, rng: &mut impl Rng) {
    let mut at = rng.random_range(0..=text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    match rng.random_range(0..4) {
        0 => text.insert_str(at, FRAGMENTS.choose(rng).expect("there are fragments")),
        1 => text.truncate(at),
        2 => {
            let end = (at + rng.random_range(1..20)).min(text.len());
            if text.is_char_boundary(end) {
                text.replace_range(at..end, "");
            }
        }
        _ => {
            let mut lines: Vec<&str> = text.lines().collect();
            if lines.len() > 1 {
                let (a, b) = (
                    rng.random_range(0..lines.len()),
                    rng.random_range(0..lines.len()),
                );
                lines.swap(a, b);
            }
            *text = lines.join("\n");
        }
    }
}

#[test]
fn mutated_files_never_panic() {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let (mut read, mut refused) = (0, 0);
    for round in 0..3000 {
        let recipe = [
            "combined/resnet18-cifar10",
            "us3l/resnet18-cifar100",
            "ssql/resnet18-cifar10-byol",
        ][round % 3];
        let mut text = TrainConfig::recipe(recipe).unwrap().to_toml();
        for _ in 0..rng.random_range(1..6) {
            mutate(&mut text, rng);
        }
        match TrainConfig::from_toml(&text, NONE) {
            Ok(config) => {
                config.validate().expect("what was read is valid");
                read += 1;
            }
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "one line: {error}");
                refused += 1;
            }
        }
    }
    assert!(
        read > 50 && refused > 1000,
        "{read} read, {refused} refused"
    );
}

#[test]
fn mutated_values_never_panic() {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let lines = TrainConfig::default().to_toml();
    let keys: Vec<&str> = lines
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .collect();
    for _ in 0..3000 {
        let tables = [
            "",
            "optim.",
            "optim.group.",
            "objective.",
            "objective.bits.",
            "augment.",
            "run.",
        ];
        let (table, key) = (
            tables.choose(rng).expect("some"),
            keys.choose(rng).expect("some"),
        );
        let mut change = format!("{table}{key}={}", FRAGMENTS.choose(rng).expect("some"));
        if rng.random_bool(0.3) {
            mutate(&mut change, rng);
        }
        if let Err(error) = TrainConfig::from_toml("", &[&change]) {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// The kept corpus: each file is wrong in the way that its name says.
#[test]
fn the_corpus_is_refused_in_one_line() {
    let corpus = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus/config_reader"
    );
    let mut files = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is in the repository") {
        let path = entry.expect("an entry").path();
        let error = TrainConfig::load(&path, NONE).expect_err(&path.display().to_string());
        assert!(
            !error.to_string().contains('\n'),
            "{}: {error}",
            path.display()
        );
        files += 1;
    }
    assert!(files >= 16, "{files} files");
}
