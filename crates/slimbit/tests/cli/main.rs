//! The command line as a user sees it: the whole way from images to a measured file, and bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use slimbit::data::{Dataset, Split};
use tempfile::TempDir;

/// Settings of a network that trains in seconds.
const TINY: [&str; 12] = [
    "preset=combined",
    "model.backbone=resnet8-b-s2",
    "epochs=2",
    "batch=32",
    "heads.hidden=32",
    "heads.dim=16",
    "optim.lr=0.1",
    "preprocess.channels=1",
    "preprocess.height=28",
    "preprocess.width=28",
    "preprocess.mean=[0.2862745]",
    "preprocess.std=[0.353]",
];

fn slimbit(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slimbit"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    slimbit(arguments).output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "slimbit {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with exit code 1 or 2, and gives its message.
fn fails(arguments: &[&str]) -> String {
    message(&run(arguments), arguments)
}

fn message(output: &Output, what: &[&str]) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{what:?}: {:?} {error}",
        output.status
    );
    assert!(
        error.contains("error:") && !error.contains("panicked"),
        "{what:?}: {error}"
    );
    error
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// IDX files with the first images of the repository's splits.
fn small_dataset(folder: &Path) {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fashion-mnist");
    for (split, prefix, count) in [(Split::Train, "train", 256), (Split::Test, "t10k", 64)] {
        let dataset = Dataset::open_split(&all, split).unwrap();
        // The split is sorted by nothing in particular; stride over it to meet every class.
        let step = dataset.len() / count;
        let rows: Vec<usize> = (0..count).map(|i| i * step).collect();
        let mut images = vec![0, 0, 8, 3];
        let mut labels = vec![0, 0, 8, 1];
        for size in [count as u32, 28, 28] {
            images.extend(size.to_be_bytes());
        }
        labels.extend((count as u32).to_be_bytes());
        for row in rows {
            images.extend(dataset.image(row).unwrap().pixels);
            labels.push(dataset.label(row).unwrap() as u8);
        }
        fs::write(folder.join(format!("{prefix}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.join(format!("{prefix}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// A trained and exported tiny run, made once.
struct Fixture {
    _folder: TempDir,
    data: PathBuf,
    run: PathBuf,
    file: PathBuf,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (data, run) = (folder.path().join("data"), folder.path().join("run"));
        fs::create_dir(&data).unwrap();
        small_dataset(&data);
        let mut arguments = vec!["pretrain", "--data", text(&data), "--out", text(&run)];
        arguments.extend(TINY);
        succeeds(&arguments);
        let bits = "W8A8,W4A4,W2A4";
        succeeds(&[
            "export",
            text(&run),
            "--widths",
            "1,0.5",
            "--bits",
            bits,
            "--calibration-images",
            "128",
        ]);
        let file = run.join("model.slim");
        Fixture {
            _folder: folder,
            data,
            run,
            file,
        }
    })
}

fn json(output: &str) -> serde_json::Value {
    serde_json::from_str(output).unwrap_or_else(|e| panic!("{e}: {output}"))
}

#[test]
fn help_teaches() {
    let help = succeeds(&["--help"]);
    for command in [
        "quickstart",
        "pretrain",
        "import",
        "quantize",
        "compare",
        "probe",
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

#[test]
fn inspect_proves_every_point() {
    let file = text(&fixture().file);
    let report = json(&succeeds(&["inspect", "--prove", "--json", file]));
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 6);
    for stage in points
        .iter()
        .flat_map(|point| point["proof"].as_array().unwrap())
    {
        assert_eq!(stage["float_operations"], 0);
    }
    assert!(succeeds(&["inspect", "--prove", file]).contains("proven"));
}

#[test]
fn verify_finds_no_difference() {
    let f = fixture();
    let arguments = [
        "verify",
        text(&f.file),
        "--images",
        text(&f.data),
        "--run",
        text(&f.run),
        "--limit",
        "2",
        "--json",
    ];
    let report = json(&succeeds(&arguments));
    for stage in report["stages"].as_array().unwrap() {
        let row = &stage[1];
        assert!(
            row["levels"]
                .as_object()
                .unwrap()
                .values()
                .all(|count| count == 0),
            "{stage}"
        );
        assert_eq!(row["stored"], 0, "{stage}");
        assert!(row["simulation"].is_u64(), "{stage}");
    }
}

#[test]
fn probe_embed_run_and_bench_agree_on_the_file() {
    let f = fixture();
    let probe = json(&succeeds(&[
        "probe",
        text(&f.file),
        "--data",
        text(&f.data),
        "--json",
    ]));
    assert_eq!(probe.as_array().unwrap().len(), 6);
    let linear = [
        "probe",
        text(&f.file),
        "--data",
        text(&f.data),
        "--kind",
        "linear",
        "--point",
        "1x W8A8",
        "--json",
    ];
    assert_eq!(json(&succeeds(&linear)).as_array().unwrap().len(), 1);

    let npy = f.run.join("features.npy");
    succeeds(&[
        "embed",
        text(&f.file),
        "--images",
        text(&f.data),
        "-o",
        text(&npy),
        "--point",
        "0.5x W4A4",
    ]);
    let bytes = fs::read(&npy).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY"));
    assert_eq!(
        fs::read_to_string(f.run.join("features.txt"))
            .unwrap()
            .lines()
            .count(),
        256
    );

    let picture = f.run.join("picture.pgm");
    fs::write(&picture, [&b"P5 30 20 255\n"[..], &[77; 600]].concat()).unwrap();
    let outputs = json(&succeeds(&["run", text(&f.file), text(&picture), "--json"]));
    assert_eq!(outputs[0]["values"].as_array().unwrap().len(), 64);

    let bench = json(&succeeds(&[
        "bench",
        text(&f.file),
        "--repeat",
        "3",
        "--threads",
        "2",
        "--batch",
        "5",
        "--per-op",
        "--json",
    ]));
    assert_eq!((&bench["threads"], &bench["batch"]), (&2.into(), &5.into()));
    assert_eq!(bench["points"].as_array().unwrap().len(), 6);
    let stages = bench["points"][0]["stages"].as_array().unwrap();
    let shares = stages.iter().map(|stage| stage["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
}

#[test]
fn a_killed_run_resumes_to_the_same_bits() {
    let f = fixture();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut arguments = vec![
        "pretrain",
        "--data",
        text(&f.data),
        "--out",
        text(&run),
        "run.checkpoint_every=1",
    ];
    arguments.extend(TINY);
    let mut child = slimbit(&arguments).stderr(Stdio::null()).spawn().unwrap();
    let lines =
        || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < 3 && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(lines() < 16, "the run ended before it could be killed");
    succeeds(&["pretrain", "--resume", text(&run)]);
    let weights = |run: &Path| {
        let (dir, config) = slimbit::train::RunDir::open(run).unwrap();
        dir.checkpoints(config.run.keep)
            .latest()
            .unwrap()
            .unwrap()
            .tensors
    };
    assert!(weights(&run) == weights(&f.run), "resumed weights differ");
    assert_eq!(lines(), 16);
}

#[test]
fn bad_settings_are_named() {
    let f = fixture();
    let out = f.run.join("never");
    let pretrain = |setting: &str| {
        fails(&[
            "pretrain",
            "--data",
            text(&f.data),
            "--out",
            text(&out),
            setting,
        ])
    };
    assert!(pretrain("optim.lrr=1").contains("optim.lr"));
    assert!(pretrain("objective.widths.min=1.5").contains("objective.widths.min"));
    assert!(pretrain("objective.bits.weight=[1,8]").contains("objective.bits.weight"));
    assert!(pretrain("model.backbone=resnet19").contains("resnet18"));
    assert!(!out.exists());
    assert!(fails(&["export", text(&f.run), "--bits", "W9A8"]).contains("W9A8"));
    assert!(fails(&["bench", text(&f.file), "--point", "0.3x W8A8"]).contains("1x W8A8"));
    assert!(fails(&["bench", text(&f.file), "--threads", "0"]).contains("at least 1"));
    let mut again = vec!["pretrain", "--data", text(&f.data), "--out", text(&f.run)];
    again.extend(TINY);
    assert!(fails(&again).contains("holds a run already"));
}

#[test]
fn bad_images_are_named() {
    let f = fixture();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(
        fails(&["pretrain", "--data", text(&empty), "--out", text(&out)]).contains(text(&empty))
    );
    assert!(
        fails(&["probe", text(&f.file), "--data", "/no/such/folder"]).contains("/no/such/folder")
    );
    let broken = folder.path().join("broken.png");
    fs::write(&broken, b"\x89PNG\r\n\x1a\n nothing").unwrap();
    assert!(fails(&["run", text(&f.file), text(&broken)]).contains("broken.png"));
}

#[test]
fn damaged_files_are_refused_and_nothing_is_lost() {
    let f = fixture();
    let folder = tempfile::tempdir().unwrap();
    let good = fs::read(&f.file).unwrap();
    let damaged = folder.path().join("damaged.slim");
    fs::write(&damaged, &good[..good.len() / 2]).unwrap();
    fails(&["inspect", text(&damaged)]);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 4;
    fs::write(&damaged, flipped).unwrap();
    fails(&["inspect", text(&damaged)]);

    let run = folder.path().join("run");
    let copy = Command::new("cp")
        .args(["-r", text(&f.run), text(&run)])
        .status()
        .unwrap();
    assert!(copy.success());
    let mut checkpoints: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    checkpoints.sort();
    for checkpoint in checkpoints {
        let bytes = fs::read(&checkpoint).unwrap();
        fs::write(&checkpoint, &bytes[..bytes.len() - 7]).unwrap();
    }
    fails(&["pretrain", "--resume", text(&run)]);
}

/// A file size limit stands in for a full disk: the write fails half-way.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_file() {
    let f = fixture();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.slim");
    fs::copy(&f.file, &target).unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} export {} --widths 1 --bits W8A8 --calibration-images 64 -o {}",
        env!("CARGO_BIN_EXE_slimbit"),
        text(&f.run),
        text(&target)
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let error = message(&output, &["export to a full disk"]);
    assert!(error.contains("model.slim"), "{error}");
    assert_eq!(fs::read(&target).unwrap(), fs::read(&f.file).unwrap());
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "a temporary file is left"
    );
}

#[test]
fn import_writes_a_network_that_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let files = [path("net.safetensors"), path("again.safetensors")];
    let random = "import --random 3 --arch resnet8 --classes 7 --input 16x24 --mean 0.5,0.4,0.3";
    let mut summaries = Vec::new();
    for file in &files {
        let mut arguments: Vec<&str> = random.split(' ').collect();
        arguments.extend(["--json", "-o", text(file)]);
        summaries.push(json(&succeeds(&arguments)));
    }
    assert_eq!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    let network = slimbit::interchange::Network::open(&files[0]).unwrap();
    let cost = network.graph.cost(slimbit::graph::Width::FULL).unwrap();
    assert_eq!(summaries[0]["parameters"], cost.params);
    assert_eq!(
        summaries[0]["outputs"],
        serde_json::json!(["features", "logits"])
    );
    let preprocess = json(&network.metadata["preprocess"]);
    assert_eq!(preprocess["width"], 24);
    assert_eq!(preprocess["mean"].as_array().unwrap().len(), 3);

    let (bad, output) = (path("bad.pth"), path("none.safetensors"));
    fs::write(&bad, b"\x80\x02cos\nsystem\n").unwrap();
    let refused = [
        (vec![text(&bad)], "neither safetensors"),
        (vec![text(&files[0])], "pass --arch"),
        (
            vec![text(&files[0]), "--arch", "resnet8"],
            "missing     conv1.weight",
        ),
        (vec!["--random", "1", "--arch", "vgg16"], "`vgg16`"),
        (
            vec!["--random", "1", "--arch", "resnet8", "--std", "0,1,1"],
            "preprocess.std",
        ),
        (vec!["--random", "1"], "--arch"),
        (vec![], "SOURCE"),
    ];
    for (mut arguments, part) in refused {
        arguments.insert(0, "import");
        arguments.extend(["-o", text(&output)]);
        let error = fails(&arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(!output.exists(), "{arguments:?}");
    }
}

#[test]
fn quickstart_writes_everything() {
    let f = fixture();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quickstart");
    let mut arguments = vec![
        "quickstart",
        "--out",
        text(&out),
        "--data",
        text(&f.data),
        "--json",
    ];
    arguments.extend(&TINY[1..7]);
    let results = json(&succeeds(&arguments));
    assert_eq!(results["points"].as_array().unwrap().len(), 20);
    assert_eq!(results["widths"].as_array().unwrap().len(), 4);
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("0.25x W2A4") && !report.contains("<script src"));
    for name in [
        "fashion.slim",
        "results.json",
        "run/metrics.jsonl",
        "run/config.toml",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
}
