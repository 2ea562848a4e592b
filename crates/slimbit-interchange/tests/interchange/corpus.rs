use std::path::PathBuf;

use slimbit_interchange::Network;
use slimbit_interchange::checkpoint::Tensors;

use crate::checkpoints::varied;
use crate::damage::read;
use crate::network::small;
use crate::torch_file::TorchFile;

/// A file of the fuzz corpus.
pub(crate) struct Seed {
    /// The fuzz target.
    reader: &'static str,
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What the error says; nothing where the file is whole.
    pub(crate) refusal: Option<&'static str>,
}

impl Seed {
    /// The error that this seed's reader gives for `bytes`.
    pub(crate) fn refusal_of(&self, bytes: &[u8]) -> Option<String> {
        let refusal = match self.reader {
            "network_reader" => Network::from_bytes(bytes).err(),
            _ => Tensors::from_bytes(bytes).err(),
        };
        refusal.map(|error| error.to_string())
    }
}

pub(crate) fn seeds() -> Vec<Seed> {
    let mut nested = varied();
    nested.nest = vec!["state_dict"];
    let network = small().to_bytes().unwrap();
    let mut expanded = TorchFile::default();
    expanded.floats("weight", &[1], &[1.0]);
    expanded.views[0].shape = vec![1 << 20, 1 << 20];
    expanded.views[0].strides = vec![0, 0];
    let mut outside = varied();
    outside.views[2].offset = usize::MAX;
    let mut quantised = varied();
    quantised.views[0].kind = "QInt8Storage";
    // `os.system("true")` where the state dict would be.
    let magic = &varied().legacy()[..15];
    let mut system = magic.to_vec();
    system.extend(b"\x80\x02M\xe9\x03.\x80\x02}.\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.");
    let negative = String::from_utf8_lossy(&network)
        .find("running_var")
        .unwrap();
    let mut renamed = network.clone();
    renamed[negative] = b'R';
    let seed = |reader, name, bytes, refusal| Seed {
        reader,
        name,
        bytes,
        refusal,
    };
    let (checkpoint, file) = ("checkpoint_reader", "network_reader");
    vec![
        seed(checkpoint, "zip.pth", varied().zip(), None),
        seed(checkpoint, "legacy.pth", nested.legacy(), None),
        seed(
            checkpoint,
            "expanded.pth",
            expanded.zip(),
            Some("more than"),
        ),
        seed(checkpoint, "outside.pth", outside.legacy(), Some("`tail`")),
        seed(checkpoint, "quantised.pth", quantised.zip(), Some("QInt8")),
        seed(checkpoint, "system.pth", system, Some("`os.system`")),
        seed(file, "network.safetensors", network, None),
        seed(file, "renamed.safetensors", renamed, Some("is missing")),
        seed(file, "empty.safetensors", Vec::new(), Some("header")),
    ]
}

/// `SLIMBIT_BLESS=1 cargo test -p slimbit-interchange corpus` writes the seeds anew.
#[test]
fn the_fuzz_corpus_is_read_or_refused() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let seeds = seeds();
    for seed in &seeds {
        let refusal = seed.refusal_of(&seed.bytes);
        match (&refusal, seed.refusal) {
            (None, None) => {}
            (Some(found), Some(wanted)) if found.contains(wanted) => {}
            _ => panic!("{}: {refusal:?}, wanted {:?}", seed.name, seed.refusal),
        }
        let path = folder.join(seed.reader).join(seed.name);
        if std::env::var_os("SLIMBIT_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &seed.bytes).unwrap();
        }
        assert_eq!(
            std::fs::read(&path).unwrap(),
            seed.bytes,
            "{}: written otherwise today",
            path.display()
        );
    }
    // Fuzzing adds files of its own.
    for reader in ["checkpoint_reader", "network_reader"] {
        for entry in std::fs::read_dir(folder.join(reader)).unwrap() {
            read(&std::fs::read(entry.unwrap().path()).unwrap());
        }
    }
}
