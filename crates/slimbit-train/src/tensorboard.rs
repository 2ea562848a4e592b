//! TensorBoard's event files: records of protocol buffers, each framed by checksums.
//!
//! Only scalars are written, for which the four messages below are enough; their tags are those of TensorFlow's
//! `event.proto` and `summary.proto`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::TrainError;

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SESSION_START: i32 = 1;

/// How the name of an event file begins, which TensorBoard looks for, and how those of ours end.
const PREFIX: &str = "events.out.tfevents.";
const SUFFIX: &str = ".slimbit";

/// Whether an [`EventFile`] has this name.
pub(crate) fn is_event_file(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// An event file that is being written.
pub(crate) struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Starts a file in `folder` for a run that resumes after `step` iterations. The session's start makes
    /// TensorBoard forget what an earlier, killed process wrote about later iterations.
    pub(crate) fn create(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let mut second = now() as u64;
        // Names order the files of a run; a restart within a second must come later all the same.
        let (path, file) = loop {
            let path = folder.join(format!("{PREFIX}{second:010}{SUFFIX}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => second += 1,
                Err(e) => return Err(TrainError::io("write", &path, e)),
            }
        };
        let mut events = Self { file, path };
        events.append(&Event {
            wall_time: now(),
            file_version: Some("brain.Event:2".to_owned()),
            ..Event::default()
        })?;
        events.append(&Event {
            wall_time: now(),
            step: step as i64,
            session_log: Some(SessionLog {
                status: SESSION_START,
            }),
            ..Event::default()
        })?;
        Ok(events)
    }

    /// Appends the scalars of one iteration.
    pub(crate) fn scalars(
        &mut self,
        step: u64,
        scalars: impl Iterator<Item = (String, f64)>,
    ) -> Result<(), TrainError> {
        let value = scalars
            .map(|(tag, v)| Scalar {
                tag,
                simple_value: v as f32,
            })
            .collect();
        let summary = Some(Summary { value });
        self.append(&Event {
            wall_time: now(),
            step: step as i64,
            summary,
            ..Event::default()
        })
    }

    fn append(&mut self, event: &Event) -> Result<(), TrainError> {
        let record = frame(&event.encode_to_vec());
        self.file
            .write_all(&record)
            .map_err(|e| TrainError::io("write", &self.path, e))
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// A TFRecord: length, its masked CRC-32C, the data, its masked CRC-32C, all little-endian.
fn frame(data: &[u8]) -> Vec<u8> {
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
    };
    let length = (data.len() as u64).to_le_bytes();
    [
        &length[..],
        &masked(&length).to_le_bytes(),
        data,
        &masked(data).to_le_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of every file that TensorFlow writes.
    #[test]
    fn first_record_is_tensorflows() {
        let version = Event {
            wall_time: 1_500_000_000.0,
            file_version: Some("brain.Event:2".to_owned()),
            ..Event::default()
        };
        let record = frame(&version.encode_to_vec());
        assert_eq!(record[..13], *b"\x18\0\0\0\0\0\0\0\xa3\x7fK\"\t");
        assert_eq!(record[21..36], *b"\x1a\x0dbrain.Event:2");
        assert_eq!(record.len(), 8 + 4 + 24 + 4);
    }

    #[test]
    fn scalars_are_protocol_buffers() {
        let value = vec![Scalar {
            tag: "loss".to_owned(),
            simple_value: 1.0,
        }];
        let event = Event {
            step: 3,
            summary: Some(Summary { value }),
            ..Event::default()
        };
        let expected = b"\x10\x03\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\x80\x3f";
        assert_eq!(event.encode_to_vec(), expected);
    }

    #[test]
    fn a_restart_begins_a_later_file() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 0).unwrap().path;
        let second = EventFile::create(folder.path(), 5).unwrap().path;
        assert!(first < second);
    }
}
