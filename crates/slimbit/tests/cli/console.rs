//! How the program speaks: streams that are full, colours, quiet, tables for programs.

use std::fs;
use std::process::{Command, Stdio};

use crate::command::{fails, message, run, slimbit, succeeds, text};
use crate::trained::trained;

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_an_error_and_no_panic() {
    let f = trained();
    let slim = text(&f.file);
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["export", "--help"],
        &["recipes"],
        &["recipes", "--csv", "-"],
        &["recipes", "ssql/resnet18-cifar10"],
        &["completions", "bash"],
        &["inspect", slim],
        &["inspect", slim, "--json"],
        &["bench", slim, "--repeat", "1"],
    ] {
        let output = slimbit(arguments).stdout(full()).output().unwrap();
        let error = message(&output, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            error.contains("cannot write to standard output") && error.lines().count() == 1,
            "{arguments:?}: {error}"
        );
    }
    // Where not even an error can be told, the exit code tells it.
    let status = |arguments: &[&str]| {
        let mut command = slimbit(arguments);
        command.stdout(Stdio::null()).stderr(full());
        command.status().unwrap().code()
    };
    assert_eq!(status(&["recipes", "none"]), Some(1));
    assert_eq!(status(&["recipes", "--none"]), Some(2));
    assert_eq!(status(&["inspect", slim]), Some(0));
}

#[test]
fn threads_that_cannot_be_are_refused() {
    let slim = text(&trained().file);
    for threads in ["100000", "18446744073709551616", "-3", "two"] {
        let error = fails(&["bench", slim, "--threads", threads]);
        assert!(
            error.contains("this machine has") || error.contains("unexpected argument"),
            "{error}"
        );
    }
    for threads in ["two", "100000", "-1"] {
        let mut command = slimbit(&["inspect", slim]);
        let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        let error = message(&output, &[threads]);
        assert!(
            error.contains("RAYON_NUM_THREADS") && error.contains("this machine has"),
            "{error}"
        );
    }
}

#[test]
fn a_batch_beyond_the_memory_is_refused() {
    let slim = text(&trained().file);
    for batch in ["1000000000", "18446744073709551615"] {
        let error = fails(&["bench", slim, "--batch", batch, "--memory", "64"]);
        assert!(error.contains("lower --batch or raise --memory"), "{error}");
    }
}

#[test]
fn quiet_commands_print_their_result_alone() {
    let f = trained();
    let probe = ["probe", text(&f.file), "--data", text(&f.data), "-q"];
    let output = run(&probe);
    assert!(output.status.success() && !output.stdout.is_empty());
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(fails(&["recipes", "none", "-q"]).contains("error:"));
    assert!(fails(&["recipes", "-q", "-v"]).contains("cannot be used with"));
}

#[test]
fn colours_are_as_asked() {
    let coloured = |arguments: &[&str], variable: &str| {
        let output = slimbit(arguments).env(variable, "1").output().unwrap();
        [output.stdout, output.stderr].map(|bytes| bytes.contains(&0x1b))
    };
    let never = [false, false];
    assert_eq!(coloured(&["recipes"], "NOTHING"), never);
    assert_eq!(
        coloured(&["recipes", "--color", "never"], "NO_COLOR"),
        never
    );
    assert_eq!(
        coloured(&["--color=always", "recipes"], "NO_COLOR"),
        [true, false]
    );
    let help = ["bench", "--help", "--color", "always"];
    assert_eq!(coloured(&help, "NOTHING"), [true, false]);
    let wrong = ["--color", "always", "recipes", "none"];
    assert_eq!(coloured(&wrong, "NOTHING"), [false, true]);
    let json = ["recipes", "--json", "--color", "always"];
    assert_eq!(coloured(&json, "NOTHING"), never);
    assert!(fails(&["recipes", "--color", "pink"]).contains("auto, always, never"));
}

#[test]
fn control_characters_of_arguments_are_spelt_out() {
    let name = "\x1b[2Jclear\x07";
    for arguments in [
        ["inspect", name],
        ["recipes", name],
        ["bench", "--\x1b]0;title"],
    ] {
        let error = fails(&arguments);
        assert!(error.contains("\\x1b"), "{error}");
        let raw = |c: char| c.is_control() && c != '\n';
        assert!(!error.contains(raw), "{error:?}");
    }
}

#[test]
fn tables_are_csv_too() {
    let f = trained();
    let (slim, data) = (text(&f.file), text(&f.data));
    for (arguments, header, rows) in [
        (&["recipes"][..], "name,summary", 0),
        (&["inspect", slim], "point,bytes,macs,parameters", 6),
        (&["probe", slim, "--data", data], "point,top1", 6),
        (&["bench", slim, "--repeat", "2"], "point,arena_bytes", 6),
        (
            &["verify", slim, "--images", data, "--limit", "1"],
            "stage,codes,",
            0,
        ),
    ] {
        let csv = succeeds(&[arguments, &["--csv", "-"]].concat());
        let mut lines = csv.lines();
        let first = lines.next().unwrap();
        assert!(first.starts_with(header), "{first}");
        let columns = first.split(',').count();
        let rest: Vec<&str> = lines.collect();
        assert!(rest.len() >= rows.max(2), "{csv}");
        if arguments[0] != "recipes" {
            for line in &rest {
                assert_eq!(line.split(',').count(), columns, "{csv}");
            }
        }
        let both = fails(&[arguments, &["--csv", "-", "--json"]].concat());
        assert!(both.contains("both write to standard output"), "{both}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, notes) = (folder.path().join("a.csv"), folder.path().join("notes"));
    let inspect = ["inspect", slim, "--csv", text(&file)];
    assert_eq!(succeeds(&inspect), succeeds(&["inspect", slim]));
    let printed = succeeds(&["inspect", slim, "--csv", "-"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), printed);
    fs::write(&notes, "mine").unwrap();
    let error = fails(&["inspect", slim, "--csv", text(&notes)]);
    assert!(error.contains("is not a CSV table"), "{error}");
    let error = fails(&["inspect", slim, "--csv", slim]);
    assert!(error.contains("is the input"), "{error}");
}

#[test]
fn the_version_says_what_was_built() {
    let long = succeeds(&["--version"]);
    for part in ["slimbit 0.1.0", "commit ", "features ", "CPU level "] {
        assert!(long.contains(part), "{long}");
    }
    assert_eq!(succeeds(&["-V"]), "slimbit 0.1.0\n");
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeeds(&["completions", shell]);
        for word in ["pretrain", "reconstruct", "quiet"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man/man1");
    let man = ["man", "--out", text(&out)];
    succeeds(&man);
    succeeds(&man);
    let page = out.join("slimbit-quantize.1");
    let content = fs::read_to_string(&page).unwrap();
    assert!(content.contains("calibration\\-images"), "{content}");
    assert!(content.contains("Examples"), "{content}");
    assert!(out.join("slimbit.1").exists());
    fs::write(&page, "mine").unwrap();
    assert!(fails(&man).contains("is not a manual page"));
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
}

/// A run whose standard error is a file tells how far it is.
#[cfg(unix)]
#[test]
fn progress_is_told_where_there_is_no_terminal() {
    let f = trained();
    let program = env!("CARGO_BIN_EXE_slimbit");
    // Stopped for longer than the time between two lines, wherever it is.
    let script = format!(
        "{program} probe {} --data {} --kind linear --epochs 100000 & \
         sleep 6.5; kill $!; wait $! 2>/dev/null; true",
        text(&f.file),
        text(&f.data)
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("probing") && told.contains('%'), "{told}");
}
