//! Losses on embeddings (spec section 1.3) and on the logits of a classifier. Targets carry no
//! gradient.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Bool, Int, Tensor};

/// Least norm by which a row is divided.
const EPS: f64 = 1e-8;

/// Rows of unit length.
pub fn normalise(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).clamp_min(EPS * EPS).sqrt();
    x / norm
}

/// Cross-view cosine loss, `-½ (mean cos(p₁, t₂) + mean cos(p₂, t₁))`, in `[-1, 1]`.
///
/// `predictions` and `targets` are the two views' embeddings `[batch, dim]`.
pub fn cosine(predictions: [Tensor<2>; 2], targets: [Tensor<2>; 2]) -> Tensor<1> {
    let [p1, p2] = predictions;
    let [t1, t2] = targets;
    let mean_cosine = |p: Tensor<2>, t: Tensor<2>| {
        let target = normalise(t.without_autodiff());
        (normalise(p) * target).sum_dim(1).mean()
    };
    (mean_cosine(p1, t2) + mean_cosine(p2, t1)) * -0.5
}

/// Cross-view InfoNCE loss (NT-Xent, student and teacher form): [`info_nce_pair`] of the students
/// of one view and the targets of the other, averaged over the two pairings.
pub fn info_nce(students: [Tensor<2>; 2], targets: [Tensor<2>; 2], temperature: f64) -> Tensor<1> {
    let [s1, s2] = students;
    let [t1, t2] = targets.map(Tensor::without_autodiff);
    (info_nce_pair(s1, t2, temperature) + info_nce_pair(s2, t1, temperature)) * 0.5
}

/// InfoNCE over the `2·batch` rows of `a` and `b` `[batch, dim]`: cross-entropy of the cosines over
/// `temperature`, each row's positive being its counterpart and all others its negatives. The
/// gradient reaches both operands; this alone, on both views, is SimCLR's loss.
pub fn info_nce_pair(a: Tensor<2>, b: Tensor<2>, temperature: f64) -> Tensor<1> {
    let (a, b) = match a.is_autodiff() || b.is_autodiff() {
        true => (normalise(a.autodiff()), normalise(b.autodiff())),
        false => (normalise(a), normalise(b)),
    };
    let rows = a.dims()[0];
    // A row and its counterpart have the same positive, hence one sum for both halves.
    let positive = (a.clone() * b.clone()).sum_dim(1).mean() / temperature;
    let both = Tensor::cat(vec![a, b], 0);
    let logits = both.clone().matmul(both.transpose()) / temperature;
    let own = Tensor::<2, Bool>::diag_mask([2 * rows, 2 * rows], 0, &logits.device()).bool_not();
    let logits = logits.mask_fill(own, f32::NEG_INFINITY);
    let largest = logits.clone().without_autodiff().max_dim(1);
    let sum = (logits - largest.clone()).exp().sum_dim(1);
    (sum.log() + largest).mean() - positive
}

/// MoCo's loss: cross-entropy of a query's cosines over `temperature`, its key against all rows of
/// the queue `[length, dim]`. Keys and queue carry no gradient.
pub fn moco(query: Tensor<2>, key: Tensor<2>, queue: Tensor<2>, temperature: f64) -> Tensor<1> {
    let query = normalise(query);
    let key = normalise(key.without_autodiff());
    let positive = (query.clone() * key).sum_dim(1);
    let negatives = query.matmul(queue.without_autodiff().transpose());
    let logits = Tensor::cat(vec![positive, negatives], 1) / temperature;
    log_softmax(logits, 1).narrow(1, 0, 1).mean() * -1.0
}

/// SEED's loss (Fang et al. 2021, equations 3 to 5): `-mean Σⱼ pⱼ(teacher) log pⱼ(student)`, where
/// `p(z)` is the softmax of `z`'s cosines with the teacher's embedding of the same image and with all
/// rows of the queue `[length, dim]`, over the `temperatures` `[student, teacher]`.
///
/// Teacher and queue carry no gradient; the queue's rows are of unit length. Where the teacher's
/// temperature is 0, this is [`moco`]'s loss with the teacher as the key.
pub fn seed(
    student: Tensor<2>,
    teacher: Tensor<2>,
    queue: Tensor<2>,
    temperatures: [f64; 2],
) -> Tensor<1> {
    let teacher = normalise(teacher.without_autodiff());
    let others = queue.without_autodiff().transpose();
    let similarities = |z: Tensor<2>| {
        let own = (z.clone() * teacher.clone()).sum_dim(1);
        Tensor::cat(vec![own, z.matmul(others.clone())], 1)
    };
    let [own, taught] = temperatures;
    let logits = similarities(normalise(student)) / own;
    soft_cross_entropy(logits, similarities(teacher.clone()) / taught)
}

/// Cross-entropy of `logits` `[batch, classes]` with one class per row.
pub fn cross_entropy(logits: Tensor<2>, classes: Tensor<1, Int>) -> Tensor<1> {
    let rows = logits.dims()[0];
    let picked = log_softmax(logits, 1).gather(1, classes.reshape([rows, 1]));
    picked.mean() * -1.0
}

/// Cross-entropy of `logits` with the distribution that `targets` `[batch, classes]` are the logits
/// of: distillation by soft labels. Targets carry no gradient.
pub fn soft_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let targets = softmax(targets.without_autodiff(), 1);
    (log_softmax(logits, 1) * targets).sum_dim(1).mean() * -1.0
}
