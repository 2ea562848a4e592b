//! Arbitrary bytes as a float network file: an error or a network that writes what it reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimbit_interchange::Network;

fuzz_target!(|data: &[u8]| {
    if let Ok(network) = Network::from_bytes(data) {
        let again = network.to_bytes().expect("what was read can be written");
        assert!(Network::from_bytes(&again).is_ok_and(|again| again == network));
    }
});
