use crate::{NnError, ParamStore};

/// Moves a teacher towards the online parameters: `θ_k ← m·θ_k + (1 - m)·θ_q` (spec section 3.4).
/// There is nothing but parameters to average: networks keep no batch-norm statistics.
///
/// # Errors
/// [`NnError::Param`] where the two stores hold different parameters; nothing is changed then.
pub fn ema_update(
    teacher: &mut ParamStore,
    online: &ParamStore,
    momentum: f64,
) -> Result<(), NnError> {
    if teacher.specs() != online.specs() {
        let differs = teacher
            .specs()
            .iter()
            .zip(online.specs())
            .find(|(t, o)| t != o);
        return Err(NnError::Param {
            name: differs.map_or_else(|| "*".to_owned(), |(t, _)| t.name.clone()),
            what: "teacher and online network differ".to_owned(),
        });
    }
    for i in 0..online.values().len() {
        let own = teacher.values()[i].clone().without_autodiff() * momentum;
        let other = online.values()[i].clone().without_autodiff() * (1.0 - momentum);
        teacher.replace(i, own + other);
    }
    Ok(())
}
