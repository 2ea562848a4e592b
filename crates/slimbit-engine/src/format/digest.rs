//! The digest of what a file computes: with it, a file can be pinned whatever its author, licence and
//! other free text say.

use blake3::Hasher;

/// How a digest begins: the hash function, so that a file can say another one day.
const PREFIX: &str = "blake3:";

/// What the hash begins with: another version of this scheme would hash something else.
const CONTEXT: &[u8] = b"slimbit digest 1";

/// The keys of the metadata that are part of the digest, in this order: the network, its points, and
/// how an image becomes its input.
const KEYS: [&str; 6] = [
    "format_version",
    "graph",
    "grid",
    "points",
    crate::PREPROCESS,
    "stages",
];

/// A digest under construction. Everything is hashed behind its length, so that no two different
/// files hash the same bytes.
pub(super) struct Digest(Hasher);

impl Digest {
    /// Begins with the metadata; keys that the file lacks are left out.
    pub(super) fn of_metadata<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Self {
        let mut digest = Self(Hasher::new());
        digest.field(CONTEXT);
        for key in KEYS {
            if let Some(value) = value(key) {
                digest.field(key.as_bytes());
                digest.field(value.as_bytes());
            }
        }
        digest
    }

    /// Adds a tensor; they come in the order of their names.
    pub(super) fn tensor(&mut self, name: &str, kind: &str, shape: &[usize], data: &[u8]) {
        self.field(name.as_bytes());
        self.field(kind.as_bytes());
        let sides: Vec<u8> = shape
            .iter()
            .flat_map(|&side| (side as u64).to_le_bytes())
            .collect();
        self.field(&sides);
        self.field(data);
    }

    /// `blake3:` and 64 hexadecimal digits.
    pub(super) fn finish(self) -> String {
        format!("{PREFIX}{}", self.0.finalize().to_hex())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}
