use std::f64::consts::PI;

use crate::config::{Pace, ScheduleConfig};

/// Where a run is: the length of a run, and what follows from an iteration's number alone.
///
/// Iterations count from 0 over the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    schedule: ScheduleConfig,
    epochs: u64,
    steps_per_epoch: u64,
}

impl Timeline {
    /// A run of `epochs` epochs of `steps_per_epoch` iterations, both at least 1.
    pub fn new(schedule: ScheduleConfig, epochs: u64, steps_per_epoch: u64) -> Self {
        assert!(
            epochs > 0 && steps_per_epoch > 0,
            "{epochs} epochs of {steps_per_epoch} steps"
        );
        Self {
            schedule,
            epochs,
            steps_per_epoch,
        }
    }

    /// Epochs of the run.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Iterations of the run.
    pub fn steps(&self) -> u64 {
        self.epochs * self.steps_per_epoch
    }

    /// Epoch and batch within it of an iteration.
    pub fn position(&self, step: u64) -> (u64, u64) {
        (step / self.steps_per_epoch, step % self.steps_per_epoch)
    }

    /// The learning rate of an iteration (spec section 1.2): a linear rise from 0 over the warm-up, then
    /// half a cosine towards 0.
    ///
    /// Looked up per epoch, `lr(0) = 0` where there is a warm-up, as published. Looked up per iteration, the rise
    /// ends, and the cosine begins, at the initial rate, and the first iteration already moves.
    pub fn lr(&self, initial: f64, step: u64) -> f64 {
        let warmup = self.warmup();
        let (now, end) = match self.schedule.per {
            Pace::Epoch => (self.position(step).0 as f64, self.epochs),
            Pace::Step if step < warmup => {
                return initial * (step + 1) as f64 / warmup as f64;
            }
            Pace::Step => (step as f64, self.steps()),
        };
        let (warmup, end) = (warmup as f64, end as f64);
        if now < warmup {
            initial * now / warmup
        } else {
            initial * 0.5 * (1.0 + (PI * (now - warmup) / (end - warmup)).cos())
        }
    }

    /// Epochs, or iterations, of the warm-up. One that is as long as the run takes half of it, or nothing of a single
    /// epoch that has a single rate: else the rate would never be reached, or stay 0.
    fn warmup(&self) -> u64 {
        let all = match self.schedule.per {
            Pace::Epoch => self.epochs,
            Pace::Step => self.steps(),
        };
        if self.schedule.warmup >= self.epochs {
            return all / 2;
        }
        self.schedule.warmup * (all / self.epochs)
    }

    /// The quarter of the run, 0 to 3, in which an iteration lies.
    ///
    /// The reference divides by `epochs / 4` in integers, which gives a fifth phase of width 0 where the epochs are
    /// no multiple of 4 (spec section 3.15, 2) and fails below 4 epochs. This agrees with it everywhere else.
    pub fn quarter(&self, step: u64) -> usize {
        let (now, end) = match self.schedule.per {
            Pace::Epoch => (self.position(step).0, self.epochs),
            Pace::Step => (step, self.steps()),
        };
        (4 * now / end).min(3) as usize
    }

    /// The first iteration of a quarter, 0 to 3, and for 4 the end of the run.
    pub(crate) fn quarter_start(&self, quarter: u64) -> u64 {
        match self.schedule.per {
            Pace::Epoch => (quarter * self.epochs).div_ceil(4) * self.steps_per_epoch,
            Pace::Step => (quarter * self.steps()).div_ceil(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_epoch(epochs: u64, warmup: u64) -> Timeline {
        Timeline::new(
            ScheduleConfig {
                per: Pace::Epoch,
                warmup,
            },
            epochs,
            10,
        )
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} instead of {b}");
    }

    #[test]
    fn cosine_per_epoch() {
        let timeline = per_epoch(4, 0);
        let expected = [0.5, 0.42677669529663687, 0.25, 0.07322330470336313];
        for (epoch, lr) in expected.into_iter().enumerate() {
            for batch in [0, 9] {
                close(timeline.lr(0.5, epoch as u64 * 10 + batch), lr);
            }
        }
    }

    #[test]
    fn linear_warm_up_starts_at_zero_and_the_cosine_takes_the_rest() {
        let timeline = per_epoch(6, 2);
        let expected = [
            0.0,
            0.25,
            0.5,
            0.42677669529663687,
            0.25,
            0.07322330470336313,
        ];
        for (epoch, lr) in expected.into_iter().enumerate() {
            close(timeline.lr(0.5, epoch as u64 * 10), lr);
        }
    }

    #[test]
    fn per_step_moves_every_iteration() {
        let timeline = Timeline::new(
            ScheduleConfig {
                per: Pace::Step,
                warmup: 1,
            },
            3,
            2,
        );
        let expected = [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627];
        for (step, lr) in expected.into_iter().enumerate() {
            close(timeline.lr(1.0, step as u64), lr);
        }
    }

    #[test]
    fn a_warm_up_as_long_as_the_run_leaves_it_a_rate() {
        close(per_epoch(1, 1).lr(0.5, 0), 0.5);
        close(per_epoch(2, 5).lr(0.5, 10), 0.5);
        let schedule = ScheduleConfig {
            per: Pace::Step,
            warmup: 1,
        };
        let timeline = Timeline::new(schedule, 1, 4);
        let expected = [0.5, 1.0, 1.0, 0.5];
        for (step, lr) in expected.into_iter().enumerate() {
            close(timeline.lr(1.0, step as u64), lr);
        }
    }

    #[test]
    fn quarters_begin_where_the_paper_says() {
        let starts = |timeline: Timeline| {
            let quarters: Vec<usize> = (0..timeline.steps()).map(|s| timeline.quarter(s)).collect();
            [0, 1, 2, 3].map(|q| quarters.iter().position(|&v| v == q).map(|s| s / 10))
        };
        assert_eq!(starts(per_epoch(400, 0)), [0, 100, 200, 300].map(Some));
        assert_eq!(starts(per_epoch(100, 0)), [0, 25, 50, 75].map(Some));
        assert_eq!(starts(per_epoch(50, 0)), [0, 13, 25, 38].map(Some));
        assert_eq!(starts(per_epoch(1, 0)), [Some(0), None, None, None]);
        for epochs in [1, 3, 4, 50] {
            let timeline = per_epoch(epochs, 0);
            for step in 0..timeline.steps() {
                let quarter = timeline.quarter(step) as u64;
                assert!(timeline.quarter_start(quarter) <= step);
                assert!(step < timeline.quarter_start(quarter + 1));
            }
            assert_eq!(timeline.quarter_start(4), timeline.steps());
        }
    }
}
