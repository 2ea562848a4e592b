//! From a photo of any size to the network's pixels, by what the file says.

use std::path::Path;

use slimbit_engine::{EngineError, Image, Model, PREPROCESS, Preprocess, Resize};

use crate::lowering::random_model;

/// A model with this free text under `preprocess`.
fn carrying(text: Option<&str>) -> Model {
    let model = random_model(1);
    let note = text.map(|text| (PREPROCESS.to_owned(), text.to_owned()));
    Model::new(
        model.graph().clone(),
        model.grid(),
        model.input().clone(),
        model.weights().clone(),
        model.points().to_vec(),
        note.into_iter().collect(),
    )
    .unwrap()
}

fn own(model: &Model) -> Preprocess {
    let shape = model.graph().input_shape();
    let (height, width) = shape.spatial();
    Preprocess {
        channels: shape.channels(),
        height,
        width,
        resize: Resize::Shorter(height.max(width) + 3),
        mean: model.input().mean.clone(),
        std: model.input().std.clone(),
        ..Preprocess::cifar()
    }
}

#[test]
fn the_file_says_how_a_photo_becomes_pixels() {
    let wanted = own(&random_model(1));
    let text = serde_json::to_string(&wanted).unwrap();
    let model = Model::from_bytes(carrying(Some(&text)).to_bytes()).unwrap();
    let preprocess = Preprocess::from_model(&model).unwrap();
    assert_eq!(preprocess, wanted);
    let photo = Image::new(3, 50, 37, (0..50 * 37 * 3).map(|i| i as u8).collect()).unwrap();
    let pixels = preprocess.codes(&photo);
    assert_eq!(pixels.len(), model.graph().input_shape().elements());
}

#[test]
fn a_file_that_says_nothing_usable_is_refused_with_the_reason() {
    let wanted = own(&random_model(1));
    let text = |change: fn(&mut Preprocess)| {
        let mut other = wanted.clone();
        change(&mut other);
        serde_json::to_string(&other).unwrap()
    };
    let cases = [
        (None, "carries none"),
        (Some("{}".to_owned()), "missing field"),
        (Some(text(|p| p.height += 1)), "but the network takes"),
        (Some(text(|p| p.std[0] = 0.0)), "are not all positive"),
        (Some(text(|p| p.resize = Resize::Shorter(1))), "shorter = 1"),
    ];
    for (text, reason) in cases {
        let model = carrying(text.as_deref());
        let error = Preprocess::from_model(&model).unwrap_err();
        assert!(matches!(error, EngineError::Setting(_)));
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// The documentation's example is compiled: so the README's is too.
#[test]
fn the_readme_shows_the_example_that_is_compiled() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let documented: String = read("src/lib.rs")
        .lines()
        .skip_while(|line| *line != "//! ```")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.strip_prefix("//! ").unwrap_or_default().to_owned() + "\n")
        .collect();
    assert!(documented.contains("Preprocess::from_model"));
    let readme = read("../../README.md");
    assert!(
        readme.contains(&format!("```rust\n{documented}```\n")),
        "copy the example of slimbit-engine's documentation into README.md, as a library"
    );
}
