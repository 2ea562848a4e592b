//! Batch-norm with its activation against Burn's own and against a direct computation.

use burn::tensor::{Device, Tensor, TensorData, module};
use slimbit_nn::ops::{Activation, affine_act, batch_norm_act};

use crate::noise;

const EPS: f32 = 1e-5;

/// Values in about (-2, 2) around `centre`.
fn spread<const D: usize>(shape: [usize; D], seed: u64, centre: f32) -> TensorData {
    let mut data = noise(shape, seed);
    for v in data.as_mut_slice::<f32>().expect("f32 values") {
        *v = 2.0 * *v + centre;
    }
    data
}

fn apply<const D: usize>(activation: Activation, z: Tensor<D>) -> Tensor<D> {
    match activation {
        Activation::None => z,
        Activation::Relu => z.clamp_min(0.0),
        Activation::Relu6 => z.clamp(0.0, 6.0),
    }
}

/// Output and the gradients of x, gamma and beta of `sum(y * g)`.
fn run<const D: usize>(
    shape: [usize; D],
    centre: f32,
    f: impl Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>,
) -> [Vec<f32>; 4] {
    let device = Device::flex().autodiff();
    let x = Tensor::<D>::from_data(spread(shape, 1, centre), &device).require_grad();
    let gamma = Tensor::<1>::from_data(spread([shape[1]], 2, 3.0), &device).require_grad();
    let beta = Tensor::<1>::from_data(spread([shape[1]], 3, 0.5), &device).require_grad();
    let g = Tensor::<D>::from_data(spread(shape, 4, 0.3), &device);
    let y = f(x.clone(), gamma.clone(), beta.clone());
    let grads = (y.clone() * g).sum().backward();
    let dx = x.grad(&grads).expect("x is tracked").into_data();
    let [dgamma, dbeta] = [gamma, beta].map(|t| t.grad(&grads).expect("tracked").into_data());
    [y.into_data(), dx, dgamma, dbeta].map(|data| data.try_to_vec().expect("f32 values"))
}

fn compare<const D: usize>(shape: [usize; D], activation: Activation) {
    let ours = run(shape, 0.0, |x, gamma, beta| {
        batch_norm_act(x, gamma, beta, EPS, activation).output
    });
    let burns = run(shape, 0.0, |x, gamma, beta| {
        apply(
            activation,
            module::batch_norm_train(x, gamma, beta, f64::from(EPS)).output,
        )
    });
    for (what, (ours, burns)) in ["y", "dx", "dgamma", "dbeta"]
        .iter()
        .zip(ours.iter().zip(&burns))
    {
        let scale = burns.iter().fold(1.0f32, |max, v| max.max(v.abs()));
        for (ours, burns) in ours.iter().zip(burns) {
            let difference = (ours - burns).abs() / scale;
            assert!(
                difference < 1e-5,
                "{what}: {ours}, not {burns}, for {shape:?} {activation:?}"
            );
        }
    }
}

#[test]
fn output_and_gradients_equal_burns() {
    for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
        compare([8, 5, 14, 14], activation);
        compare([7, 3, 5, 3], activation);
        compare([16, 20, 4, 4], activation);
        compare([6, 4, 1, 1], activation);
        compare([33, 19], activation);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("thread pool").install(|| {
            run([16, 40, 14, 14], 0.0, |x, gamma, beta| {
                batch_norm_act(x, gamma, beta, EPS, Activation::Relu).output
            })
        })
    };
    let bits = |run: [Vec<f32>; 4]| run.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let one = bits(on(1));
    assert_eq!(one, bits(on(2)));
    assert_eq!(one, bits(on(3)));
}

#[test]
fn statistics_survive_a_mean_far_from_zero() {
    let device = Device::flex().autodiff();
    let shape = [32, 2, 7, 7];
    let data = spread(shape, 9, 1000.0);
    let values = data.try_to_vec::<f32>().expect("f32");
    let (ones, zeros) = (Tensor::ones([2], &device), Tensor::zeros([2], &device));
    let batch = batch_norm_act(
        Tensor::<4>::from_data(data, &device),
        ones,
        zeros,
        EPS,
        Activation::None,
    );
    assert_eq!(batch.count, 32 * 49);
    let unbiased = batch
        .unbiased_variance()
        .into_data()
        .try_to_vec::<f32>()
        .expect("f32");
    let (mean, variance) = (batch.mean.into_data(), batch.variance.into_data());
    for channel in 0..2 {
        let own: Vec<f64> = values
            .chunks(49)
            .skip(channel)
            .step_by(2)
            .flatten()
            .map(|&v| f64::from(v))
            .collect();
        let expected = own.iter().sum::<f64>() / own.len() as f64;
        let squares: f64 = own.iter().map(|v| (v - expected) * (v - expected)).sum();
        let close = |a: f32, b: f64, by: f64| (f64::from(a) / b - 1.0).abs() < by;
        assert!(close(
            mean.as_slice::<f32>().expect("f32")[channel],
            expected,
            1e-7
        ));
        let biased = variance.as_slice::<f32>().expect("f32")[channel];
        assert!(close(biased, squares / own.len() as f64, 1e-5), "{biased}");
        assert!(close(
            unbiased[channel],
            squares / (own.len() - 1) as f64,
            1e-5
        ));
    }
}

#[test]
fn statistics_carry_no_graph() {
    let device = Device::flex().autodiff();
    let x = Tensor::<2>::from_data(spread([6, 3], 1, 0.0), &device).require_grad();
    let (ones, zeros) = (Tensor::ones([3], &device), Tensor::zeros([3], &device));
    let batch = batch_norm_act(x, ones, zeros, EPS, Activation::None);
    assert!(!batch.mean.device().is_autodiff());
    assert!(batch.output.device().is_autodiff());
}

#[test]
fn a_given_affine_equals_its_formula_and_passes_the_gradient() {
    let device = Device::flex().autodiff();
    let x = Tensor::<4>::from_data(spread([3, 2, 2, 2], 1, 0.0), &device).require_grad();
    let scale = Tensor::<1>::from_floats([2.0, -4.0], &device);
    let shift = Tensor::<1>::from_floats([0.5, 1.0], &device);
    let y = affine_act(x.clone(), scale.clone(), shift.clone(), Activation::Relu6);
    let wide = |t: Tensor<1>| t.reshape([1, 2, 1, 1]);
    let z = x.clone() * wide(scale.clone()) + wide(shift);
    y.clone()
        .into_data()
        .assert_eq(&z.clone().clamp(0.0, 6.0).into_data(), true);
    let dx = x.grad(&y.sum().backward()).expect("x is tracked");
    let open = z
        .clone()
        .greater_elem(0.0)
        .bool_and(z.lower_elem(6.0))
        .float();
    let expected = open.without_autodiff() * wide(scale).without_autodiff();
    dx.into_data().assert_eq(&expected.into_data(), true);
}
