//! ONNX files as people bring them, and as they bring them to do harm.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::command::{fails, json, message, succeeds, text};

/// A protobuf number.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A protobuf field of bytes.
fn field(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [vec![number << 3 | 2], varint(content.len() as u64), content].concat()
}

fn name(number: u8, name: &str) -> Vec<u8> {
    field(number, &[name.as_bytes()])
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|input| name(1, input)).collect();
    let attributes: Vec<u8> = attributes.iter().flat_map(|a| field(5, &[a])).collect();
    field(1, &[&inputs, &name(2, output), &name(4, op), &attributes])
}

/// An attribute of one number, of type 2.
fn int(attribute: &str, value: u64) -> Vec<u8> {
    [
        name(1, attribute),
        vec![0x18],
        varint(value),
        vec![0xa0, 1, 2],
    ]
    .concat()
}

/// An attribute of numbers, of type 7.
fn ints(attribute: &str, values: &[u64]) -> Vec<u8> {
    let values: Vec<u8> = values
        .iter()
        .flat_map(|&v| [vec![0x40], varint(v)].concat())
        .collect();
    [name(1, attribute), values, vec![0xa0, 1, 7]].concat()
}

/// A tensor of floats.
fn floats(tensor: &str, dims: &[u64], values: &[f32]) -> Vec<u8> {
    let dims: Vec<u8> = dims
        .iter()
        .flat_map(|&d| [vec![0x08], varint(d)].concat())
        .collect();
    let values: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    field(
        5,
        &[&dims, &[0x10, 1], &name(8, tensor), &field(9, &[&values])],
    )
}

/// A file of opset 17 with the image `x` of an element type, and the output `y`.
fn file(element: u8, image: [u64; 4], parts: &[Vec<u8>]) -> Vec<u8> {
    let dims = image.map(|size| field(1, &[&[0x08], &varint(size)]));
    let shape = field(2, &[&dims.concat()]);
    let image = field(2, &[&field(1, &[&[0x08, element], &shape])]);
    let graph = [
        parts.concat(),
        field(11, &[&name(1, "x"), &image]),
        field(12, &[&name(1, "y")]),
    ];
    let opset = field(8, &[&[0x10, 17]]);
    [&[0x08, 8], &field(7, &[&graph.concat()])[..], &opset].concat()
}

/// A convolution of a small image with a border of `pad` on every side.
fn padded(pad: u64) -> Vec<u8> {
    let parts = [
        floats("w", &[2, 3, 1, 1], &[1.0; 6]),
        node("Conv", &["x", "w"], "y", &[ints("pads", &[pad; 4])]),
    ];
    file(1, [1, 3, 8, 8], &parts)
}

/// The program with at most `mebibytes` of address space.
fn within(mebibytes: usize, arguments: &[&str]) -> Output {
    let limited = format!("ulimit -v {}; exec \"$0\" \"$@\"", mebibytes << 10);
    Command::new("sh")
        .args(["-c", &limited, env!("CARGO_BIN_EXE_slimbit")])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn files_of_a_few_bytes_do_not_take_gigabytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let output = path("net.safetensors");
    let many_dims = {
        let parts = [
            floats("w", &vec![1; 100_000], &[1.0]),
            node("Conv", &["x", "w"], "y", &[]),
        ];
        file(1, [1, 3, 8, 8], &parts)
    };
    let empty = field(7, &[&field(1, &[]).repeat(1_500_000)]);
    for (name, bytes, named) in [
        ("border.onnx", padded(100_000), "--memory"),
        (
            "image.onnx",
            file(
                1,
                [1, 3, 1 << 15, 1 << 15],
                &[node("Relu", &["x"], "y", &[])],
            ),
            "8192x8192",
        ),
        ("dims.onnx", many_dims, "100000 dimensions"),
        ("empty.onnx", empty, "next to nothing"),
    ] {
        let source = path(name);
        fs::write(&source, bytes).unwrap();
        let arguments = ["import", text(&source), "-o", text(&output)];
        let error = message(&within(2048, &arguments), &arguments);
        assert!(error.contains(named) && error.contains(name), "{error}");
        assert!(error.len() < 1_000, "{} bytes", error.len());
        assert!(!output.exists(), "{name}");
    }
    // The limit is the user's.
    let source = path("some.onnx");
    fs::write(&source, padded(200)).unwrap();
    let arguments = ["import", text(&source), "-o", text(&output), "--memory"];
    let error = fails(&[&arguments[..], &["1"]].concat());
    assert!(error.contains("limit of 1 MiB"), "{error}");
    succeeds(&[&arguments[..], &["64", "--python", "/nowhere"]].concat());
}

fn imported(folder: &Path, bytes: &[u8], flags: &[&str]) -> serde_json::Value {
    let (source, output) = (folder.join("net.onnx"), folder.join("net.safetensors"));
    fs::write(&source, bytes).unwrap();
    let plain = [
        "import",
        text(&source),
        "-o",
        text(&output),
        "--json",
        "--python",
        "/nowhere",
    ];
    json(&succeeds(&[&plain[..], flags].concat()))
}

#[test]
fn the_range_of_the_input_is_read_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let close = |found: &serde_json::Value, wanted: f64| {
        let found = found[0].as_f64().unwrap();
        assert!((found - wanted).abs() < 1e-6, "{found}, wanted {wanted}");
    };
    let conv = |from: &str| {
        [
            floats("w", &[2, 3, 1, 1], &[1.0; 6]),
            node("Conv", &[from, "w"], "y", &[]),
        ]
        .concat()
    };
    let bytes = file(
        2,
        [1, 8, 8, 3],
        &[
            floats("scale", &[1], &[1.0 / 127.5]),
            floats("one", &[1], &[1.0]),
            node("Cast", &["x"], "f", &[int("to", 1)]),
            node("Mul", &["f", "scale"], "m", &[]),
            node("Sub", &["m", "one"], "s", &[]),
            node("Transpose", &["s"], "t", &[ints("perm", &[0, 3, 1, 2])]),
            conv("t"),
        ],
    );
    let summary = imported(folder.path(), &bytes, &[]);
    close(&summary["preprocess"]["mean"], 0.5);
    close(&summary["preprocess"]["std"], 0.5);
    let (source, output) = (
        folder.path().join("net.onnx"),
        folder.path().join("no.safetensors"),
    );
    let error = fails(&[
        "import",
        text(&source),
        "-o",
        text(&output),
        "--mean",
        "0,0,0",
    ]);
    assert!(error.contains("leave --mean and --std out"), "{error}");

    let offset = |value: f32| {
        let parts = [
            floats("c", &[1], &[value]),
            node("Sub", &["x", "c"], "s", &[]),
            conv("s"),
        ];
        file(1, [1, 3, 8, 8], &parts)
    };
    let summary = imported(folder.path(), &offset(127.5), &[]);
    close(&summary["preprocess"]["mean"], 0.5);
    close(&summary["preprocess"]["std"], 1.0 / 255.0);
    fs::write(&source, offset(0.001)).unwrap();
    let import = ["import", text(&source), "-o", text(&output)];
    let error = fails(&import);
    assert!(
        error.contains("neither") && error.contains("--std 1,1,1"),
        "{error}"
    );
    assert!(!output.exists());
    let unit = ["--mean", "0,0,0", "--std", "1,1,1"];
    let summary = imported(folder.path(), &offset(0.001), &unit);
    close(&summary["preprocess"]["mean"], 0.001);

    let plain = file(1, [1, 3, 8, 8], &[conv("x")]);
    fs::write(&source, &plain).unwrap();
    let output = crate::command::slimbit(&[&import[..], &["--python", "/nowhere"]].concat());
    let warning = { output }.output().unwrap().stderr;
    let warning = String::from_utf8_lossy(&warning).into_owned();
    assert!(
        warning.contains("does not say how its input is normalised"),
        "{warning}"
    );
}

#[test]
fn a_check_that_compares_nothing_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (network, onnx, images) = (path("net.safetensors"), path("net.onnx"), path("images"));
    let random = "import --random 3 --arch resnet8 --classes 7 --input 16x24 -o";
    let mut arguments: Vec<&str> = random.split(' ').collect();
    arguments.push(text(&network));
    succeeds(&arguments);
    fs::create_dir(&images).unwrap();
    fs::write(
        images.join("a.ppm"),
        [&b"P6 24 16 255\n"[..], &[7; 16 * 24 * 3]].concat(),
    )
    .unwrap();
    let export = [
        "export",
        text(&network),
        "--onnx",
        text(&onnx),
        "--check",
        text(&images),
    ];
    let error = fails(&[&export[..], &["--python", "/nowhere/python"]].concat());
    assert!(
        error.contains("compared nothing") && error.contains("pip install"),
        "{error}"
    );
    assert!(onnx.exists());
    // What the file carries along is read back with it.
    let back = path("back.safetensors");
    let import = [
        "import",
        text(&onnx),
        "-o",
        text(&back),
        "--python",
        "/nowhere",
    ];
    succeeds(&import);
    let of = |file: &Path| {
        let network = slimbit::interchange::Network::open(file).unwrap();
        json(&network.metadata["preprocess"])
    };
    assert_eq!(of(&network), of(&back));
}
