//! How good features are, told with labels that training never saw.

mod agreement;
mod features;
mod few_shot;
mod knn;
mod linear;
mod matrix;
mod rank_check;

pub use agreement::{linear_cka, neighbour_overlap, rank_correlation};
pub use features::{Features, ProbeReport};
pub use few_shot::LabelBudget;
pub use knn::Knn;
pub use linear::{LinearClassifier, LinearProbe};
pub use rank_check::RankCheck;
