//! What the proof sees of a file that was changed and sealed again, and what it cannot see.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use slimbit_engine::{Model, PREPROCESS, Preprocess, prove};

use crate::lowering::{random_model, residual_model};
use crate::reseal::{recheck, reseal};

/// A file whose header is changed, without a digest, with its checksum right again.
fn with_header(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let metadata = header["__metadata__"].as_object_mut().unwrap();
    metadata.remove("digest");
    change(&mut header);
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut made = (text.len() as u64).to_le_bytes().to_vec();
    made.extend_from_slice(&text);
    made.extend_from_slice(&bytes[end..]);
    reseal(&mut made);
    made
}

/// A file in which one key of the metadata reads otherwise.
fn with_text(bytes: &[u8], key: &str, change: impl FnOnce(&str) -> String) -> Vec<u8> {
    with_header(bytes, |header| {
        let value = &mut header["__metadata__"][key];
        let new = change(value.as_str().unwrap());
        assert_ne!(value.as_str(), Some(&*new), "`{key}` stays");
        *value = new.into();
    })
}

/// Why a file is refused, by the reader or by the proof; nothing for one that passes.
fn refusal(bytes: &[u8]) -> Option<String> {
    match Model::from_bytes(bytes) {
        Err(error) => Some(error.to_string()),
        Ok(model) => prove::prove(&model).err().map(|error| error.to_string()),
    }
}

/// A file with preprocessing and without a digest: nothing but the proof protects it.
fn whole() -> Vec<u8> {
    let model = residual_model();
    let shape = model.graph().input_shape();
    let (height, width) = shape.spatial();
    let preprocess = Preprocess {
        channels: shape.channels(),
        height,
        width,
        mean: model.input().mean.clone(),
        std: model.input().std.clone(),
        ..Preprocess::cifar()
    };
    let text = serde_json::to_string(&preprocess).unwrap();
    let carrying = Model::new(
        model.graph().clone(),
        model.grid(),
        model.input().clone(),
        model.weights().clone(),
        model.points().to_vec(),
        BTreeMap::from([(PREPROCESS.to_owned(), text)]),
    );
    let bytes = with_header(&carrying.unwrap().to_bytes(), |_| {});
    assert_eq!(refusal(&bytes), None);
    bytes
}

/// Every tensor: name, type, and where its bytes lie.
fn tensors(bytes: &[u8]) -> Vec<(String, String, std::ops::Range<usize>)> {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let entries = header.as_object().unwrap().iter();
    let entries = entries.filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(name, entry)| {
            let at = |i: usize| end + entry["data_offsets"][i].as_u64().unwrap() as usize;
            let kind = entry["dtype"].as_str().unwrap().to_owned();
            (name.clone(), kind, at(0)..at(1))
        })
        .collect()
}

fn size_of(kind: &str) -> usize {
    match kind {
        "U8" | "I8" => 1,
        "I32" | "F32" => 4,
        _ => 8,
    }
}

/// Changes an element: codes by one, all else by half of itself at least.
fn perturb(kind: &str, element: &mut [u8]) {
    macro_rules! number {
        ($type:ty, $change:expr) => {{
            let value = <$type>::from_le_bytes(element.try_into().unwrap());
            let change: fn($type) -> $type = $change;
            element.copy_from_slice(&change(value).to_le_bytes());
        }};
    }
    match kind {
        "U8" | "I8" => number!(u8, |x| x.wrapping_add(1)),
        "I32" => number!(i32, |x| x.wrapping_add(x.abs() / 2 + 1)),
        "I64" => number!(i64, |x| x.wrapping_add(x.abs() / 2 + (1 << 36))),
        "F32" => number!(f32, |x| if x == 0.0 { 1.0 } else { 1.5 * x }),
        _ => number!(f64, |x| if x == 0.0 { 1.0 } else { 1.5 * x }),
    }
}

/// Kinds of tensors of which a single changed element can go unnoticed. `docs/numerics.md` lists them:
/// when this list changes, so must the page.
const UNSEEN: [&str; 2] = ["max_abs", "stage.scale"];

#[test]
fn a_changed_element_is_seen_but_for_what_only_training_knows() {
    const TRIED: usize = 24;
    let bytes = whole();
    let mut unseen = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (name, kind, range) in tensors(&bytes) {
        let size = size_of(&kind);
        // `points/0/requant.m` is of the kind `requant.m`, `codes/stem.act` of the kind `codes`.
        let of_kind = match name.strip_prefix("points/") {
            Some(rest) => rest.split_once('/').unwrap().1,
            None if name.starts_with("input/") => &name,
            None => name.split_once('/').unwrap().0,
        };
        let elements = range.len() / size;
        for turn in 0..elements.min(TRIED) {
            let element = turn * elements / elements.min(TRIED);
            let start = range.start + element * size;
            let mut changed = bytes.clone();
            perturb(&kind, &mut changed[start..start + size]);
            reseal(&mut changed);
            match refusal(&changed) {
                Some(_) => seen.insert(of_kind.to_owned()),
                None => unseen.insert(of_kind.to_owned()),
            };
        }
    }
    let unseen: Vec<&str> = unseen.iter().map(String::as_str).collect();
    assert_eq!(unseen, UNSEEN);
    for kind in [
        "codes",
        "requant.acc",
        "requant.a",
        "add.m",
        "input/tables",
        "input/mean",
    ] {
        assert!(seen.contains(kind), "{kind} was not tried");
    }
}

#[test]
fn a_renamed_point_is_refused() {
    let bytes = whole();
    // The first point is 1x W8A8, the second 0.5x W4A8.
    for (from, to) in [
        ("1x W8A8", "1x W7A8"),
        ("1x W8A8", "1x W2A8"),
        ("1x W8A8", "1x W8A4"),
        ("0.5x W4A8", "0.5x W3A8"),
        ("0.5x W4A8", "0.5x W8A8"),
        ("0.5x W4A8", "0.25x W4A8"),
        ("0.5x W4A8", "0.5x W4A7"),
    ] {
        let renamed = with_text(&bytes, "points", |points| points.replacen(from, to, 1));
        let error = refusal(&renamed).unwrap_or_else(|| panic!("{from} passes as {to}"));
        if from.ends_with("W8A8") && to.ends_with("A8") {
            assert!(error.contains("made for other bits"), "{error}");
        }
    }
}

#[test]
fn preprocessing_that_is_not_the_inputs_is_refused() {
    let bytes = whole();
    let other = |change: fn(&mut Preprocess)| {
        let bytes = with_text(&bytes, PREPROCESS, |text| {
            let mut preprocess: Preprocess = serde_json::from_str(text).unwrap();
            change(&mut preprocess);
            serde_json::to_string(&preprocess).unwrap()
        });
        refusal(&bytes).unwrap()
    };
    assert!(other(|p| p.mean[0] += 0.01).contains("mean"));
    assert!(other(|p| p.std[0] *= 1.01).contains("deviation"));
    assert!(other(|p| p.height += 1).contains("but the network takes"));
    assert!(other(|p| p.channels = 4 - p.channels).contains(PREPROCESS));
}

#[test]
fn a_changed_graph_is_seen_where_the_integers_show_it() {
    let bytes = whole();
    for (from, to) in [
        ("\"relu\"", "\"relu6\""),
        ("\"relu\"", "\"hard_swish\""),
        ("\"stride\":[2,2]", "\"stride\":[1,1]"),
        ("\"kernel\":[3,3]", "\"kernel\":[1,1]"),
    ] {
        let changed = with_text(&bytes, "graph", |graph| graph.replacen(from, to, 1));
        assert!(refusal(&changed).is_some(), "{from} as {to}");
    }
    // Padding and dilation that keep every shape: the integers say nothing about them.
    let moved = |graph: &str| {
        let at = (
            "\"padding\":[1,1,1,1],\"dilation\":[1,1]",
            "\"padding\":[2,2,2,2],\"dilation\":[2,2]",
        );
        graph.replacen(at.0, at.1, 1)
    };
    assert_eq!(refusal(&with_text(&bytes, "graph", moved)), None);
}

#[test]
fn a_header_that_says_a_thing_twice_is_refused() {
    let bytes = residual_model().to_bytes();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..end]).unwrap().trim_end();
    let entry = "\"input/std\":";
    let start = header.find(entry).unwrap();
    let own = &header[start..start + header[start..].find('}').unwrap() + 1];
    for twice in [
        header.replacen(own, &format!("{own},{own}"), 1),
        header.replacen("\"grid\":", "\"grid\":\"minmax\",\"grid\":", 1),
        header
            .replacen(entry, &format!("{entry}{{\"dtype\":\"U8\","), 1)
            .replacen("{\"dtype\":\"U8\",{", "{\"dtype\":\"U8\",", 1),
    ] {
        assert_ne!(twice, header);
        let mut made = (twice.len() as u64).to_le_bytes().to_vec();
        made.extend_from_slice(twice.as_bytes());
        made.extend_from_slice(&bytes[end..]);
        reseal(&mut made);
        let error = refusal(&made).unwrap();
        // The tensor reader itself refuses a doubled field, in its own words.
        assert!(
            error.contains("appears twice") || error.contains("duplicate field"),
            "{error}"
        );
    }
}

#[test]
fn a_channel_without_magnitude_has_no_weights() {
    let bytes = whole();
    let tensors = tensors(&bytes);
    let (_, _, range) = tensors
        .iter()
        .find(|(name, ..)| name == "max_abs/block.a.act")
        .unwrap();
    let mut changed = bytes.clone();
    changed[range.start..range.start + 4].fill(0);
    reseal(&mut changed);
    assert!(refusal(&changed).unwrap().contains("magnitude 0"));
}

#[test]
fn the_digest_pins_the_network_and_nothing_else() {
    for seed in [1, 2, 78] {
        let model = random_model(seed);
        let bytes = model.to_bytes();
        let read = Model::from_bytes(&bytes[..]).unwrap();
        assert_eq!(read.digest(), model.digest());
        assert!(model.digest().starts_with("blake3:") && model.digest().len() == 7 + 64);

        // A file from before the digest is read, and has it all the same.
        let before = with_header(&bytes, |_| {});
        assert!(!String::from_utf8_lossy(&before).contains("blake3:"));
        assert_eq!(Model::from_bytes(before).unwrap().digest(), model.digest());

        // The author may change, nothing else.
        let other = with_header(&bytes, |header| {
            header["__metadata__"]["author"] = "somebody else".into();
        });
        assert_eq!(Model::from_bytes(other).unwrap().digest(), model.digest());
        let mut changed = with_header(&bytes, |_| {});
        let (_, kind, range) = &tensors(&changed)[0];
        let start = range.start;
        perturb(kind, &mut changed[start..start + size_of(kind)]);
        reseal(&mut changed);
        if let Ok(changed) = Model::from_bytes(changed) {
            assert_ne!(changed.digest(), model.digest());
        }

        // A wrong digest is damage, whatever the checksum says.
        let at = bytes
            .windows(7)
            .position(|window| window == b"blake3:")
            .unwrap()
            + 7;
        let mut wrong = bytes.clone();
        wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
        recheck(&mut wrong);
        let error = Model::from_bytes(wrong).unwrap_err().to_string();
        assert!(
            error.contains("digest") && error.contains("damaged"),
            "{error}"
        );
    }
}
