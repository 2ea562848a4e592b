use std::io::{self, Read, Seek, SeekFrom};

/// Fields that are looked at: a model has eight kinds of them, of which metadata repeat.
const MAX_FIELDS: usize = 256;

/// Whether a file of `length` bytes is the protobuf of an ONNX model: known fields with their own wire types up to the
/// end, a graph among them. The graph itself is skipped.
pub(super) fn is_model(file: &mut (impl Read + Seek), length: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let (mut at, mut graph) = (0, false);
    for _ in 0..MAX_FIELDS {
        if at >= length {
            break;
        }
        let Some(tag) = varint(file, &mut at) else {
            return Ok(false);
        };
        match (tag >> 3, tag & 7) {
            // ir_version, model_version.
            (1 | 5, 0) => match varint(file, &mut at) {
                Some(version) if tag >> 3 == 5 || (1..=100).contains(&version) => {}
                _ => return Ok(false),
            },
            // Producer's name and version, domain, documentation, graph, opsets, metadata, training, functions,
            // configuration.
            (field @ (2 | 3 | 4 | 6 | 7 | 8 | 14 | 20 | 25 | 26), 2) => {
                let Some(size) = varint(file, &mut at) else {
                    return Ok(false);
                };
                graph |= field == 7 && size > 0;
                // A file that is cut short is still one of ONNX, if a damaged one.
                let Some(end) = at.checked_add(size) else {
                    return Ok(false);
                };
                at = end;
                file.seek(SeekFrom::Start(at))?;
            }
            _ => return Ok(false),
        }
    }
    Ok(graph)
}

fn varint(file: &mut impl Read, at: &mut u64) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte).ok()?;
        *at += 1;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
