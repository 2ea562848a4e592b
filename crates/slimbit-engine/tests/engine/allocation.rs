use slimbit_engine::{Model, Session};
use slimbit_kernels::Isa;

use crate::corpus::seeds;
use crate::counting::{largest_of_thread, of_process, of_thread};
use crate::lowering::{image, points, random_model};

#[test]
fn running_an_image_and_returning_to_a_point_allocate_nothing() {
    assert_eq!(of_thread(|| drop(vec![0u8; 64])), 1);
    assert!(of_process(|| drop(vec![0u8; 64])) > 0);
    for seed in 0..12 {
        let model = random_model(seed);
        let pixels = image(&model, seed);
        for isa in Isa::available() {
            let mut session = Session::with_isa(model.clone(), points()[0], isa).unwrap();
            points()
                .into_iter()
                .for_each(|point| session.set_point(point).unwrap());
            for point in points() {
                let counted = of_thread(|| {
                    session.set_point(point).unwrap();
                    let outputs = session.run(&pixels).unwrap();
                    assert!(outputs.iter().all(|(_, output)| !output.codes.is_empty()));
                });
                assert_eq!(counted, 0, "seed {seed}, {point} on {isa}");
            }
        }
    }
}

#[test]
fn no_request_of_the_reader_exceeds_the_file() {
    for (name, bytes, _) in seeds() {
        let mut outcome = Ok(());
        let largest = largest_of_thread(|| outcome = Model::from_bytes(&bytes[..]).map(drop));
        let length = bytes.len();
        assert!(
            largest <= length.max(4096),
            "{name}: {largest} for {length}, {outcome:?}"
        );
    }
}
