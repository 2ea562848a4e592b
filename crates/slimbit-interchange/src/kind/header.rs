//! The header of a safetensors file, of which only the metadata are kept.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::FileKind;

/// Longest header that is read: the limit of the safetensors library itself.
const LONGEST: u64 = 100_000_000;

/// Whose the file is, which begins with eight bytes of length and a header in JSON.
pub(super) fn kind(mut file: impl Read + Seek) -> io::Result<FileKind> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut count = [0; 8];
    file.read_exact(&mut count)?;
    let count = u64::from_le_bytes(count).min(length).min(LONGEST);
    let mut text = Vec::new();
    file.take(count).read_to_end(&mut text)?;
    Ok(match serde_json::from_slice::<Header>(&text) {
        Ok(Header { own: true, .. }) => FileKind::TrainingCheckpoint,
        Ok(Header { format, .. }) => match format.as_deref() {
            Some("slimbit") => FileKind::Slim,
            Some("slimbit-network") => FileKind::Network,
            _ => FileKind::SafeTensors,
        },
        // A damaged header is for its reader to judge, if it can be told whose.
        Err(_) => {
            let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
            if has(br#""format":"slimbit""#) {
                FileKind::Slim
            } else if has(br#""format":"slimbit-network""#) {
                FileKind::Network
            } else {
                FileKind::SafeTensors
            }
        }
    })
}

/// What the `__metadata__` say.
#[derive(Default)]
struct Header {
    format: Option<String>,
    /// The one entry of a training checkpoint is there.
    own: bool,
}

#[derive(Deserialize)]
struct Metadata {
    format: Option<String>,
    slimbit: Option<IgnoredAny>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Skips every tensor, so that a long header takes no more memory than its text.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the header of a safetensors file")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                let metadata: Metadata = map.next_value()?;
                header.format = metadata.format;
                header.own = metadata.slimbit.is_some();
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(header)
    }
}
