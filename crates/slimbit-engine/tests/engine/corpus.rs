//! The seeds of the fuzzer, replayed without one.

use std::fs;
use std::path::{Path, PathBuf};

use slimbit_engine::{Model, prove};

use crate::damage::exercise;
use crate::lowering::random_model;
use crate::reseal::reseal;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/slim_reader")
}

/// A safetensors file with this header and these tensors.
fn file(header: &str, tensors: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(tensors);
    bytes
}

/// A header with the format's keys and this graph.
fn with_graph(graph: &str) -> Vec<u8> {
    let graph = graph.replace('"', "\\\"");
    let header = format!(
        "{{\"__metadata__\":{{\"checksum\":\"00000000\",\"format\":\"slimbit\",\
         \"format_version\":\"1\",\"graph\":\"{graph}\",\"grid\":\"nested\",\
         \"points\":\"[\\\"1x W8A8\\\"]\",\"stages\":\"[\\\"input\\\"]\"}}}}"
    );
    let mut bytes = file(&header, &[]);
    reseal(&mut bytes);
    bytes
}

/// Three whole files, one per weight grid, and a few that are broken each in its own way: name,
/// bytes, and a part of the error if there is one.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let whole = [53, 1, 78].map(|seed| random_model(seed).to_bytes());
    let [odd, minmax, nested] = whole;
    let input = "{\"name\":\"input\",\"op\":{\"input\":{\"channels\":1,\"height\":H,\"width\":4}},\
                 \"inputs\":[]}";
    let graph = |height: &str, outputs: &str| {
        let node = input.replace('H', height);
        with_graph(&format!(
            "{{\"name\":\"g\",\"nodes\":[{node}],\"outputs\":{outputs}}}"
        ))
    };
    let version = graph("4", "[[\"y\",0]]");
    let version = String::from_utf8_lossy(&version[8..]).replace("n\":\"1", "n\":\"2");
    let version = file(&version, &[]);
    let foreign = "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    let overlap = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\
                   \"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}";
    let cut = nested.len() - 3000;
    let mut ratio = nested.clone();
    let field = b"\\\"ratio\\\":1";
    let at = ratio
        .windows(field.len())
        .position(|window| window == field)
        .unwrap();
    ratio[at + field.len() - 1] = b'0';
    reseal(&mut ratio);
    vec![
        ("cut_in_header", nested[..1000].to_vec(), "header"),
        ("cut_in_tensors", nested[..cut].to_vec(), "header"),
        ("empty", Vec::new(), "header"),
        ("foreign", file(foreign, &[7]), "no `format`"),
        (
            "graph_huge",
            graph("1048576", "[[\"y\",0]]"),
            "`input/mean`: is missing",
        ),
        (
            "graph_impossible",
            graph("9999999", "[[\"y\",0]]"),
            "between 1 and 2^20",
        ),
        ("graph_ratio_zero", ratio, "a ratio of at least 1"),
        (
            "graph_missing_node",
            graph("4", "[[\"y\",9]]"),
            "no such node",
        ),
        ("header_too_long", u64::MAX.to_le_bytes().to_vec(), "header"),
        ("minmax", minmax, ""),
        ("nested", nested, ""),
        ("nested_odd", odd, ""),
        ("tensors_overlap", file(overlap, &[0; 3]), "offset"),
        ("version_of_the_future", version, "version `2`"),
    ]
}

/// `SLIMBIT_BLESS=1 cargo test -p slimbit-engine corpus` writes the seeds anew, after a change of
/// the format.
#[test]
fn the_fuzz_corpus_is_read_or_refused() {
    for (name, bytes, wanted) in seeds() {
        match Model::from_bytes(&bytes[..]) {
            Ok(_) => assert_eq!(wanted, "", "{name} was read"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !wanted.is_empty() && error.contains(wanted),
                    "{name}: {error}"
                );
            }
        }
        if std::env::var_os("SLIMBIT_BLESS").is_some() {
            fs::write(folder().join(name).with_extension("slim"), bytes).unwrap();
        }
    }
    let mut files: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    let mut whole = 0;
    for path in &files {
        let mut bytes = fs::read(path).unwrap();
        if let Ok(model) = Model::open(path) {
            whole += 1;
            prove::prove(&model).unwrap();
            assert_eq!(
                model.to_bytes(),
                bytes,
                "{}: written otherwise today",
                path.display()
            );
        }
        reseal(&mut bytes);
        if let Ok(model) = Model::from_bytes(bytes) {
            exercise(model);
        }
    }
    assert!(
        files.len() >= seeds().len() && whole >= 3,
        "{} files, {whole} whole",
        files.len()
    );
}
