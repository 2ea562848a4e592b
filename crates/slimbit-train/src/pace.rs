use std::time::{Duration, Instant};

use crate::schedule::Timeline;

/// Iterations after which the pace is told, and the time after which fewer do.
const TOLD_AFTER: u64 = 5;
const TOLD_AFTER_SECONDS: f64 = 20.0;
/// Weight of the newest iteration in the average, once there are as many as that.
const NEWEST: f64 = 0.05;

/// The time that iterations take, smoothed. It knows what an iteration of each quarter of the run costs, for later
/// ones train other networks than the first.
pub(crate) struct Pace {
    started: Instant,
    last: Instant,
    /// Seconds per unit of cost.
    smoothed: f64,
    laps: u64,
    told: bool,
    costs: [f64; 4],
}

impl Pace {
    /// `costs` are those of an iteration in each quarter, in any unit.
    pub(crate) fn start(costs: [f64; 4]) -> Self {
        Self {
            started: Instant::now(),
            last: Instant::now(),
            smoothed: 0.0,
            laps: 0,
            told: false,
            costs: costs.map(|cost| cost.max(1.0)),
        }
    }

    /// An iteration of the given quarter has ended. Gives its time.
    pub(crate) fn lap(&mut self, quarter: usize) -> Duration {
        let lap = self.last.elapsed();
        self.last = Instant::now();
        let unit = lap.as_secs_f64() / self.costs[quarter];
        // The first one also waits for the first images, so that the second stands for both.
        let newest = match self.laps {
            0 | 1 => 1.0,
            laps => NEWEST.max(1.0 / laps as f64),
        };
        self.smoothed += newest * (unit - self.smoothed);
        self.laps += 1;
        lap
    }

    /// The time from iteration `step` to the end.
    pub(crate) fn remaining(&self, timeline: &Timeline, step: u64) -> Duration {
        let starts: [u64; 5] =
            std::array::from_fn(|quarter| timeline.quarter_start(quarter as u64));
        let costs = self.costs.iter().zip(starts.windows(2));
        let units: f64 = costs
            .map(|(cost, ends)| cost * ends[1].saturating_sub(step.max(ends[0])) as f64)
            .sum();
        duration(self.smoothed * units)
    }

    /// The time of an iteration of the given quarter, once, as soon as it is known.
    pub(crate) fn news(&mut self, quarter: usize) -> Option<Duration> {
        let long = self.started.elapsed().as_secs_f64() > TOLD_AFTER_SECONDS;
        let known = self.laps > TOLD_AFTER || self.laps > 1 && long;
        if self.told || !known {
            return None;
        }
        self.told = true;
        Some(duration(self.smoothed * self.costs[quarter]))
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pace as Per, ScheduleConfig};

    #[test]
    fn what_is_left_is_counted_at_the_cost_of_each_quarter() {
        let schedule = ScheduleConfig {
            per: Per::Step,
            warmup: 0,
        };
        let timeline = Timeline::new(schedule, 2, 4);
        let mut pace = Pace::start([4.0, 2.0, 1.0, 1.0]);
        pace.smoothed = 10.0;
        assert_eq!(pace.remaining(&timeline, 0), Duration::from_secs(160));
        assert_eq!(pace.remaining(&timeline, 1), Duration::from_secs(120));
        assert_eq!(pace.remaining(&timeline, 7), Duration::from_secs(10));
        assert_eq!(pace.remaining(&timeline, 8), Duration::ZERO);
        assert_eq!(pace.news(0), None);
        pace.laps = 6;
        assert_eq!(pace.news(0), Some(Duration::from_secs(40)));
        assert_eq!(pace.news(0), None);
    }
}
