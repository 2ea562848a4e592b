//! Borders, which the windows behind them take in.

use super::step::{Kind, Step};

/// Lets windows take in the borders before them, and channel padding the subsampling before it.
pub(super) fn absorb_borders(steps: &mut [Step]) {
    for index in 0..steps.len() {
        let [input] = steps[index].inputs[..] else {
            continue;
        };
        let source = steps[input].inputs.first().copied();
        let before = steps[input].kind.clone_border();
        let Some((source, (space, value))) = source.zip(before) else {
            continue;
        };
        let non_negative = steps[source].non_negative;
        let extend = |padding: &mut [usize; 4]| {
            for (own, more) in padding.iter_mut().zip(space) {
                *own += more;
            }
        };
        let absorbed = match &mut steps[index].kind {
            Kind::Conv { conv, .. } if value == 0.0 => {
                extend(&mut conv.padding);
                true
            }
            // A border of zeros never wins against values that are not negative.
            Kind::MaxPool(pool) if value == f32::NEG_INFINITY || (value == 0.0 && non_negative) => {
                let mut wider = *pool;
                extend(&mut wider.padding);
                let fits = (0..4).all(|i| wider.padding[i] < wider.kernel[i % 2]);
                if fits {
                    *pool = wider;
                }
                fits
            }
            kind @ Kind::AvgPool(_) if value == 0.0 => {
                if let Kind::AvgPool(pool) = *kind {
                    let mut wider = pool;
                    extend(&mut wider.padding);
                    *kind = Kind::PaddedAverage(wider);
                }
                true
            }
            Kind::PaddedAverage(pool) if value == 0.0 => {
                extend(&mut pool.padding);
                true
            }
            _ => false,
        };
        if absorbed {
            steps[index].inputs = vec![source];
        }
    }
}

impl Kind {
    /// The border that this step adds, and its value.
    fn clone_border(&self) -> Option<([usize; 4], f32)> {
        match self {
            Self::Pad { space, value } => Some((*space, *value)),
            _ => None,
        }
    }
}
