use slimbit_engine::{Session, largest_live_set, reference};
use slimbit_kernels::Isa;

use crate::lowering::{image, points, random_model, residual_model};

#[test]
fn every_instruction_set_equals_the_reference_at_every_stage() {
    let mut kernels = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let model = random_model(seed);
        for isa in Isa::available() {
            for point in points() {
                let mut session = Session::with_isa(model.clone(), point, isa).unwrap();
                for picture in 0..2 {
                    let pixels = image(&model, seed * 100 + picture);
                    let expected = reference::run(&model, point, &pixels).unwrap();
                    let found = session.trace(&pixels).unwrap();
                    for difference in expected.compare(&found) {
                        assert_eq!(
                            difference.differing,
                            0,
                            "seed {seed}, {point} on {isa}: {difference:?}\n{}",
                            model.graph().to_json()
                        );
                    }
                    assert_eq!(found, expected);
                }
                kernels.extend(session.plan().stages().iter().map(|stage| stage.kernel()));
            }
        }
    }
    for kernel in [
        "add",
        "table",
        "max_pool",
        "sum_pool",
        "global_sum",
        "pad_shortcut",
        "alias",
    ] {
        assert!(
            kernels.contains(kernel),
            "no network exercised {kernel}: {kernels:?}"
        );
    }
}

#[test]
fn the_images_exercise_the_networks() {
    let mut spread = 0;
    for seed in 0..20 {
        let model = random_model(seed);
        let trace = reference::run(&model, points()[0], &image(&model, seed)).unwrap();
        let last = &trace.stages.last().unwrap().codes;
        let different: std::collections::BTreeSet<_> = last.iter().collect();
        spread += usize::from(different.len() >= 3);
    }
    assert!(
        spread >= 15,
        "only {spread} of 20 networks give outputs that vary"
    );
}

#[test]
fn outputs_are_the_integers_of_their_stages() {
    for seed in 0..20 {
        let model = random_model(seed);
        let point = points()[1];
        let mut session = Session::new(model.clone(), point).unwrap();
        let pixels = image(&model, seed);
        let trace = session.trace(&pixels).unwrap();
        let outputs = session.run(&pixels).unwrap();
        assert_eq!(outputs.iter().count(), model.graph().outputs().len());
        for (name, node) in model.graph().outputs() {
            let stage = model
                .stages()
                .iter()
                .find(|stage| stage.node == *node)
                .unwrap();
            let output = outputs.get(name).unwrap();
            let expected = trace.get(&stage.name).unwrap();
            assert_eq!(output.codes, expected.codes, "seed {seed}, output {name}");
            assert_eq!(output.layout, expected.layout);
            let real = output.to_f32();
            let first = output.scale() * (output.codes[0] - output.zero_point()) as f32;
            assert_eq!((real.len(), real[0]), (output.codes.len(), first));
        }
        assert!(outputs.get("nothing").is_none());
    }
}

#[test]
fn moving_between_points_and_back_changes_nothing() {
    for seed in 0..20 {
        let model = random_model(seed);
        let pixels = image(&model, seed);
        let points = points();
        let fresh = points.iter().map(|&point| {
            Session::new(model.clone(), point)
                .unwrap()
                .trace(&pixels)
                .unwrap()
        });
        let fresh: Vec<_> = fresh.collect();
        // From the smallest point, so that the arena has to grow on the way.
        let mut session = Session::new(model.clone(), points[2]).unwrap();
        for turn in [2, 0, 1, 2, 3, 0, 2, 1, 1, 0] {
            session.set_point(points[turn]).unwrap();
            assert_eq!(session.point(), points[turn]);
            assert_eq!(session.trace(&pixels).unwrap(), fresh[turn], "seed {seed}");
            assert_eq!(
                session.trace(&pixels).unwrap(),
                fresh[turn],
                "seed {seed}, again"
            );
        }
    }
}

#[test]
fn the_arena_holds_the_largest_live_set_and_reuses_memory() {
    let mut reused = false;
    for seed in 0..40 {
        let session = Session::new(random_model(seed), points()[0]).unwrap();
        let plan = session.plan();
        let total: usize = plan.lifetimes().iter().map(|lifetime| lifetime.bytes).sum();
        assert!(plan.arena_bytes() >= largest_live_set(plan.lifetimes()));
        assert!(plan.arena_bytes() <= total + 64 * plan.lifetimes().len());
        reused |= plan.arena_bytes() < total;
        assert!(plan.packed_bytes() > 0);
    }
    assert!(reused, "no network reused any memory");
}

#[test]
fn plans_count_the_work_of_the_graph() {
    let model = residual_model();
    for point in points() {
        let mut session = Session::new(model.clone(), point).unwrap();
        let cost = model.graph().cost(point.width).unwrap();
        assert_eq!(session.plan().macs(), cost.macs);
        let times = session.run_profiled(&image(&model, 0)).unwrap();
        assert_eq!(times.len(), session.plan().stages().len());
    }
}

#[test]
fn requests_that_cannot_be_met_are_refused_with_their_remedy() {
    let model = residual_model();
    let mut session = Session::new(model.clone(), points()[0]).unwrap();
    let error = session.run(&[0; 5]).unwrap_err().to_string();
    assert!(
        error.contains("5 bytes") && error.contains("takes 192"),
        "{error}"
    );
    let absent = "0.75x W8A8".parse().unwrap();
    let error = session.set_point(absent).unwrap_err().to_string();
    assert!(
        error.contains("`0.75x W8A8`") && error.contains("0.25x W2A4"),
        "{error}"
    );
    assert_eq!(session.point(), points()[0]);
    assert!(Session::new(model.clone(), absent).is_err());
    assert!(reference::run(&model, absent, &[0; 192]).is_err());
    assert!(reference::run(&model, points()[0], &[0; 191]).is_err());
}
