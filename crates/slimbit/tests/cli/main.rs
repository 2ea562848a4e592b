//! The command line as a user sees it: the whole way from images to a measured file, and bad input.

mod class_folders;
mod command;
mod compare;
mod console;
mod deployed;
mod evaluation;
mod first_run;
mod folders;
mod import;
mod kinds;
mod onnx;
mod outputs;
mod prediction;
mod quantize;
mod readme;
mod refusals;
mod statistics;
mod trained;
mod training;
mod tuned;
mod verdicts;

use command::succeeds;

#[test]
fn help_teaches() {
    let help = succeeds(&["--help"]);
    for command in [
        "quickstart",
        "pretrain",
        "finetune",
        "import",
        "quantize",
        "compare",
        "predict",
        "evaluate",
        "probe",
        "readiness",
        "export",
        "inspect",
        "verify",
        "run",
        "embed",
        "bench",
    ] {
        assert!(help.contains(command), "{command}");
        assert!(
            succeeds(&[command, "--help"]).contains("Usage"),
            "{command}"
        );
    }
}
