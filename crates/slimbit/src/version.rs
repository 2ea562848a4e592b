//! Which program this is.

use std::sync::LazyLock;

use slimbit_kernels::Isa;

/// The version.
pub const SHORT: &str = env!("CARGO_PKG_VERSION");

/// The version, the commit it was built from, the optional features that were built in, and the level of the
/// engine on this CPU.
pub fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("SLIMBIT_COMMIT").unwrap_or("unknown");
        let levels: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
        format!(
            "{SHORT}\ncommit     {commit}\nfeatures   {}\nCPU level  {} (of {})",
            features(),
            Isa::detect(),
            levels.join(", ")
        )
    });
    &LONG
}

fn features() -> String {
    let built = [
        ("gpu", cfg!(feature = "gpu")),
        ("images", cfg!(feature = "images")),
    ];
    let names: Vec<&str> = built.iter().filter(|f| f.1).map(|f| f.0).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
