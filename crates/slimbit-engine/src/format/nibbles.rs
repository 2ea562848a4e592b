//! Codes of up to 4 bits, several to a byte.

/// Bits that a code of `bits` takes in a file: 2, 4 or 8.
pub(super) fn stored_bits(bits: u8) -> usize {
    match bits {
        ..=2 => 2,
        3 | 4 => 4,
        _ => 8,
    }
}

/// Bytes of one output channel's `codes` codes.
pub(super) fn stored_bytes(codes: usize, bits: u8) -> usize {
    codes.div_ceil(8 / stored_bits(bits))
}

/// The codes of every output channel (`per_channel` of them), lowest bits first; a channel starts on
/// a byte, and the bits after its last code are zero.
pub(super) fn pack(codes: &[i8], per_channel: usize, bits: u8) -> Vec<u8> {
    let width = stored_bits(bits);
    let byte = |codes: &[i8]| {
        let places = codes.iter().enumerate();
        places.fold(0, |byte, (place, code)| {
            byte | (code.cast_unsigned() << (8 - width) >> (8 - width)) << (place * width)
        })
    };
    codes
        .chunks(per_channel.max(1))
        .flat_map(|channel| channel.chunks(8 / width).map(byte))
        .collect()
}

/// What [`pack`] packed. Nothing where bits after the last code of a channel are set.
pub(super) fn unpack(bytes: &[u8], per_channel: usize, bits: u8) -> Option<Vec<i8>> {
    match stored_bits(bits) {
        2 => unpack_by(bytes, per_channel, |byte| {
            [byte << 6, byte << 4, byte << 2, byte].map(|code| code.cast_signed() >> 6)
        }),
        4 => unpack_by(bytes, per_channel, |byte| {
            [byte << 4, byte].map(|code| code.cast_signed() >> 4)
        }),
        _ => unpack_by(bytes, per_channel, |byte| [byte.cast_signed()]),
    }
}

/// Whole bytes without a look at what they hold: a network has millions.
fn unpack_by<const N: usize>(
    bytes: &[u8],
    per_channel: usize,
    codes_of: impl Fn(u8) -> [i8; N],
) -> Option<Vec<i8>> {
    let stored = per_channel.div_ceil(N).max(1);
    let mut codes = vec![0; bytes.len() / stored * per_channel];
    let channels = codes.chunks_exact_mut(per_channel.max(1));
    for (channel, bytes) in channels.zip(bytes.chunks_exact(stored)) {
        let (groups, rest) = channel.as_chunks_mut();
        for (group, &byte) in groups.iter_mut().zip(bytes) {
            *group = codes_of(byte);
        }
        if !rest.is_empty() {
            let last = codes_of(bytes[stored - 1]);
            let (own, after) = last.split_at(rest.len());
            rest.copy_from_slice(own);
            if after.iter().any(|&code| code != 0) {
                return None;
            }
        }
    }
    Some(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back() {
        for bits in 2..=8u8 {
            let (lo, hi) = (-(1i8 << (bits - 2)) * 2, (1i8 << (bits - 2)) - 1);
            for per_channel in [1, 2, 3, 4, 5, 9] {
                let codes: Vec<i8> = (0..3 * per_channel)
                    .map(|i| if i % 2 == 0 { lo } else { hi })
                    .collect();
                let bytes = pack(&codes, per_channel, bits);
                assert_eq!(bytes.len(), 3 * stored_bytes(per_channel, bits));
                assert_eq!(
                    unpack(&bytes, per_channel, bits),
                    Some(codes),
                    "{bits} bits"
                );
            }
        }
    }

    #[test]
    fn the_lowest_bits_come_first_and_the_rest_is_zero() {
        assert_eq!(pack(&[1, -1, 3], 3, 4), [0xf1, 0x03]);
        assert_eq!(pack(&[1, -2, 0, -1, 1], 5, 2), [0b11_00_10_01, 0b01]);
        assert_eq!(unpack(&[0xf1, 0x13], 3, 4), None);
    }
}
