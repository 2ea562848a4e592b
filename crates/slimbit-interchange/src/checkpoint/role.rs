/// Whose weights they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The network that was trained.
    Model,
    /// An average of it over the training: of its last steps or epochs, a momentum encoder, a teacher.
    Average,
}

/// Words in the keys of averages. `encoder_k` is MoCo's momentum encoder, `target_encoder` BYOL's.
const AVERAGES: [&str; 10] = [
    "ema", "averaged", "average", "swa", "teacher", "momentum", "target", "shadow", "k", "key",
];

/// Whose weights a key or a prefix of names is for.
pub(crate) fn of(key: &str) -> Role {
    let key = key.to_lowercase();
    let mut words = key.split(|c: char| !c.is_ascii_alphabetic());
    match words.any(|word| AVERAGES.contains(&word)) {
        true => Role::Average,
        false => Role::Model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_told_by_words_and_not_by_letters() {
        for key in [
            "state_dict_ema",
            "model_ema",
            "module.encoder_k.",
            "teacher",
            "swa_model.",
            "EMA",
        ] {
            assert_eq!(of(key), Role::Average, "{key}");
        }
        for key in [
            "state_dict",
            "schema",
            "module.encoder_q.",
            "backbone.",
            "student",
            "kernel",
        ] {
            assert_eq!(of(key), Role::Model, "{key}");
        }
    }
}
