//! How much memory the readers take for files that ask for much: the bounds that `docs/import.md` states, measured.

use std::io::{Cursor, Write};

use peak_alloc::PeakAlloc;
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::{FileKind, Network};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// Times the file's size, and bytes, that reading a checkpoint may take.
const CHECKPOINT: (usize, usize) = (20, 64 << 20);

/// The same of a network file.
const NETWORK: (usize, usize) = (20, 1 << 20);

/// An archive as of `torch.save`, with this pickle.
fn archive(pickle: &[u8], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    zip.start_file("archive/data.pkl", options).unwrap();
    zip.write_all(pickle).unwrap();
    zip.finish().unwrap().into_inner()
}

/// A pickle that repeats instructions up to a size.
fn repeated(before: &[u8], instructions: &[u8], bytes: usize) -> Vec<u8> {
    let mut pickle = b"\x80\x04".to_vec();
    pickle.extend(before);
    while pickle.len() < bytes {
        pickle.extend(instructions);
    }
    pickle.push(b'.');
    pickle
}

/// A safetensors file with this header and no elements.
fn header(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes
}

/// Bytes that `read` took at most besides what there was before.
fn peak(read: impl FnOnce()) -> usize {
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    read();
    PEAK.peak_usage().saturating_sub(before)
}

/// One test, since the allocator is everyone's.
#[test]
fn no_file_makes_a_reader_exceed_its_bound() {
    const SIZE: usize = 3 << 20;
    let pair = [
        &b"ccollections\nOrderedDict\n"[..],
        b"](",
        &b"NN\x86".repeat(3000),
        b"e\x85\x94",
    ]
    .concat();
    let pickles: Vec<(&str, Vec<u8>)> = vec![
        ("lists, one after another", repeated(b"", b"]", SIZE)),
        ("lists in lists", repeated(b"", b"]a", SIZE)),
        ("tuples of one", repeated(b")", b"\x85", SIZE)),
        ("tuples that double", repeated(b"N", b"2\x86", SIZE)),
        ("marks", repeated(b"", b"(", SIZE)),
        ("notes", repeated(b"N", b"\x94", SIZE)),
        ("lists and notes", repeated(b"", b"]\x94", SIZE)),
        ("dictionaries", repeated(b"", b"}", SIZE)),
        (
            "short strings in one list",
            repeated(b"](", b"\x8c\x01a\x94", SIZE),
        ),
        ("numbers in one list", repeated(b"](", b"K\x01", SIZE)),
        ("the same pairs copied", repeated(&pair, b"2R", SIZE)),
        ("opaque objects", repeated(b"cm\nC\n", b"2)R0", SIZE)),
        (
            "tensors of many dimensions",
            repeated(
                &[
                    &b"ctorch._utils\n_rebuild_tensor\n("[..],
                    b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NK\x01tQK\x00(",
                    &b"K\x01".repeat(32),
                    b"t2t\x94",
                ]
                .concat(),
                b"h\x00h\x00R0",
                SIZE,
            ),
        ),
    ];
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, pickle) in &pickles {
        files.push((
            (*name).to_owned(),
            archive(pickle, CompressionMethod::Stored),
        ));
        let legacy = [&b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}."[..], pickle];
        files.push((format!("{name}, legacy"), legacy.concat()));
    }
    files.push((
        "an archive that swells".to_owned(),
        archive(&vec![0; 64 << 20], CompressionMethod::Deflated),
    ));
    let zeros = "0,".repeat(SIZE / 2) + "0";
    files.push((
        "a shape without end".to_owned(),
        header(&format!(
            "{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{zeros}],\"data_offsets\":[0,0]}}}}"
        )),
    ));
    let entries: Vec<String> = (0..40_000)
        .map(|number| {
            format!("\"{number}\":{{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}")
        })
        .collect();
    files.push((
        "many tensors".to_owned(),
        header(&format!("{{{}}}", entries.join(","))),
    ));
    for (name, bytes) in &files {
        let (times, constant) = CHECKPOINT;
        let bound = times * bytes.len() + constant;
        let taken = peak(|| {
            FileKind::of_bytes(bytes);
            drop(Tensors::from_bytes(bytes));
        });
        assert!(
            taken <= bound,
            "{name}: {taken} bytes of {bound} for {}",
            bytes.len()
        );
    }

    let graph = |padding: usize, side: usize| {
        format!(
            r#"{{"name":"n","nodes":[{{"name":"input","op":{{"input":{{"channels":1,"height":{side},"width":{side}}}}},"inputs":[]}},
            {{"name":"c","op":{{"conv2d":{{"out":{{"fixed":1}},"kernel":[1,1],"stride":[1,1],"padding":[{padding},{padding},{padding},{padding}],"dilation":[1,1],"groups":{{"fixed":1}},"bias":false}}}},"inputs":[0]}}],"outputs":[["features",1]]}}"#
        )
    };
    let network = |graph: &str| {
        let metadata = serde_json::json!({
            "__metadata__": { "format": "slimbit-network", "format_version": "1", "graph": graph },
            "c.weight": { "dtype": "F32", "shape": [1, 1, 1, 1], "data_offsets": [0, 4] },
        });
        [header(&metadata.to_string()), vec![0; 4]].concat()
    };
    let small = network(&graph(1, 8));
    assert!(
        Network::from_bytes(&small).is_ok(),
        "{:?}",
        Network::from_bytes(&small)
    );
    let nodes = r#"{"name":"a","op":"global_avg_pool","inputs":[0]},"#.repeat(20_000);
    let long = graph(1, 8).replace("\"inputs\":[0]}]", &format!("\"inputs\":[0]}},{nodes}]"));
    for (name, bytes) in [
        ("a border of a million pixels", network(&graph(500_000, 8))),
        (
            "an image of a million pixels a side",
            network(&graph(0, 1 << 20)),
        ),
        ("many nodes", network(&long)),
    ] {
        let (times, constant) = NETWORK;
        let bound = times * bytes.len() + constant;
        let taken = peak(|| drop(Network::from_bytes(&bytes)));
        assert!(
            taken <= bound,
            "{name}: {taken} bytes of {bound} for {}",
            bytes.len()
        );
    }
}
