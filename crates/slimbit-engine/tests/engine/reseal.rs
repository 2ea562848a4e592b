/// Makes the checksum of altered bytes right again and takes the digest for free text, so that the checks
/// behind them are reached.
pub(crate) fn reseal(bytes: &mut [u8]) {
    const DIGEST: &[u8] = b"\"digest\":\"";
    if let Some(key) = bytes
        .windows(DIGEST.len())
        .position(|window| window == DIGEST)
    {
        bytes[key + 1] = b'D';
    }
    recheck(bytes);
}

/// Makes the checksum right again and leaves all else.
pub(crate) fn recheck(bytes: &mut [u8]) {
    const KEY: &[u8] = b"\"checksum\":\"";
    let Some(key) = bytes.windows(KEY.len()).position(|window| window == KEY) else {
        return;
    };
    let digits = key + KEY.len()..key + KEY.len() + 8;
    if digits.end > bytes.len() {
        return;
    }
    bytes[digits.clone()].fill(b'0');
    let sum = format!("{:08x}", crc32fast::hash(bytes));
    bytes[digits].copy_from_slice(sum.as_bytes());
}
