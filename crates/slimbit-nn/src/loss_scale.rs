/// What a loss is multiplied by before its gradients are taken, so that small ones do not vanish in
/// 16-bit floats: dynamic loss scaling (Micikevicius et al. 2018, Mixed Precision Training, section
/// 3.2). Powers of two, which change no digit of an `f32`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LossScale {
    factor: f32,
    /// Steps since the factor changed.
    steady: f32,
}

impl LossScale {
    const FIRST: f32 = 65536.0;
    const MOST: f32 = 16_777_216.0;
    /// Steps without an overflow after which the factor doubles.
    const PATIENCE: f32 = 2000.0;

    pub(crate) fn new() -> Self {
        Self {
            factor: Self::FIRST,
            steady: 0.0,
        }
    }

    pub(crate) fn factor(self) -> f64 {
        self.factor.into()
    }

    /// Learns whether gradients were finite. Gives whether the step is to be left out, for the factor
    /// may have been what was too large.
    pub(crate) fn update(&mut self, finite: bool) -> bool {
        if finite {
            self.steady += 1.0;
            if self.steady == Self::PATIENCE && self.factor < Self::MOST {
                self.factor *= 2.0;
                self.steady = 0.0;
            }
            return false;
        }
        let skip = self.factor > 1.0;
        self.factor = (self.factor / 2.0).max(1.0);
        self.steady = 0.0;
        skip
    }

    pub(crate) fn to_array(self) -> [f32; 2] {
        [self.factor, self.steady]
    }

    pub(crate) fn from_array([factor, steady]: [f32; 2]) -> Self {
        Self { factor, steady }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_at_an_overflow_and_doubles_after_a_while_without() {
        let mut scale = LossScale::new();
        for _ in 0..1999 {
            assert!(!scale.update(true));
        }
        assert!(scale.update(false));
        assert_eq!(scale.factor(), 32768.0);
        for _ in 0..2000 {
            assert!(!scale.update(true));
        }
        assert_eq!(scale.factor(), 65536.0);
        assert_eq!(LossScale::from_array(scale.to_array()), scale);
    }

    /// What is not finite at 1 is no matter of scale.
    #[test]
    fn it_stays_within_bounds() {
        let mut scale = LossScale::new();
        let skipped = (0..100).filter(|_| scale.update(false)).count();
        assert_eq!((skipped, scale.factor()), (16, 1.0));
        for _ in 0..100_000 {
            scale.update(true);
        }
        assert_eq!(scale.factor(), f64::from(LossScale::MOST));
    }
}
