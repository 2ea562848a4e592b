//! Optimiser, teacher, and what a step may and may not change (U5, U11, U12, U13).

use crate::networks::{images, to_vec, width};
use burn::tensor::{Device, Tensor};
use slimbit_graph::{ParamSpec, Width};
use slimbit_nn::losses::cosine;
use slimbit_nn::{
    Averaging, GroupReg, Head, HeadSpec, Mode, Net, Observer, ParamStore, Penalty, Sgd, ema_update,
};

fn pair(device: &Device) -> ParamStore {
    let spec = ParamSpec {
        name: "theta".to_owned(),
        shape: vec![2],
    };
    ParamStore::new(vec![spec], vec![vec![1.0, 1.0]], device).unwrap()
}

#[test]
fn golden_trace_of_sliced_sgd() {
    let mut store = pair(&Device::flex().autodiff());
    let mut sgd = Sgd::new(0.9, 0.01, &[&store]);
    let trace = [
        (2, [0.899, 0.899]),
        (1, [0.707201, 0.807201]),
        (1, [0.433875, 0.723775]),
        (2, [0.087447, 0.547967]),
        (1, [-0.324425, 0.389193]),
        (1, [-0.794786, 0.245906]),
    ];
    for (active, wanted) in trace {
        let loss = store.block::<1>("theta", [active]).unwrap().sum();
        let grads = loss.backward();
        sgd.step(0.1, &mut [&mut store], &mut [vec![grads]], Penalty::None)
            .unwrap();
        for (got, wanted) in to_vec(&store.values()[0]).iter().zip(wanted) {
            assert!((got - wanted).abs() < 2e-6, "{got} {wanted}");
        }
    }
}

#[test]
fn rates_scale_the_step_of_single_parameters_and_zero_freezes() {
    let device = Device::flex().autodiff();
    let (mut fast, mut slow, mut frozen) = (pair(&device), pair(&device), pair(&device));
    let mut sgd = Sgd::new(0.9, 0.01, &[&fast, &slow, &frozen]);
    sgd = sgd.with_rates(vec![vec![1.0], vec![0.5], vec![0.0]]);
    let sum = |store: &ParamStore| store.block::<1>("theta", [2]).unwrap().sum();
    let grads = (sum(&fast) + sum(&slow) + sum(&frozen)).backward();
    let stores = &mut [&mut fast, &mut slow, &mut frozen];
    sgd.step(0.1, stores, &mut [vec![grads]], Penalty::None)
        .unwrap();
    for (store, wanted) in [(&fast, 0.899), (&slow, 0.9495), (&frozen, 1.0)] {
        assert!((to_vec(&store.values()[0])[0] - wanted).abs() < 1e-6);
    }
    assert_eq!(
        *sgd.to_bytes().last().unwrap(),
        0,
        "no momentum where nothing moves"
    );
}

#[test]
fn an_unused_head_rests_until_its_first_gradient_and_coasts_afterwards() {
    let device = Device::flex().autodiff();
    let (mut used, mut head) = (pair(&device), pair(&device));
    let mut sgd = Sgd::new(0.9, 0.01, &[&used, &head]);
    let sum = |store: &ParamStore| store.block::<1>("theta", [2]).unwrap().sum();
    let mut seen = Vec::new();
    for with_head in [false, true, false] {
        let loss = match with_head {
            true => sum(&used) + sum(&head),
            false => sum(&used),
        };
        let grads = loss.backward();
        sgd.step(
            0.1,
            &mut [&mut used, &mut head],
            &mut [vec![grads]],
            Penalty::None,
        )
        .unwrap();
        seen.push(to_vec(&head.values()[0])[0]);
    }
    // v = 1.01, then v = 0.9 * 1.01 + 0.01 * 0.899.
    for (got, wanted) in seen
        .iter()
        .zip([1.0, 0.899, 0.899 - 0.1 * (0.909 + 0.00899)])
    {
        assert!((got - wanted).abs() < 1e-6, "{seen:?}");
    }
}

/// Mixed precision: what overflows moves nothing, and the next loss is scaled by half as much.
#[test]
fn scaled_losses_give_the_steps_of_plain_ones() {
    let device = Device::flex().autodiff();
    let (mut plain, mut scaled) = (pair(&device), pair(&device));
    let mut of_plain = Sgd::new(0.9, 0.01, &[&plain]);
    let mut of_scaled = Sgd::new(0.9, 0.01, &[&scaled]).with_loss_scaling();
    let step = |store: &mut ParamStore, sgd: &mut Sgd, times: f32| {
        let loss = store.block::<1>("theta", [2]).unwrap().square().sum() * times;
        let grads = loss.backward();
        sgd.step(0.1, &mut [store], &mut [vec![grads]], Penalty::None)
            .unwrap()
    };
    for round in 0..3 {
        let factor = of_scaled.loss_scale() as f32;
        assert_eq!(factor, [65536.0, 32768.0, 32768.0][round]);
        if round == 0 {
            let before = scaled.to_bytes();
            let norm = step(&mut scaled, &mut of_scaled, f32::INFINITY);
            assert_eq!((norm, scaled.to_bytes()), (None, before));
            continue;
        }
        let norm = step(&mut plain, &mut of_plain, 1.0);
        assert_eq!(step(&mut scaled, &mut of_scaled, factor), norm);
        assert_eq!(scaled.to_bytes(), plain.to_bytes());
    }
    let mut restored = Sgd::new(0.9, 0.01, &[&scaled]).with_loss_scaling();
    restored.load_loss_scale_state(of_scaled.loss_scale_state().unwrap());
    assert_eq!(restored.loss_scale_state(), Some([32768.0, 2.0]));
}

#[test]
fn a_restored_optimiser_continues_bit_for_bit() {
    let device = Device::flex().autodiff();
    let step = |store: &mut ParamStore, sgd: &mut Sgd, active: usize| {
        let block = store.block::<1>("theta", [active]).unwrap();
        let grads = block.square().sum().backward();
        let reg = GroupReg::new(1e-3, 10);
        let penalty = Penalty::Groups {
            reg: &reg,
            epoch: 7,
            stores: &[true],
        };
        sgd.step(0.05, &mut [store], &mut [vec![grads]], penalty)
            .unwrap();
    };
    let mut store = pair(&device);
    let mut sgd = Sgd::new(0.9, 0.0, &[&store]);
    step(&mut store, &mut sgd, 1);
    let (theta, momentum) = (store.to_bytes(), sgd.to_bytes());
    step(&mut store, &mut sgd, 2);

    let mut again = pair(&device);
    again.load_bytes(&theta).unwrap();
    let mut other = Sgd::new(0.9, 0.0, &[&again]);
    assert!(other.load_bytes(&momentum[1..], &[&again]).is_err());
    other.load_bytes(&momentum, &[&again]).unwrap();
    step(&mut again, &mut other, 2);
    assert_eq!(again.to_bytes(), store.to_bytes());
    assert_eq!(other.to_bytes(), sgd.to_bytes());
}

#[test]
fn a_teacher_is_the_exponential_average_and_shares_nothing() {
    let device = Device::flex().autodiff();
    let net = Net::init(crate::networks::residual(), 1, &device).unwrap();
    let mut teacher = net.teacher();
    assert!(!teacher.store().device().is_autodiff());
    let start = teacher.params();
    let online = Net::init(crate::networks::residual(), 2, &device).unwrap();
    for _ in 0..5 {
        ema_update(teacher.store_mut(), online.store(), 0.99).unwrap();
    }
    let kept = 0.99f64.powi(5);
    let (now, target) = (teacher.params(), online.params());
    for (name, array) in &now.0 {
        for (i, &got) in array.data.iter().enumerate() {
            let (from, to) = (start.0[name].data[i], target.0[name].data[i]);
            let wanted = kept * f64::from(from) + (1.0 - kept) * f64::from(to);
            assert!((f64::from(got) - wanted).abs() < 1e-6, "{name}");
        }
    }
    assert_eq!(net.params(), start, "the student moved with its teacher");
    let other = Net::init(crate::networks::bottleneck(), 1, &device).unwrap();
    assert!(ema_update(teacher.store_mut(), other.store(), 0.99).is_err());
}

/// One US3L iteration: targets are computed once, stay what they are, and take no gradient.
#[test]
fn targets_outlive_the_steps_of_an_iteration() {
    let device = Device::flex().autodiff();
    let mut net = Net::init(crate::networks::residual(), 1, &device).unwrap();
    let spec = HeadSpec::projector(32, 24, 16, true);
    let mut projector = Head::init("projector", spec, 1, &device).unwrap();
    let mut head = Head::init("head", HeadSpec::predictor(16, 24), 1, &device).unwrap();
    let (teacher, teacher_projector) = (net.teacher(), projector.teacher());
    let views = [1, 2].map(|seed| images(net.graph(), 6, seed, &Device::flex()));
    let embed = |net: &Net, projector: &Head, w: Width, x: &Tensor<4>| {
        let features = net.forward(x, &Mode::float(w), None).unwrap();
        projector
            .forward(features.vector("features").unwrap())
            .unwrap()
    };
    let targets = views
        .each_ref()
        .map(|x| embed(&teacher, &teacher_projector, Width::FULL, x));
    assert!(targets.iter().all(|t| !t.is_autodiff()));
    let before = targets.each_ref().map(to_vec);
    let mut sgd = Sgd::new(0.9, 1e-4, &[net.store(), projector.store(), head.store()]);
    let mut losses = Vec::new();
    for w in [1.0, 0.6, 0.25, 0.25].map(width) {
        let z = views.each_ref().map(|x| {
            let z = embed(&net, &projector, w, x);
            head.forward(z).unwrap()
        });
        let loss = cosine(z, targets.clone());
        losses.push(loss.clone().into_scalar::<f32>());
        let grads = loss.backward();
        let stores = &mut [net.store_mut(), projector.store_mut(), head.store_mut()];
        sgd.step(0.05, stores, &mut [vec![grads]], Penalty::None)
            .unwrap();
    }
    assert_eq!(targets.each_ref().map(to_vec), before);
    assert!(losses[3] < losses[2], "{losses:?}");
}

/// US3L's rule: there are no running statistics. Passes do not influence each other, whatever ran
/// before; only an observer counts them (four per SSQL step, as the reference's buffers do).
#[test]
fn passes_leave_no_trace_in_the_network() {
    let device = Device::flex();
    let net = Net::init(crate::networks::residual(), 1, &device).unwrap();
    let x = images(net.graph(), 4, 1, &device);
    let mode = Mode::float(Width::FULL);
    let run = |observer: Option<&mut Observer>| {
        let y = net.forward(&x, &mode, observer).unwrap();
        to_vec(&y.vector("features").unwrap())
    };
    let (bytes, first) = (net.store().to_bytes(), run(None));
    let mut observer = Observer::new(Averaging::Cumulative);
    for w in [0.25, 0.5, 0.75, 1.0].map(width) {
        net.forward(&x, &Mode::float(w), None).unwrap();
        run(Some(&mut observer));
    }
    assert_eq!(observer.passes(), 4);
    assert_eq!(run(None), first);
    assert_eq!(net.store().to_bytes(), bytes);
    assert!(
        net.store()
            .specs()
            .iter()
            .all(|s| !s.name.contains("running"))
    );
}
