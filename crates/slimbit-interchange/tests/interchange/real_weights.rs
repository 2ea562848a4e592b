use std::path::{Path, PathBuf};

use slimbit_graph::Width;
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::names;

/// Published checkpoints: file name, architecture, trainable parameters, layers of statistics.
const PUBLISHED: [(&str, &str, u64, usize); 3] = [
    ("cifar10-resnet20.th", "resnet20", 269_722, 19),
    ("mobilenet_v2-b0353104.pth", "mobilenetv2", 3_504_872, 52),
    (
        "efficientnet-lite0-57934424.pth",
        "efficientnet-lite0",
        4_652_008,
        49,
    ),
];

/// Finds a file anywhere below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    entries.iter().find_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => find(&path, name),
            false => (entry.file_name() == *name).then_some(path),
        }
    })
}

/// `SLIMBIT_DATA` is a folder, or several with a colon between, below which the published files lie.
#[test]
fn published_checkpoints_are_recognised_and_read_whole() {
    let folders = std::env::var_os("SLIMBIT_DATA").unwrap_or_default();
    for (file, architecture, parameters, norms) in PUBLISHED {
        let path = std::env::split_paths(&folders).find_map(|folder| find(&folder, file));
        let Some(path) = path else {
            eprintln!("skipped: no {file} below SLIMBIT_DATA");
            continue;
        };
        let tensors = Tensors::open(&path).unwrap();
        assert_eq!(names::guess(&tensors).unwrap(), architecture);
        let side = names::default_side(architecture);
        let network = names::import(&tensors, architecture, [side; 2])
            .unwrap()
            .network;
        assert_eq!(network.graph.cost(Width::FULL).unwrap().params, parameters);
        assert_eq!(network.norms.len(), norms);
    }
}
