use std::collections::BTreeMap;

use safetensors::SafeTensors;
use slimbit_graph::{Array, Channels, GraphBuilder, Params, Width};
use slimbit_interchange::{ImportError, Network, Norms};

/// A small network whose every value is another.
pub(crate) fn small() -> Network {
    let mut b = GraphBuilder::new("small");
    let x = b.input(3, 8, 8);
    let x = b.conv_bn_relu("stem", x, Channels::Fixed(16), 3, 2);
    let x = b.global_avg_pool("pool", x);
    let logits = b.linear("classifier", x, Channels::Fixed(10));
    let graph = b.finish(&[("features", x), ("logits", logits)]).unwrap();
    let mut next = 0.0;
    let mut values = |count: usize| -> Vec<f32> {
        let values = (0..count).map(|_| {
            next += 0.125;
            next
        });
        values.collect()
    };
    let specs = graph.params(Width::FULL).unwrap();
    let mut params = Params::default();
    let mut norms = Norms::new();
    for spec in specs {
        let data = values(spec.shape.iter().product());
        if let Some(node) = spec.name.strip_suffix(".bn.weight") {
            let statistics = (values(data.len()), values(data.len()));
            norms.insert(format!("{node}.bn"), statistics);
        }
        let array = Array {
            shape: spec.shape,
            data,
        };
        params.0.insert(spec.name, array);
    }
    let mut network = Network::new(graph, params, norms).unwrap();
    network
        .metadata
        .insert("preprocess".to_owned(), "{\"channels\":3}".to_owned());
    network
}

#[test]
fn a_network_reads_what_it_writes() {
    let network = small();
    let bytes = network.to_bytes().unwrap();
    assert_eq!(Network::from_bytes(&bytes).unwrap(), network);
    assert_eq!(bytes, network.clone().to_bytes().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.safetensors");
    std::fs::write(&path, "old").unwrap();
    network.write(&path).unwrap();
    assert_eq!(Network::open(&path).unwrap(), network);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_file_is_plain_safetensors() {
    let network = small();
    let bytes = network.to_bytes().unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), network.params.0.len() + 2 * network.norms.len());
    let stem = file.tensor("stem.conv.weight").unwrap();
    assert_eq!(stem.shape(), [16, 3, 3, 3]);
    assert_eq!(file.tensor("stem.bn.running_var").unwrap().shape(), [16]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let text = header.metadata().as_ref().unwrap();
    assert_eq!(text["preprocess"], "{\"channels\":3}");
}

#[test]
fn parts_that_contradict_one_another_are_named() {
    let fault = |change: fn(&mut Network)| {
        let mut network = small();
        change(&mut network);
        network.to_bytes().unwrap_err().to_string()
    };
    type Change = fn(&mut Network);
    let table: [(&str, Change); 7] = [
        ("stem.bn", |n| drop(n.norms.remove("stem.bn"))),
        ("not a batch-norm", |n| {
            n.norms.insert("stem.conv".to_owned(), (vec![], vec![]));
        }),
        ("`stem.bn.running_var`: holds -1", |n| {
            n.norms.get_mut("stem.bn").unwrap().1[3] = -1.0;
        }),
        ("`stem.bn.running_mean`: 15 values for 16", |n| {
            n.norms.get_mut("stem.bn").unwrap().0.pop();
        }),
        ("`stem.conv.weight`: holds NaN", |n| {
            n.params.0.get_mut("stem.conv.weight").unwrap().data[0] = f32::NAN;
        }),
        ("`extra`", |n| {
            n.params.0.insert("extra".to_owned(), Array::default());
        }),
        ("`graph`", |n| {
            n.metadata.insert("graph".to_owned(), String::new());
        }),
    ];
    for (part, change) in table {
        let text = fault(change);
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// The same tensors under another header.
fn with_header(change: impl Fn(&mut serde_json::Value)) -> Result<Network, ImportError> {
    let bytes = small().to_bytes().unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    let header = header.to_string();
    let mut changed = (header.len() as u64).to_le_bytes().to_vec();
    changed.extend(header.as_bytes());
    changed.extend(&bytes[8 + length..]);
    Network::from_bytes(&changed)
}

#[test]
fn a_damaged_header_is_told_by_its_part() {
    let rename = |from: &'static str, to: &'static str| {
        move |header: &mut serde_json::Value| {
            let map = header.as_object_mut().unwrap();
            let entry = map.remove(from).unwrap();
            map.insert(to.to_owned(), entry);
        }
    };
    assert!(with_header(|_| {}).is_ok());
    let text = with_header(rename("stem.conv.weight", "stem.conv.wait"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("`stem.conv.weight`: is missing"), "{text}");
    let text = with_header(|h| h["stem.bn.bias"]["shape"] = serde_json::json!([4, 4]))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`stem.bn.bias`") && text.contains("[4, 4]"),
        "{text}"
    );
    let text = with_header(|h| h["__metadata__"]["format"] = "slimbit".into())
        .unwrap_err()
        .to_string();
    assert!(text.contains("wanted `slimbit-network`"), "{text}");
    let text = with_header(|h| h["__metadata__"]["format_version"] = "9".into())
        .unwrap_err()
        .to_string();
    assert!(text.contains("`9`") && text.contains("update"), "{text}");
    let text = with_header(|h| {
        let graph = h["__metadata__"]["graph"].as_str().unwrap();
        let headless = graph.replace("\"classifier\"", "\"judge\"");
        h["__metadata__"]["graph"] = headless.into();
    })
    .unwrap_err()
    .to_string();
    assert!(text.contains("judge.weight"), "{text}");
}

#[test]
fn tensors_of_no_node_are_refused() {
    let network = small();
    let bytes = network.to_bytes().unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let mut tensors: BTreeMap<String, _> = file.tensors().into_iter().collect();
    let stem = file.tensor("stem.conv.weight").unwrap();
    tensors.insert("spare.weight".to_owned(), stem);
    let bytes = safetensors::serialize(tensors, header.metadata().clone()).unwrap();
    let text = Network::from_bytes(&bytes).unwrap_err().to_string();
    assert!(
        text.contains("`spare.weight`: belongs to no node"),
        "{text}"
    );
}
