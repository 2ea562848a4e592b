//! The collapse watch: sees representations collapse during training, and says why.
//!
//! Sub-networks collapse one after the other, the narrow and the coarse first, while the full network still looks well
//! (spec section 7.3). So every sampled kind of network has running averages of its own, and is compared with a floor
//! and with its own best.

mod cause;

use std::fmt;

use slimbit_graph::Array;

use crate::TrainConfig;
use crate::run_dir::{NetworkRecord, StepRecord};

/// Width quarters times float, up to 3 bits and more bits; the base first.
const KINDS: usize = 1 + 4 * 3;

/// A kind of network, of which averages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(usize);

impl Kind {
    const BASE: Self = Self(0);

    fn of(index: usize, network: &NetworkRecord) -> Self {
        if index == 0 {
            return Self::BASE;
        }
        let quarter = (network.width * 4.0).ceil().clamp(1.0, 4.0) as usize - 1;
        let rounding = match network.bits {
            None => 0,
            Some([weight, _]) if weight <= 3 => 2,
            Some(_) => 1,
        };
        Self(1 + quarter * 3 + rounding)
    }

    fn rounding(self) -> usize {
        (self.0 + 2) % 3
    }

    /// Whether it is narrower than three quarters.
    fn is_narrow(self) -> bool {
        self != Self::BASE && self.0 < 1 + 3 * 3
    }

    fn is_quantised(self) -> bool {
        self != Self::BASE && self.rounding() > 0
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::BASE {
            return f.write_str("the base network");
        }
        let quarter = (self.0 - 1) / 3;
        let rounding = ["float", "4 to 8 bits", "2 and 3 bits"][self.rounding()];
        write!(
            f,
            "networks of {} to {}x, {rounding}",
            0.25 * quarter as f64,
            0.25 * (quarter + 1) as f64
        )
    }
}

/// Running averages of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Averages {
    seen: f32,
    feature_std: f32,
    rank: f32,
    best_rank: f32,
    gradient: f32,
    least_gradient: f32,
    /// 1 once its fall was told.
    told: f32,
}

/// Numbers of [`Averages`].
const FIELDS: usize = 7;

/// A network that fell.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The iteration.
    pub step: u64,
    /// Which networks, and by what measure.
    pub what: String,
    /// The likely causes, the likeliest first, each with its remedy.
    pub causes: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "collapse at iteration {}: {}", self.step, self.what)?;
        for cause in &self.causes {
            write!(f, "\n  likely cause: {cause}")?;
        }
        Ok(())
    }
}

/// What the watch remembers. All of it is part of a checkpoint, so that a resumed run judges as one that never stopped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Watch {
    averages: [Averages; KINDS],
    /// Factor on the learning rate, after so many roll backs. As precise as a checkpoint keeps it.
    pub(crate) lr_factor: f32,
    pub(crate) rollbacks: u32,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            averages: [Averages::default(); KINDS],
            lr_factor: 1.0,
            rollbacks: 0,
        }
    }
}

impl Watch {
    /// Takes an iteration's measures in, and gives what they show: at most one finding, told once per kind and fall.
    pub(crate) fn see(&mut self, config: &TrainConfig, record: &StepRecord) -> Option<Finding> {
        let settings = &config.watch;
        let window = settings.window as f32;
        let mut fallen = None;
        for (index, network) in record.networks.iter().enumerate() {
            let kind = Kind::of(index, network);
            let averages = &mut self.averages[kind.0];
            averages.take_in(network, window);
            if averages.seen < window {
                continue;
            }
            averages.best_rank = averages.best_rank.max(averages.rank);
            averages.least_gradient = averages.least_gradient.min(averages.gradient);
            let (spread, rank) = (f64::from(averages.feature_std), f64::from(averages.rank));
            let least_rank = settings.least_rank * f64::from(averages.best_rank);
            let what = if spread < settings.least_std {
                format!(
                    "their feature spread fell to {spread:.4}, below {}",
                    settings.least_std
                )
            } else if rank < least_rank {
                format!(
                    "the effective rank of their features fell to {rank:.2}, from {:.2}",
                    averages.best_rank
                )
            } else if rank < settings.least_dimensions {
                format!(
                    "their features vary along a line: an effective rank of {rank:.2}, below {}",
                    settings.least_dimensions
                )
            } else {
                averages.told = 0.0;
                continue;
            };
            if averages.told == 0.0 {
                averages.told = 1.0;
                fallen.get_or_insert((kind, what));
            }
        }
        let (kind, what) = fallen?;
        Some(Finding {
            step: record.step,
            what: format!("{kind}: {what}"),
            causes: cause::of(config, kind, self, record.lr),
        })
    }

    /// Whether every kind that was seen often enough is far from falling: such a state is worth going back to.
    pub(crate) fn is_healthy(&self, config: &TrainConfig) -> bool {
        let settings = &config.watch;
        let far = (2.0 * settings.least_rank).min(0.9);
        self.averages.iter().all(|averages| {
            let least = (far * f64::from(averages.best_rank)).max(1.25 * settings.least_dimensions);
            averages.seen < settings.window as f32
                || f64::from(averages.feature_std) >= 2.0 * settings.least_std
                    && f64::from(averages.rank) >= least
        })
    }

    /// Whether the gradient of a kind has grown far beyond its least average.
    fn gradient_grew(&self, kind: Kind) -> bool {
        let averages = &self.averages[kind.0];
        averages.least_gradient > 0.0 && averages.gradient > 10.0 * averages.least_gradient
    }

    fn fell(&self, kind: Kind) -> bool {
        self.averages[kind.0].told > 0.0
    }

    pub(crate) fn to_array(&self) -> Array {
        let mut data = vec![self.lr_factor, self.rollbacks as f32];
        for a in &self.averages {
            data.extend(a.to_row());
        }
        Array {
            shape: vec![data.len()],
            data,
        }
    }

    pub(crate) fn from_array(array: &Array) -> Option<Self> {
        let (&[factor, rollbacks], rest) = array.data.split_first_chunk::<2>()?;
        let (rows, left) = rest.as_chunks::<FIELDS>();
        if rows.len() != KINDS || !left.is_empty() {
            return None;
        }
        let mut watch = Self {
            lr_factor: factor,
            rollbacks: rollbacks as u32,
            ..Self::default()
        };
        for (averages, row) in watch.averages.iter_mut().zip(rows) {
            *averages = Averages::from_row(*row);
        }
        Some(watch)
    }
}

impl Averages {
    fn to_row(self) -> [f32; FIELDS] {
        [
            self.seen,
            self.feature_std,
            self.rank,
            self.best_rank,
            self.gradient,
            self.least_gradient,
            self.told,
        ]
    }

    fn from_row(row: [f32; FIELDS]) -> Self {
        let [
            seen,
            feature_std,
            rank,
            best_rank,
            gradient,
            least_gradient,
            told,
        ] = row;
        Self {
            seen,
            feature_std,
            rank,
            best_rank,
            gradient,
            least_gradient,
            told,
        }
    }

    fn take_in(&mut self, network: &NetworkRecord, window: f32) {
        self.seen += 1.0;
        let share = 1.0 / self.seen.min(window);
        let towards = |average: &mut f32, value: f64| *average += (value as f32 - *average) * share;
        towards(&mut self.feature_std, network.feature_std);
        towards(&mut self.rank, network.effective_rank);
        if let Some(norm) = network.gradient_norm {
            towards(&mut self.gradient, norm);
        }
        if self.seen <= window {
            self.least_gradient = self.gradient;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Head, Loss, Target};

    fn network(width: f64, bits: Option<[u8; 2]>, spread: f64, rank: f64) -> NetworkRecord {
        NetworkRecord {
            width,
            bits,
            loss: 0.0,
            feature_std: spread,
            effective_rank: rank,
            agreement: 0.5,
            gradient_norm: Some(1.0),
            rounding: None,
        }
    }

    fn run(
        config: &TrainConfig,
        last: impl Fn(u64) -> Vec<NetworkRecord>,
    ) -> (Watch, Vec<Finding>) {
        let mut watch = Watch::default();
        let findings = (0..60)
            .filter_map(|step| {
                let record = StepRecord {
                    step,
                    epoch: 0,
                    lr: 0.05,
                    networks: last(step),
                    images_per_second: 1.0,
                };
                watch.see(config, &record)
            })
            .collect();
        (watch, findings)
    }

    fn settings() -> TrainConfig {
        let mut config = TrainConfig::default();
        config.watch.window = 5;
        config
    }

    #[test]
    fn a_narrow_network_that_falls_is_found_while_the_base_is_well() {
        let mut config = settings();
        config.objective.base_loss = Loss::Cosine;
        config.objective.head = Head::None;
        let (watch, findings) = run(&config, |step| {
            let spread = if step < 20 { 0.4 } else { 0.001 };
            vec![
                network(1.0, None, 0.5, 20.0),
                network(0.25, None, spread, 20.0),
            ]
        });
        assert_eq!(findings.len(), 1, "told once: {findings:?}");
        let text = findings[0].to_string();
        assert!(text.contains("0 to 0.25x, float"), "{text}");
        assert!(text.contains("G3") && text.contains("auxiliary"), "{text}");
        assert!(!watch.is_healthy(&config));
        assert_eq!(Watch::from_array(&watch.to_array()), Some(watch));
    }

    #[test]
    fn falling_rank_and_a_rising_gradient_are_named() {
        let mut config = settings();
        config.objective.base_loss = Loss::Cosine;
        config.objective.target = Target::Online;
        let (_, findings) = run(&config, |step| {
            let mut base = network(1.0, None, 0.5, if step < 30 { 30.0 } else { 1.0 });
            base.gradient_norm = Some(if step < 25 { 1.0 } else { 400.0 });
            vec![base]
        });
        let text = findings[0].to_string();
        assert!(text.contains("effective rank"), "{text}");
        assert!(findings[0].causes[0].contains("learning rate"), "{text}");
        assert!(text.contains("G1"), "{text}");
    }

    /// Features that lie on a line from the first iterations on have no better rank to be compared with.
    #[test]
    fn a_rank_that_was_never_high_is_found_too() {
        let mut config = settings();
        let line = |_| vec![network(1.0, None, 0.5, 1.2)];
        let (watch, findings) = run(&config, line);
        assert_eq!(findings.len(), 1, "told once: {findings:?}");
        assert!(findings[0].what.contains("along a line"), "{findings:?}");
        assert!(!watch.is_healthy(&config));
        config.objective.base_loss = Loss::Cosine;
        let text = run(&config, line).1[0].to_string();
        assert!(text.contains("pushes no two images apart"), "{text}");
        let (watch, findings) = run(&config, |_| vec![network(1.0, None, 0.5, 1.6)]);
        assert!(findings.is_empty() && !watch.is_healthy(&config));
        config.watch.least_dimensions = 0.0;
        assert!(run(&config, line).1.is_empty());
    }

    #[test]
    fn healthy_and_young_networks_are_left_alone() {
        let config = settings();
        let (watch, findings) = run(&config, |step| {
            let mut networks = vec![network(1.0, None, 0.5, 20.0)];
            if step == 10 {
                networks.push(network(0.3, Some([2, 4]), 0.0, 0.0));
            }
            networks
        });
        assert!(findings.is_empty(), "{findings:?}");
        assert!(watch.is_healthy(&config));
    }
}
