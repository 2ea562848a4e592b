use crate::Layout;

/// Every tensor of one image, stage by stage: what two interpreters of a model must agree on.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Trace {
    /// One entry per stage, in execution order.
    pub stages: Vec<StageTrace>,
}

/// The integers of one stage's output.
#[derive(Clone, Debug, PartialEq)]
pub struct StageTrace {
    /// The stage.
    pub name: String,
    /// How the integers lie: rows, then columns, then channels, without padding.
    pub layout: Layout,
    /// Codes, or wide integers.
    pub codes: Vec<i32>,
}

/// Bytes of the integers of a trace of these tensors.
pub(crate) fn trace_bytes(layouts: impl Iterator<Item = Layout>) -> usize {
    let bytes = layouts.map(|layout| layout.elements().saturating_mul(size_of::<i32>()));
    bytes.fold(0, usize::saturating_add)
}

/// How far two traces are apart at one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The stage.
    pub stage: String,
    /// Integers of the stage.
    pub codes: usize,
    /// Integers that differ; all of them where the other trace lacks the stage or its shape.
    pub differing: usize,
    /// The largest distance between two integers that differ.
    pub largest: u32,
}

impl Trace {
    /// The stage with this name.
    pub fn get(&self, name: &str) -> Option<&StageTrace> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Counts, for every stage of this trace, the integers that `other` has differently.
    pub fn compare(&self, other: &Trace) -> Vec<Difference> {
        let compared = self.stages.iter().map(|stage| {
            let codes = stage.codes.len();
            let (differing, largest) = match other.get(&stage.name) {
                Some(twin) if twin.codes.len() == codes => {
                    let distances = stage
                        .codes
                        .iter()
                        .zip(&twin.codes)
                        .map(|(a, b)| a.abs_diff(*b));
                    distances
                        .filter(|d| *d > 0)
                        .fold((0, 0), |(n, max), d| (n + 1, d.max(max)))
                }
                _ => (codes, u32::MAX),
            };
            Difference {
                stage: stage.name.clone(),
                codes,
                differing,
                largest,
            }
        });
        compared.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(codes: &[i32]) -> Trace {
        let layout = Layout {
            height: 1,
            width: 1,
            channels: codes.len(),
        };
        let stage = StageTrace {
            name: "a".into(),
            layout,
            codes: codes.to_vec(),
        };
        Trace {
            stages: vec![stage],
        }
    }

    #[test]
    fn differing_codes_are_counted_and_measured() {
        let [a, b] = [trace(&[1, 2, 3]), trace(&[1, 5, 2])];
        assert_eq!(
            (a.compare(&a)[0].differing, a.compare(&a)[0].largest),
            (0, 0)
        );
        assert_eq!(
            (a.compare(&b)[0].differing, a.compare(&b)[0].largest),
            (2, 3)
        );
        assert_eq!(a.compare(&trace(&[1]))[0].differing, 3);
        assert_eq!(a.compare(&Trace::default())[0].differing, 3);
    }
}
