//! `slimbit import` as a user sees it.

use std::fs;

use crate::command::{fails, json, message, slimbit, succeeds, text};

#[test]
fn import_writes_a_network_that_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let files = [path("net.safetensors"), path("again.safetensors")];
    let random = "import --random 3 --arch resnet8 --classes 7 --input 16x24 --mean 0.5,0.4,0.3";
    let mut summaries = Vec::new();
    for file in &files {
        let mut arguments: Vec<&str> = random.split(' ').collect();
        arguments.extend(["--json", "-o", text(file)]);
        summaries.push(json(&succeeds(&arguments)));
    }
    assert_eq!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    let network = slimbit::interchange::Network::open(&files[0]).unwrap();
    let cost = network.graph.cost(slimbit::graph::Width::FULL).unwrap();
    assert_eq!(summaries[0]["parameters"], cost.params);
    assert_eq!(
        summaries[0]["outputs"],
        serde_json::json!(["features", "logits"])
    );
    let preprocess = json(&network.metadata["preprocess"]);
    assert_eq!(preprocess["width"], 24);
    assert_eq!(preprocess["mean"].as_array().unwrap().len(), 3);

    let (bad, output) = (path("bad.pth"), path("none.safetensors"));
    fs::write(&bad, b"\x80\x02cos\nsystem\n").unwrap();
    let refused = [
        (vec![text(&bad)], "neither safetensors"),
        (vec![text(&files[0])], "pass --arch"),
        (
            vec![text(&files[0]), "--arch", "resnet8"],
            "missing     conv1.weight",
        ),
        (vec!["--random", "1", "--arch", "vgg16"], "`vgg16`"),
        (
            vec!["--random", "1", "--arch", "resnet8", "--std", "0,1,1"],
            "preprocess.std",
        ),
        (vec!["--random", "1"], "--arch"),
        (vec![], "SOURCE"),
    ];
    for (mut arguments, part) in refused {
        arguments.insert(0, "import");
        arguments.extend(["-o", text(&output)]);
        let error = fails(&arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(!output.exists(), "{arguments:?}");
    }
}

/// A protobuf field that holds `parts`.
fn field(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        field.push(length as u8 | 128);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(content);
    field
}

/// An ONNX file with a 1×1 convolution of a colour image, whose weights are in `weights.bin`.
fn onnx_with_weights_elsewhere() -> Vec<u8> {
    let text = |number: u8, text: &str| field(number, &[text.as_bytes()]);
    let node = [text(1, "x"), text(1, "w"), text(2, "y"), text(4, "Conv")].concat();
    let location = [text(1, "location"), text(2, "weights.bin")].concat();
    let dims = field(1, &[&[2, 3, 1, 1]]);
    let (float, external) = ([0x10, 1], [0x70, 1]);
    let place = field(13, &[&location]);
    let weights = [&dims[..], &float, &text(8, "w"), &place, &external].concat();
    let sizes = [1, 3, 8, 8].map(|size| field(1, &[&[0x08, size]]));
    let shape = field(2, &[&sizes.concat()]);
    let image = field(2, &[&field(1, &[&[0x08, 1], &shape])]);
    let graph = [
        field(1, &[&node]),
        field(5, &[&weights]),
        field(11, &[&text(1, "x"), &image]),
        field(12, &[&text(1, "y")]),
    ];
    let opset = field(8, &[&[0x10, 17]]);
    [&[0x08, 8], &field(7, &[&graph.concat()])[..], &opset].concat()
}

#[test]
fn an_onnx_file_has_its_weights_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("net.onnx"), onnx_with_weights_elsewhere()).unwrap();
    let import = ["import", "net.onnx", "-o", "net.safetensors"];
    let here = || slimbit(&import).current_dir(&folder).output().unwrap();
    let error = message(&here(), &import);
    assert!(error.contains("weights.bin"), "{error}");
    let weights = [1.0f32, -2.0, 3.0, -4.0, 5.0, -6.0];
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    fs::write(path("weights.bin"), bytes).unwrap();
    let output = here();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let network = slimbit::interchange::Network::open(path("net.safetensors")).unwrap();
    assert_eq!(network.params.0["y.weight"].data, weights);
}
