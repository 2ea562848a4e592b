//! Golden values and the closed-form gradient of the losses (U7, U8).

use burn::tensor::{DType, Device, Tensor, TensorData};
use slimbit_nn::losses::{cosine, info_nce, info_nce_pair, moco, normalise, seed};

const F1: [f64; 6] = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0];
const F2: [f64; 6] = [0.6, 0.8, 0.8, -0.6, 0.0, 2.0];
const G1: [f64; 6] = [0.3, 0.4, 1.0, -1.0, 0.2, 0.9];
const G2: [f64; 6] = [1.0, 0.2, 0.5, -0.5, -0.4, 0.7];

fn rows(data: &[f64], dim: usize) -> Tensor<2> {
    let data = TensorData::new(data.to_vec(), [data.len() / dim, dim]);
    Tensor::from_data(data, (&Device::flex().autodiff(), DType::F64))
}

fn value(loss: &Tensor<1>) -> f64 {
    loss.clone().into_scalar::<f64>()
}

fn assert_close(got: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(got.len(), wanted.len());
    for (g, w) in got.iter().zip(wanted) {
        assert!((g - w).abs() < tolerance, "{got:?} against {wanted:?}");
    }
}

/// The spec's values come from an `f32` run.
#[test]
fn golden_values() {
    let [f1, f2, g1, g2] = [F1, F2, G1, G2].map(|v| rows(&v, 2));
    let f1 = f1.require_grad();
    let target = f2.clone().without_autodiff();
    let loss = info_nce_pair(f1.clone(), target, 0.5);
    assert_close(&[value(&loss)], &[2.29378676], 1e-6);
    let gradient = f1.grad(&loss.backward()).unwrap();
    assert_close(
        &gradient.into_data().try_to_vec::<f64>().unwrap(),
        &[0.0, -0.427439, -0.273778, 0.0, 0.213743, -0.213743],
        1e-6,
    );
    // Views as the spec names them: students (f1, g1), teachers (g2, f2).
    let (students, teachers) = ([f1, g1], [g2, f2]);
    let loss = info_nce(students.clone(), teachers.clone(), 0.5);
    assert_close(&[value(&loss)], &[1.54936230], 1e-6);
    assert_close(&[value(&cosine(students, teachers))], &[-0.53204799], 1e-6);
}

/// Spec section 1.3, in plain loops.
fn closed_form(f: &[f64], g: &[f64], n: usize, d: usize, temperature: f64) -> Vec<f64> {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let unit = |v: &[f64]| v.iter().map(|x| x / norm(v)).collect::<Vec<_>>();
    let x: Vec<Vec<f64>> = f.chunks(d).chain(g.chunks(d)).map(unit).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let p: Vec<Vec<f64>> = (0..2 * n)
        .map(|i| {
            let e = |k: usize| match k == i {
                true => 0.0,
                false => (dot(&x[i], &x[k]) / temperature).exp(),
            };
            let sum: f64 = (0..2 * n).map(e).sum();
            (0..2 * n).map(|k| e(k) / sum).collect()
        })
        .collect();
    let mut gradient = Vec::new();
    for i in 0..n {
        let du: Vec<f64> = (0..d)
            .map(|c| {
                let pull = -2.0 * x[n + i][c];
                let push: f64 = (0..2 * n).map(|k| (p[i][k] + p[k][i]) * x[k][c]).sum();
                (pull + push) / (2.0 * n as f64 * temperature)
            })
            .collect();
        let along = dot(&x[i], &du);
        let length = norm(&f[i * d..(i + 1) * d]);
        gradient.extend((0..d).map(|c| (du[c] - along * x[i][c]) / length));
    }
    gradient
}

#[test]
fn autodiff_gives_the_closed_form_gradient() {
    let (n, d) = (5, 4);
    let draw = |k: f64| {
        (0..n * d)
            .map(|i| (1.0 + k * i as f64).sin())
            .collect::<Vec<f64>>()
    };
    let (f, g) = (draw(1.7), draw(2.3));
    let student = rows(&f, d).require_grad();
    let loss = info_nce_pair(student.clone(), rows(&g, d).without_autodiff(), 0.5);
    let gradient = student.grad(&loss.backward()).unwrap();
    let gradient = gradient.into_data().try_to_vec::<f64>().unwrap();
    assert_close(&gradient, &closed_form(&f, &g, n, d, 0.5), 1e-9);
}

/// By hand: the student's cosines are 0.8, 0.6 and -0.8, the teacher's 1, 0 and -1.
#[test]
fn seed_is_the_cross_entropy_of_two_softmaxes_over_the_queue() {
    let student = rows(&[3.0, 4.0], 2).require_grad();
    let (teacher, queue) = (rows(&[0.0, 2.0], 2), rows(&[1.0, 0.0, 0.0, -1.0], 2));
    let softmax = |cosines: [f64; 3], temperature: f64| {
        let e = cosines.map(|c| (c / temperature).exp());
        e.map(|x| x / e.iter().sum::<f64>())
    };
    let (p, q) = (
        softmax([1.0, 0.0, -1.0], 0.4),
        softmax([0.8, 0.6, -0.8], 0.5),
    );
    let wanted: f64 = p.iter().zip(q).map(|(p, q)| -p * q.ln()).sum();
    let loss = seed(student.clone(), teacher.clone(), queue.clone(), [0.5, 0.4]);
    assert_close(&[value(&loss)], &[wanted], 1e-12);
    assert_close(&[value(&loss)], &[0.587_084], 1e-6);

    // `Σⱼ (qⱼ - pⱼ) uⱼ / τ` on the unit sphere, where `uⱼ` are what the student is compared with.
    let d: Vec<f64> = q.iter().zip(p).map(|(q, p)| (q - p) / 0.5).collect();
    let (x, y) = (d[1], d[0] - d[2]);
    let along = 0.6 * x + 0.8 * y;
    let gradient = student.grad(&loss.backward()).unwrap();
    let gradient = gradient.into_data().try_to_vec::<f64>().unwrap();
    let wanted = [(x - along * 0.6) / 5.0, (y - along * 0.8) / 5.0];
    assert_close(&gradient, &wanted, 1e-12);

    let sure = seed(student.clone(), teacher.clone(), queue.clone(), [0.5, 1e-3]);
    assert_close(
        &[value(&sure)],
        &[value(&moco(student, teacher, queue, 0.5))],
        1e-12,
    );
}

#[test]
fn a_zero_row_has_no_direction_and_a_finite_gradient() {
    let x = rows(&[0.0, 0.0, 3.0, 4.0], 2).require_grad();
    let unit = normalise(x.clone());
    assert_close(
        &unit.clone().into_data().try_to_vec::<f64>().unwrap(),
        &[0.0, 0.0, 0.6, 0.8],
        1e-12,
    );
    let gradient = x.grad(&unit.sum().backward()).unwrap();
    let gradient = gradient.into_data().try_to_vec::<f64>().unwrap();
    assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
}
