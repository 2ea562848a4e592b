//! Damaged and hostile files: every one gives an error, none a panic.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_engine::{EngineError, Model, Session, reference};

use crate::lowering::{image, residual_model};
use crate::reseal::reseal;

#[test]
fn every_single_bit_flip_of_the_header_is_found() {
    let bytes = residual_model().to_bytes();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut damaged = bytes.clone();
    for at in 0..header {
        let bit = at % 8;
        damaged[at] ^= 1 << bit;
        assert!(
            Model::from_bytes(&damaged[..]).is_err(),
            "bit {bit} of byte {at}"
        );
        damaged[at] ^= 1 << bit;
    }
    assert!(Model::from_bytes(damaged).is_ok());
}

#[test]
fn random_bit_flips_and_truncations_are_found() {
    let bytes = residual_model().to_bytes();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..2000 {
        let mut damaged = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..bytes.len());
            damaged[at] ^= 1 << rng.random_range(0..8);
        }
        if damaged != bytes {
            assert!(Model::from_bytes(damaged).is_err());
        }
        let length = rng.random_range(0..bytes.len());
        assert!(
            Model::from_bytes(&bytes[..length]).is_err(),
            "cut to {length}"
        );
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(Model::from_bytes(longer).is_err());
}

#[test]
fn damage_behind_a_right_checksum_never_panics() {
    let bytes = residual_model().to_bytes();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut read = 0;
    for turn in 0..6000 {
        let mut damaged = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            // Half of the damage goes to the header, which is the smaller and more delicate part.
            let range = if turn % 2 == 0 {
                8..header
            } else {
                header..bytes.len()
            };
            let at = rng.random_range(range);
            damaged[at] = match rng.random_range(0..3) {
                0 => rng.random(),
                1 => damaged[at] ^ (1 << rng.random_range(0..8)),
                _ => b'0' + rng.random_range(0..10),
            };
        }
        reseal(&mut damaged);
        if let Ok(model) = Model::from_bytes(damaged) {
            read += 1;
            exercise(model);
        }
    }
    assert!(
        read > 100,
        "only {read} altered files were consistent: the checks were not reached"
    );
}

/// A consistent model, however odd, runs or says why not.
pub(crate) fn exercise(model: Model) {
    let model = std::sync::Arc::new(model);
    let pixels = image(&model, 0);
    let point = model.points()[0].point;
    if let Ok(mut session) = Session::new(model.clone(), point) {
        let expected = reference::run(&model, point, &pixels).unwrap();
        assert_eq!(session.trace(&pixels).unwrap(), expected);
    }
}

#[test]
fn errors_say_what_and_where_and_what_to_do() {
    let bytes = residual_model().to_bytes();
    let message = |bytes: &[u8]| Model::from_bytes(bytes).unwrap_err().to_string();
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        let mut other = bytes.clone();
        other[at..at + to.len()].copy_from_slice(to.as_bytes());
        reseal(&mut other);
        message(&other)
    };
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cases = [
        (message(&[]), "header"),
        (message(b"not a model at all"), "header"),
        (message(&flipped), "checksum"),
        (
            message(&bytes[..bytes.len() - 1]),
            "copy or export it again",
        ),
        (
            replaced("\"format_version\":\"1\"", "\"format_version\":\"9\""),
            "version `9`",
        ),
        (replaced("\"nested\"", "\"nestet\""), "grid `nestet`"),
        (replaced("\"1x W8A8", "\"1x W9A8"), "W9A8"),
        (
            replaced("codes/stem.act", "codes/stem.axt"),
            "`codes/stem.act`: is missing",
        ),
        (
            replaced("\"format\":\"slimbit\"", "\"format\":\"slimbat\""),
            "format `slimbat`",
        ),
        (
            replaced("\\\"input\\\",\\\"stem.act", "\\\"input\\\",\\\"stem.axt"),
            "`stages`",
        ),
    ];
    for (found, wanted) in cases {
        let found = found.replace("\\\"", "\"");
        assert!(found.contains(wanted), "`{wanted}` is not in: {found}");
    }
    let absent = Model::open("/nowhere/model.slim").unwrap_err();
    assert!(matches!(absent, EngineError::Io { .. }) && absent.to_string().contains("/nowhere"));
}
