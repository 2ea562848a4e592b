use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::{Network, names};

use crate::corpus::seeds;

/// Both readers, and all that follows a success.
pub(crate) fn read(bytes: &[u8]) {
    if let Ok(tensors) = Tensors::from_bytes(bytes)
        && let Ok(name) = names::guess(&tensors)
    {
        let _ = names::import(&tensors, &name, [32; 2]);
    }
    if let Ok(network) = Network::from_bytes(bytes) {
        let again = network.to_bytes().expect("what was read can be written");
        assert!(Network::from_bytes(&again).is_ok_and(|again| again == network));
    }
}

/// Thousands of damaged files: an error or a consistent result, never a panic.
#[test]
fn damaged_files_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for seed in seeds().into_iter().filter(|seed| seed.refusal.is_none()) {
        for _ in 0..800 {
            let mut bytes = seed.bytes.clone();
            for _ in 0..rng.random_range(1..5) {
                let at = rng.random_range(0..bytes.len());
                let end = bytes.len().min(at + 8);
                match rng.random_range(0..6) {
                    0 => bytes.truncate(at + 1),
                    1 => bytes[at] = rng.random(),
                    2 => bytes[at] ^= 1 << rng.random_range(0..8),
                    3 => bytes.insert(at, rng.random()),
                    4 => bytes[at..end].fill(0xff),
                    _ => {
                        let from = rng.random_range(0..bytes.len());
                        let length = (bytes.len() - from.max(at)).min(16);
                        bytes.copy_within(from..from + length, at);
                    }
                }
            }
            read(&bytes);
        }
    }
}

#[test]
fn no_part_of_a_file_is_taken_for_the_whole() {
    for seed in seeds().into_iter().filter(|seed| seed.refusal.is_none()) {
        for end in 0..seed.bytes.len() {
            let part = &seed.bytes[..end];
            assert!(
                seed.refusal_of(part).is_some(),
                "{} up to byte {end}",
                seed.name
            );
        }
    }
}
