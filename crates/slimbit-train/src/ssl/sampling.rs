use std::fmt;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_graph::Width;

use crate::config::{BitsConfig, Course, ObjectiveConfig, Place, WidthsConfig};

/// Bits of a weight and of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitPair {
    /// Bits of a weight, 2..=8.
    pub weight: u8,
    /// Bits of an activation, 2..=8.
    pub act: u8,
}

/// A degraded view of the weights: narrower, quantised, or both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Student {
    /// Width multiplier.
    pub width: Width,
    /// Bits; `None` is float.
    pub bits: Option<BitPair>,
}

impl fmt::Display for Student {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}x ", self.width.get())?;
        match self.bits {
            Some(BitPair { weight, act }) => write!(f, "W{weight}A{act}"),
            None => f.write_str("FP"),
        }
    }
}

/// The networks of one iteration: a float base, then students.
#[derive(Clone, Debug, PartialEq)]
pub struct Networks {
    /// Width of the base: the largest of all, unless sandwich sampling is off.
    pub base: Width,
    /// Students, in the order in which they are trained: widths descending.
    pub students: Vec<Student>,
}

impl Networks {
    /// Draws the networks of iteration `step`, which lies in the given quarter (0 to 3) of the run.
    ///
    /// A function of its arguments alone: every worker, and a run that was killed and resumed, draws the same.
    ///
    /// The widths are US3L's (spec section 3.5). Each student draws its own bits. Where bits are in play, one
    /// student is the full-width network (spec section 5.2): always while there is no other width, else with
    /// probability `full_width`, in place of a narrow one or beside them.
    pub fn draw(objective: &ObjectiveConfig, seed: u64, step: u64, quarter: usize) -> Self {
        let rng = &mut stream(seed, step);
        let mut widths = draw_widths(&objective.widths, quarter, rng).into_iter();
        let base = widths.next().expect("at least one width is drawn");
        let narrow: Vec<Width> = widths.collect();
        let bits = &objective.bits;
        let float = |width| Student { width, bits: None };
        let mut students: Vec<Student> = match bits.place {
            _ if !bits.enabled || quarter < usize::from(bits.first_quarter) => {
                narrow.into_iter().map(float).collect()
            }
            Place::Replace => some_rounded(objective, narrow, quarter, rng),
            Place::Beside => {
                let mut students: Vec<Student> = narrow.into_iter().map(float).collect();
                students.push(rounded_beside(objective, quarter, rng));
                students
            }
        };
        students.sort_by(|a, b| b.width.get().total_cmp(&a.width.get()));
        Self { base, students }
    }
}

/// Narrow students of which some are rounded, and one may be replaced by the rounded full-width network.
fn some_rounded(
    objective: &ObjectiveConfig,
    mut narrow: Vec<Width>,
    quarter: usize,
    rng: &mut impl Rng,
) -> Vec<Student> {
    let bits = &objective.bits;
    let full = width(objective.widths.max);
    let replaced = match narrow.len() {
        0 => {
            narrow.push(full);
            Some(0)
        }
        count => rng
            .random_bool(bits.full_width)
            .then(|| rng.random_range(0..count)),
    };
    let student = |(index, width): (usize, Width)| {
        if replaced == Some(index) {
            return rounded(bits, full, quarter, rng);
        }
        let float = rng.random_bool(bits.float);
        let student = rounded(bits, width, quarter, rng);
        match float {
            true => Student { width, bits: None },
            false => student,
        }
    };
    narrow.into_iter().enumerate().map(student).collect()
}

/// One rounded student, of full width or of one drawn from all that are in play.
fn rounded_beside(objective: &ObjectiveConfig, quarter: usize, rng: &mut impl Rng) -> Student {
    let bits = &objective.bits;
    let widths = &objective.widths;
    let drawn = match (rng.random_bool(bits.full_width), widths.list.len()) {
        (true, _) => widths.max,
        (false, 0) => rng.random_range(smallest_width(widths, quarter)..=widths.max),
        (false, count) => widths.list[rng.random_range(0..count)],
    };
    rounded(bits, width(drawn), quarter, rng)
}

fn rounded(bits: &BitsConfig, width: Width, quarter: usize, rng: &mut impl Rng) -> Student {
    Student {
        width,
        bits: Some(draw_bits(bits, width, quarter, rng)),
    }
}

/// The generator of one iteration. Seed and step *are* the ChaCha8 key; the third word tells this stream from the
/// loader's, which are keyed in the same way.
fn stream(seed: u64, step: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key
        .chunks_exact_mut(8)
        .zip([seed, step, u64::MAX, u64::MAX - 1])
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// The smallest width in a quarter (0 to 3) of the run.
fn smallest_width(widths: &WidthsConfig, quarter: usize) -> f64 {
    match (widths.schedule, quarter) {
        (Course::Static, _) => widths.min,
        (Course::Dynamic, 0) => widths.max,
        (Course::Dynamic, q) => widths.min + (3 - q) as f64 * (widths.max - widths.min) / 3.0,
    }
}

/// The widths of an iteration, descending. The reference's loop prepends the sandwich's ends again for every further
/// draw, which trains them twice or more for N >= 4 and fails for N = 2 (spec section 3.15, 1); here they occur once.
fn draw_widths(widths: &WidthsConfig, quarter: usize, rng: &mut impl Rng) -> Vec<Width> {
    let (low, high) = (smallest_width(widths, quarter), widths.max);
    if !widths.list.is_empty() {
        return widths.list.iter().copied().map(width).collect();
    }
    if widths.per_step == 1 || low >= high {
        return vec![width(high)];
    }
    let ends: &[f64] = if widths.sandwich { &[high, low] } else { &[] };
    let mut drawn = ends.to_vec();
    drawn.extend((ends.len()..widths.per_step).map(|_| rng.random_range(low..=high)));
    drawn.sort_by(|a, b| b.total_cmp(a));
    drawn.into_iter().map(width).collect()
}

fn width(value: f64) -> Width {
    Width::new(value).expect("checked: widths lie between the smallest and the largest")
}

fn draw_bits(bits: &BitsConfig, width: Width, quarter: usize, rng: &mut impl Rng) -> BitPair {
    let [mut weight, mut act] = [bits.weight[0], bits.act[0]];
    if bits.schedule == Course::Dynamic {
        // Where spec section 5.3 ends at 4 bits for activations, the smallest of the settings ends it here.
        weight = weight.max([6, 4, 3, 2][quarter]);
        act = act.max([6, 5, 4, 2][quarter]);
    }
    if width.get() < bits.narrow_width {
        weight = weight.max(bits.narrow_weight);
    }
    let mut draw = |low: u8, high: u8| rng.random_range(low.min(high)..=high);
    BitPair {
        weight: draw(weight, bits.weight[1]),
        act: draw(act, bits.act[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pace, ScheduleConfig, TrainConfig};
    use crate::schedule::Timeline;

    fn objective(recipe: &str) -> ObjectiveConfig {
        TrainConfig::recipe(recipe).unwrap().objective
    }

    fn widths(networks: &Networks) -> Vec<f64> {
        let students = networks.students.iter().map(|s| s.width.get());
        [networks.base.get()].into_iter().chain(students).collect()
    }

    /// U2.
    #[test]
    fn the_sandwich_widens_quarter_by_quarter() {
        for epochs in [400, 50, 30] {
            let schedule = ScheduleConfig {
                per: Pace::Epoch,
                warmup: 0,
            };
            let timeline = Timeline::new(schedule, epochs, 2);
            let mut lows = Vec::new();
            for step in 0..timeline.steps() {
                let quarter = timeline.quarter(step);
                let drawn = widths(&Networks::draw(
                    &objective("us3l/resnet18-cifar100"),
                    1,
                    step,
                    quarter,
                ));
                let low = *drawn.last().unwrap();
                if lows.last() != Some(&low) {
                    lows.push(low);
                }
                match quarter {
                    0 => assert_eq!(drawn, [1.0]),
                    _ => {
                        let [high, middle, low] = drawn[..] else {
                            panic!("{drawn:?}")
                        };
                        assert_eq!(high, 1.0);
                        assert!((low..=1.0).contains(&middle));
                    }
                }
            }
            assert_eq!(lows, [1.0, 0.75, 0.5, 0.25], "{epochs} epochs");
        }
    }

    #[test]
    fn any_number_of_widths_has_each_end_once() {
        for per_step in 2..8 {
            let mut objective = objective("us3l/resnet18-cifar100");
            objective.widths.per_step = per_step;
            for step in 0..50 {
                let drawn = widths(&Networks::draw(&objective, 3, step, 3));
                assert_eq!(drawn.len(), per_step);
                assert!(drawn.is_sorted_by(|a, b| a >= b));
                assert_eq!(drawn.iter().filter(|&&w| w == 1.0).count(), 1);
                assert_eq!(drawn.iter().filter(|&&w| w == 0.25).count(), 1);
            }
        }
    }

    #[test]
    fn without_the_sandwich_the_largest_draw_is_the_base() {
        let mut objective = objective("us3l/resnet18-cifar100");
        objective.widths.sandwich = false;
        let bases: Vec<f64> = (0..400)
            .map(|step| widths(&Networks::draw(&objective, 3, step, 3))[0])
            .collect();
        assert!(bases.iter().all(|&w| w < 1.0));
        // The largest of three uniform draws from [1/4, 1] has the mean 1/4 + 3/4 * 3/4.
        let mean = bases.iter().sum::<f64>() / 400.0;
        assert!((mean - 0.8125).abs() < 0.03, "{mean}");
    }

    /// U14: there is no state that a worker, its thread or a restart could bring along.
    #[test]
    fn draws_depend_on_seed_and_step_only() {
        let objective = objective("combined/resnet18-cifar10");
        let draw = |seed, step| Networks::draw(&objective, seed, step, 3);
        let forwards: Vec<Networks> = (0..100).map(|step| draw(7, step)).collect();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let objective = objective.clone();
                std::thread::spawn(move || {
                    let back = (0..100)
                        .rev()
                        .map(|step| Networks::draw(&objective, 7, step, 3));
                    back.collect::<Vec<_>>()
                })
            })
            .collect();
        for worker in workers {
            let mut drawn = worker.join().unwrap();
            drawn.reverse();
            assert_eq!(drawn, forwards);
        }
        let others: Vec<Networks> = (0..100).map(|step| draw(8, step)).collect();
        assert!(forwards.iter().zip(&others).filter(|(a, b)| a == b).count() < 5);
        assert!(
            forwards
                .windows(2)
                .filter(|pair| pair[0] == pair[1])
                .count()
                < 5
        );
    }

    #[test]
    fn ssql_draws_every_pair_of_bits_equally_often() {
        let objective = objective("ssql/resnet18-cifar10-byol");
        let mut counts = [[0; 9]; 9];
        for step in 0..7000 {
            let networks = Networks::draw(&objective, 5, step, (step / 1750) as usize);
            let [
                Student {
                    width,
                    bits: Some(bits),
                },
            ] = networks.students[..]
            else {
                panic!("{networks:?}");
            };
            assert_eq!((networks.base, width), (Width::FULL, Width::FULL));
            counts[usize::from(bits.weight)][usize::from(bits.act)] += 1;
        }
        for (weight, row) in counts.iter().enumerate() {
            for (act, &count) in row.iter().enumerate() {
                let expected = if weight >= 2 && act >= 4 {
                    200.0
                } else {
                    0.0_f64
                };
                let deviation = (f64::from(count) - expected).abs();
                assert!(
                    deviation <= 5.0 * expected.sqrt(),
                    "W{weight}A{act}: {count}"
                );
            }
        }
    }

    #[test]
    fn combined_students_have_the_stated_probabilities() {
        let objective = objective("combined/resnet18-cifar10");
        let (mut full, mut float, mut narrow) = (0, 0, 0);
        for step in 0..4000 {
            let networks = Networks::draw(&objective, 5, step, 3);
            assert_eq!(networks.students.len(), 2);
            for student in &networks.students {
                if student.width == Width::FULL {
                    assert!(student.bits.is_some());
                    full += 1;
                } else {
                    narrow += 1;
                    float += u32::from(student.bits.is_none());
                }
            }
        }
        assert!((f64::from(full) / 4000.0 - 0.5).abs() < 0.04, "{full}");
        assert!(
            (f64::from(float) / f64::from(narrow) - 0.25).abs() < 0.03,
            "{float} of {narrow}"
        );
    }

    /// Then widths are trained as without bits, iteration by iteration.
    #[test]
    fn a_rounded_student_beside_the_narrow_ones_changes_none_of_them() {
        let mut objective = objective("combined/resnet18-cifar10");
        objective.bits.place = Place::Beside;
        let mut widths_only = objective.clone();
        widths_only.bits.enabled = false;
        let mut full = 0;
        for step in 0..2000 {
            let quarter = (step % 4) as usize;
            let networks = Networks::draw(&objective, 9, step, quarter);
            let (rounded, float): (Vec<Student>, Vec<Student>) =
                networks.students.iter().partition(|s| s.bits.is_some());
            let without = Networks::draw(&widths_only, 9, step, quarter);
            assert_eq!((networks.base, float), (without.base, without.students));
            let [rounded] = rounded[..] else {
                panic!("{rounded:?}");
            };
            assert!(rounded.width.get() >= smallest_width(&objective.widths, quarter));
            full += u32::from(quarter > 0 && rounded.width == Width::FULL);
        }
        assert!((f64::from(full) / 1500.0 - 0.5).abs() < 0.05, "{full}");
    }

    /// Switchable batch-norm knows no other widths.
    #[test]
    fn a_rounded_student_has_one_of_the_listed_widths() {
        let mut objective = objective("combined/resnet18-cifar10");
        objective.bits.place = Place::Beside;
        objective.widths.list = vec![1.0, 0.7, 0.3];
        let mut counts = [0; 3];
        for step in 0..600 {
            let networks = Networks::draw(&objective, 9, step, 3);
            let rounded = networks.students.iter().find(|s| s.bits.is_some()).unwrap();
            let of = |&listed: &f64| rounded.width == width(listed);
            counts[objective.widths.list.iter().position(of).unwrap()] += 1;
        }
        // Two thirds are of full width: a half, and a third of the rest.
        for (count, expected) in counts.into_iter().zip([400.0_f64, 100.0, 100.0]) {
            assert!((f64::from(count) - expected).abs() < 50.0, "{counts:?}");
        }
    }

    /// Until bits are in play a run is one of widths, draw by draw.
    #[test]
    fn bits_wait_for_their_first_quarter() {
        let mut objective = objective("combined/resnet18-cifar10");
        objective.bits.first_quarter = 2;
        let mut widths_only = objective.clone();
        widths_only.bits.enabled = false;
        let mut seen = 0;
        for step in 0..200 {
            for quarter in 0..4 {
                let networks = Networks::draw(&objective, 9, step, quarter);
                if quarter < 2 {
                    assert_eq!(networks, Networks::draw(&widths_only, 9, step, quarter));
                }
            }
            let rounded = |networks: &Networks| networks.students.iter().any(|s| s.bits.is_some());
            seen += u32::from(rounded(&Networks::draw(&objective, 9, step, 2)));
            let later = Networks::draw(&objective, 9, step, 3);
            objective.bits.first_quarter = 0;
            assert_eq!(later, Networks::draw(&objective, 9, step, 3));
            objective.bits.first_quarter = 2;
        }
        assert!(seen > 150, "{seen}");
    }

    #[test]
    fn bits_fall_with_the_quarters_and_narrow_networks_have_a_floor() {
        let mut objective = objective("combined/resnet18-cifar10");
        objective.bits.narrow_weight = 4;
        for (quarter, weight, act) in [(0, 6, 6), (1, 4, 5), (2, 3, 4), (3, 2, 4)] {
            let pairs: Vec<(f64, BitPair)> = (0..600)
                .flat_map(|step| Networks::draw(&objective, 9, step, quarter).students)
                .filter_map(|s| Some((s.width.get(), s.bits?)))
                .collect();
            let least = |f: fn(&(f64, BitPair)) -> u8| pairs.iter().map(f).min().unwrap();
            assert_eq!((least(|p| p.1.weight), least(|p| p.1.act)), (weight, act));
            assert!(pairs.iter().all(|(w, pair)| *w >= 0.5 || pair.weight >= 4));
            if quarter == 0 {
                assert!(pairs.iter().all(|(w, _)| *w == 1.0));
            }
        }
        objective.bits.act = [3, 8];
        let least = |quarter| {
            let drawn = (0..600).flat_map(|s| Networks::draw(&objective, 9, s, quarter).students);
            drawn.filter_map(|s| Some(s.bits?.act)).min().unwrap()
        };
        assert_eq!([2, 3].map(least), [4, 3]);
    }
}
