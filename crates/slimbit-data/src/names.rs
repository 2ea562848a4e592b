//! File names as text: without loss in lists that programs read, and harmless on a terminal.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write;

/// A file name as one line of UTF-8 from which its bytes can be had back: the escapes are those of a
/// Python bytes literal.
///
/// A backslash becomes `\\`, a line feed `\n`, a carriage return `\r`, a tab `\t`, and every byte of
/// another control character, of a character that changes lines or the direction of text, and of
/// what is no UTF-8, `\xNN`. All else stays. In Python, `codecs.escape_decode(line.encode())[0]`
/// gives the name's bytes.
///
/// ```
/// use std::ffi::OsStr;
/// use slimbit_data::escape_name;
///
/// assert_eq!(escape_name(OsStr::new("cat/café 1.jpg")), "cat/café 1.jpg");
/// assert_eq!(escape_name(OsStr::new("two\nlines\\.jpg")), "two\\nlines\\\\.jpg");
/// ```
pub fn escape_name(name: &OsStr) -> Cow<'_, str> {
    escaped(name.as_encoded_bytes(), true)
}

/// A file name, path or other foreign text as it may be printed: what would move the cursor, break
/// the line or turn the text around is escaped as by [`escape_name`]; backslashes stay as they are.
///
/// ```
/// use slimbit_data::printable;
///
/// assert_eq!(printable("red\x1b[31m.jpg"), "red\\x1b[31m.jpg");
/// assert_eq!(printable(r"C:\photos"), r"C:\photos");
/// ```
pub fn printable<T: AsRef<OsStr> + ?Sized>(text: &T) -> Cow<'_, str> {
    escaped(text.as_ref().as_encoded_bytes(), false)
}

/// Whether a character is not shown as itself: control characters, Unicode's line and paragraph
/// separators, and marks that reorder text or cannot be seen.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

fn escaped(bytes: &[u8], reversible: bool) -> Cow<'_, str> {
    let stays = |c: char| !is_hidden(c) && (c != '\\' || !reversible);
    if let Ok(text) = std::str::from_utf8(bytes)
        && text.chars().all(stays)
    {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(bytes.len() + 8);
    let hexadecimal = |line: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(line, "\\x{byte:02x}").expect("a string takes everything");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' if reversible => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                hidden if is_hidden(hidden) => {
                    hexadecimal(&mut line, hidden.encode_utf8(&mut [0; 4]).as_bytes());
                }
                shown => line.push(shown),
            }
        }
        hexadecimal(&mut line, chunk.invalid());
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `codecs.escape_decode` does with these escapes.
    fn unescape(line: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), line.as_bytes());
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            if first != b'\\' {
                bytes.push(first);
                continue;
            }
            let (&kind, after) = rest.split_first().unwrap();
            rest = after;
            bytes.push(match kind {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'\\' => b'\\',
                b'x' => {
                    let digits = std::str::from_utf8(&rest[..2]).unwrap();
                    rest = &rest[2..];
                    u8::from_str_radix(digits, 16).unwrap()
                }
                other => panic!("\\{}", char::from(other)),
            });
        }
        bytes
    }

    #[test]
    fn every_name_is_one_line_and_comes_back() {
        let names: [&[u8]; 9] = [
            b"plain.jpg",
            "caf\u{e9} \u{1f642} \"q\".jpg".as_bytes(),
            b"caf\xe9.jpg",
            b"new\nline\r\t.jpg",
            b"back\\slash\\n.jpg",
            b"\x1b[2J\x07\x7f",
            "\u{85}\u{2028}\u{202e}gpj.\u{feff}".as_bytes(),
            b"\xff\xfe\\xff",
            b"",
        ];
        for name in names {
            let line = escaped(name, true);
            assert_eq!(unescape(&line), name, "{line}");
            assert!(!line.chars().any(is_hidden), "{line:?}");
        }
        assert_eq!(escaped(b"caf\xe9", true), "caf\\xe9");
        assert_eq!(escaped("\u{2028}".as_bytes(), true), "\\xe2\\x80\\xa8");
    }
}
