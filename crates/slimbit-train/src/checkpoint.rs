use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use slimbit_graph::{Array, Graph, Params, Width};
use slimbit_nn::Net;

use crate::atomic::write_atomically;
use crate::config::BatchNorms;
use crate::{TrainConfig, TrainError};

/// Everything that a run is at one moment: with it, a run resumes as if it had never stopped.
///
/// On disk it is a safetensors file of `f32` tensors, named by part: `net/…`, `heads/…`, `teacher/net/…`,
/// `teacher/heads/…`, with the momentum of `x` under `momentum/x`, once `x` had a gradient. Its one metadata entry, `slimbit`, is JSON: the counters, the
/// resolved settings (TOML), the network (JSON) and a CRC-32C of the whole file, computed with its own eight digits
/// as zeros. A file that is truncated, or of which any bit was flipped, is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Iterations done.
    pub step: u64,
    /// The settings.
    pub config: TrainConfig,
    /// The network.
    pub graph: Graph,
    /// Parameters, momentum and teacher.
    pub tensors: BTreeMap<String, Array>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Eight hexadecimal digits. First, so that no other text can be taken for it.
    crc32c: String,
    version: u32,
    step: u64,
    config: String,
    graph: String,
}

const VERSION: u32 = 1;
/// How the checksum's field appears in the file: JSON within a JSON string.
const MARK: &[u8] = br#"{\"crc32c\":\""#;
const NO_SUM: &str = "00000000";
const EXTENSION: &str = "safetensors";

impl Checkpoint {
    /// The trained parameters of the network, by name.
    pub fn params(&self) -> Params {
        Params(
            self.part("net/")
                .map(|(name, array)| (name.to_owned(), array.clone()))
                .collect(),
        )
    }

    /// The parameters as a network of `width` sees them: [`params`](Self::params), but for the batch-norms of a run with
    /// switchable ones, which are that width's own.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] for a width that such a run was not trained at.
    pub fn params_at(&self, width: Width) -> Result<Params, TrainError> {
        let widths = &self.config.objective.widths.list;
        if self.config.model.batch_norm == BatchNorms::Shared {
            return Ok(self.params());
        }
        if !widths.contains(&width.get()) {
            let what = format!("{} is none of the trained widths {widths:?}", width.get());
            return Err(TrainError::value("objective.widths.list", what));
        }
        let (own, mut shared): (BTreeMap<_, _>, BTreeMap<_, _>) =
            (self.params().0.into_iter()).partition(|(name, _)| name.contains(Net::SWITCH));
        for (name, array) in own {
            if let Some((name, at)) = name.rsplit_once(Net::SWITCH)
                && at == width.get().to_string()
                && let Some(target) = shared.get_mut(name)
            {
                target.data[..array.data.len()].copy_from_slice(&array.data);
            }
        }
        Ok(Params(shared))
    }

    /// The key of the metadata that makes a safetensors file a checkpoint.
    pub(crate) const ENTRY: &'static str = "slimbit";

    /// Where the collapse watch is part of the state.
    pub(crate) const WATCH: &'static str = "watch";

    /// Tensors whose name begins with `prefix`, without it.
    pub(crate) fn part<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Array)> {
        self.tensors
            .iter()
            .filter_map(move |(name, array)| Some((name.strip_prefix(prefix)?, array)))
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`TrainError::Io`] where it cannot be read, [`TrainError::Checkpoint`] where it is damaged.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let bytes = fs::read(path).map_err(|e| TrainError::io("read", path, e))?;
        Self::from_bytes(&bytes).map_err(|what| TrainError::checkpoint(path, what))
    }

    /// Writes a file, which appears under its name only when it is complete and on the disk.
    ///
    /// # Errors
    /// [`TrainError::Io`], also for a full disk; an older file of the name is then intact.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        write_atomically(path, &self.to_bytes())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            crc32c: NO_SUM.to_owned(),
            version: VERSION,
            step: self.step,
            config: self.config.to_toml(),
            graph: self.graph.to_json(),
        };
        let header = serde_json::to_string(&header).expect("strings and numbers are JSON");
        let data: Vec<(&str, &[usize], Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, array)| {
                let bytes = array.data.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.as_str(), array.shape.as_slice(), bytes)
            })
            .collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
            (
                *name,
                view.expect("an array has as many elements as its shape says"),
            )
        });
        // One entry only: the order of several would differ from run to run.
        let metadata = HashMap::from([(Self::ENTRY.to_owned(), header)]);
        let mut bytes = safetensors::serialize(views, Some(metadata))
            .expect("names are unique and shapes are consistent");
        let place = sum_place(&bytes).expect("the header was just written");
        let sum = format!("{:08x}", crc32c::crc32c(&bytes));
        bytes[place..place + sum.len()].copy_from_slice(sum.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        const DAMAGED: &str = "it is truncated or damaged (the checksum does not fit)";
        let place = sum_place(bytes).ok_or("it is truncated, or no checkpoint")?;
        let after = place + NO_SUM.len();
        let sum = crc32c::crc32c(&bytes[..place]);
        let sum = crc32c::crc32c_append(sum, NO_SUM.as_bytes());
        let sum = crc32c::crc32c_append(sum, bytes.get(after..).ok_or(DAMAGED)?);
        if bytes[place..after] != *format!("{sum:08x}").as_bytes() {
            return Err(DAMAGED.to_owned());
        }
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let entries = metadata.metadata().as_ref();
        let text = entries
            .and_then(|entries| entries.get(Self::ENTRY))
            .ok_or("it has no `slimbit` entry")?;
        let header: Header = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if header.version != VERSION {
            return Err(format!(
                "it has version {}, this program reads {VERSION}",
                header.version
            ));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let tensors = file.iter().map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(format!("tensor `{name}` is {:?}, not F32", view.dtype()));
            }
            let (values, _) = view.data().as_chunks::<4>();
            let data = values.iter().map(|&v| f32::from_le_bytes(v)).collect();
            Ok((
                name.to_owned(),
                Array {
                    shape: view.shape().to_vec(),
                    data,
                },
            ))
        });
        Ok(Self {
            step: header.step,
            config: TrainConfig::from_toml(&header.config, &[""; 0]).map_err(|e| e.to_string())?,
            graph: Graph::from_json(&header.graph).map_err(|e| e.to_string())?,
            tensors: tensors.collect::<Result<_, _>>()?,
        })
    }
}

/// Where the checksum's digits begin.
fn sum_place(bytes: &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let header = rest.get(..length)?;
    let mark = header
        .windows(MARK.len())
        .position(|window| window == MARK)?;
    Some(8 + mark + MARK.len())
}

/// The checkpoints of a run: files `step-00000120.safetensors` in one folder.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints in `folder`, of which the last `keep` (at least 1) are kept.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self {
            folder,
            keep: keep.max(1),
        }
    }

    /// Writes a checkpoint, then removes those that are no longer kept. Gives its path.
    ///
    /// # Errors
    /// [`TrainError::Io`]; the older checkpoints are then still there.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<PathBuf, TrainError> {
        let path = self.path(checkpoint.step);
        checkpoint.write(&path)?;
        let files = self.files()?;
        for old in files.iter().rev().skip(self.keep) {
            fs::remove_file(old).map_err(|e| TrainError::io("remove", old, e))?;
        }
        Ok(path)
    }

    /// Writes a checkpoint as the newest one: later ones are removed, before which it is on the disk.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub(crate) fn go_back_to(&self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let path = self.path(checkpoint.step);
        checkpoint.write(&path)?;
        for later in self.files()?.iter().filter(|file| **file > path) {
            fs::remove_file(later).map_err(|e| TrainError::io("remove", later, e))?;
        }
        Ok(())
    }

    fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("step-{step:08}.{EXTENSION}"))
    }

    /// The newest checkpoint that is intact, passing over damaged ones with a warning; `None` where none was saved.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] for the newest one where all are damaged.
    pub fn latest(&self) -> Result<Option<Checkpoint>, TrainError> {
        let mut newest_error = None;
        for path in self.files()?.iter().rev() {
            match Checkpoint::open(path) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => {
                    log::warn!("{error}; trying the one before");
                    newest_error.get_or_insert(error);
                }
            }
        }
        newest_error.map_or(Ok(None), Err)
    }

    /// The files, oldest first.
    ///
    /// # Errors
    /// [`TrainError::Io`] where the folder cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>, TrainError> {
        let error = |e| TrainError::io("read", &self.folder, e);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == EXTENSION)
            {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_graph::{Channels, GraphBuilder};

    fn sample(step: u64) -> Checkpoint {
        let mut b = GraphBuilder::new("tiny");
        let x = b.input(1, 4, 4);
        let x = b.conv_bn_relu("stem", x, Channels::slim(8), 3, 1);
        let x = b.global_avg_pool("pool", x);
        let array = |len: usize| Array {
            shape: vec![len],
            data: (0..len).map(|v| v as f32 * 0.37).collect(),
        };
        Checkpoint {
            step,
            config: TrainConfig::default(),
            graph: b.finish(&[("features", x)]).unwrap(),
            tensors: [
                ("net/stem.conv.weight", 72),
                ("momentum/net/stem.conv.weight", 72),
                ("teacher/x", 3),
            ]
            .map(|(name, len)| (name.to_owned(), array(len)))
            .into(),
        }
    }

    #[test]
    fn a_checkpoint_reads_what_it_writes_and_always_writes_the_same() {
        let bytes = sample(3).to_bytes();
        assert_eq!(bytes, sample(3).to_bytes());
        let read = Checkpoint::from_bytes(&bytes).unwrap();
        assert_eq!(read, sample(3));
        assert_eq!(
            read.params().0.keys().collect::<Vec<_>>(),
            ["stem.conv.weight"]
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused() {
        let mut bytes = sample(3).to_bytes();
        for len in 0..bytes.len() {
            assert!(
                Checkpoint::from_bytes(&bytes[..len]).is_err(),
                "{len} bytes"
            );
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Checkpoint::from_bytes(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.push(0);
        assert!(Checkpoint::from_bytes(&bytes).is_err(), "a byte too many");
    }

    #[test]
    fn the_last_two_are_kept_and_a_damaged_one_falls_back() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path().to_owned(), 2);
        assert!(checkpoints.latest().unwrap().is_none());
        let paths: Vec<PathBuf> = [3, 20, 100]
            .map(|s| checkpoints.save(&sample(s)).unwrap())
            .into();
        assert_eq!(checkpoints.files().unwrap(), paths[1..]);
        assert_eq!(checkpoints.latest().unwrap().unwrap().step, 100);

        let mut bytes = fs::read(&paths[2]).unwrap();
        bytes.truncate(bytes.len() - 5);
        fs::write(&paths[2], bytes).unwrap();
        assert_eq!(checkpoints.latest().unwrap().unwrap().step, 20);

        fs::write(&paths[1], "").unwrap();
        let error = checkpoints.latest().unwrap_err().to_string();
        assert!(
            error.contains("step-00000100") && error.contains("truncated"),
            "{error}"
        );
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let error = Checkpoints::new(gone, 2)
            .save(&sample(1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot write") && error.contains("step-00000001"),
            "{error}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
