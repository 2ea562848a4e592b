//! Runs that go on in another way than they began: longer, with other images, or from the weights of another run.

use std::fs;
use std::path::Path;

use slimbit_train::config::Init;
use slimbit_train::{Outcome, Resume, RunDir, Trainer};

use crate::tiny::{STEPS, bits, config, images, network, run_until};

fn with(overrides: &[&str]) -> Resume {
    Resume {
        overrides: overrides.iter().map(|&text| text.to_owned()).collect(),
        ..Resume::default()
    }
}

fn refusal(run: &Path, how: &Resume) -> String {
    let refused = Trainer::resume_with(run, how).err();
    refused.expect("refused").to_string()
}

#[test]
fn a_finished_run_is_made_longer_and_ends_with_the_same_bits_wherever_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("combined/resnet18-cifar10", images(folder.path()));
    let ends: Vec<_> = [&[][..], &[STEPS + 1, STEPS + 4]]
        .into_iter()
        .map(|stops| {
            let run = folder.path().join(format!("{stops:?}"));
            let mut trainer = Trainer::with_graph(config.clone(), network(), &run).unwrap();
            assert_eq!(run_until(&mut trainer, u64::MAX), Outcome::Finished);
            trainer = Trainer::resume_with(&run, &with(&["epochs=4", "run.keep=3"])).unwrap();
            assert_eq!(trainer.progress(), (STEPS, 2 * STEPS));
            let told = trainer.notes().join("\n");
            // Half of a cosine's course, at the beginning of its third quarter.
            for part in [
                "epochs = 2 before, 4 now",
                "goes on at 0.0250 as in a run of 4 epochs (it was 0.0000 of 2)",
                "quarter 3 of 4",
            ] {
                assert!(told.contains(part), "{told}");
            }
            for &stop in stops {
                assert_eq!(run_until(&mut trainer, stop), Outcome::Interrupted);
                trainer = Trainer::resume(&run).unwrap();
            }
            assert_eq!(run_until(&mut trainer, u64::MAX), Outcome::Finished);
            let (dir, settings) = RunDir::open(&run).unwrap();
            assert_eq!((settings.epochs, settings.run.keep), (4, 3));
            let lines = dir.metrics().unwrap();
            assert!(lines.iter().map(|line| line.step).eq(0..2 * STEPS));
            let log = fs::read_to_string(run.join("log.txt")).unwrap();
            assert!(log.contains("epochs = 2 before, 4 now"), "{log}");
            trainer.checkpoint()
        })
        .collect();
    assert_eq!(bits(&ends[0]), bits(&ends[1]));
}

#[test]
fn what_may_not_change_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let config = config("us3l/resnet18-cifar100", images(folder.path()));
    let mut trainer = Trainer::with_graph(config, network(), &run).unwrap();
    run_until(&mut trainer, 4);
    let before = fs::read(run.join("config.toml")).unwrap();
    let error = refusal(&run, &with(&["epochs=9", "optim.lr=0.1"]));
    assert!(
        error.contains("`optim.lr`: 0.05 cannot become 0.1") && error.contains("model.init="),
        "{error}"
    );
    let error = refusal(&run, &with(&["epochs=1"]));
    assert!(
        error.contains("`epochs`") && error.contains("4 are done"),
        "{error}"
    );
    let error = refusal(&run, &with(&["epoch=9"]));
    assert!(error.contains("did you mean `epochs`"), "{error}");
    assert_eq!(fs::read(run.join("config.toml")).unwrap(), before);
}

/// Pictures, of which some are added and others taken away.
fn pictures(folder: &Path, names: impl IntoIterator<Item = u32>) {
    for name in names {
        let mut bytes = b"P5 8 8 255\n".to_vec();
        bytes.extend((0..64).map(|i| ((i * i * (name + 3)) % 251) as u8));
        fs::write(folder.join(format!("{name:02}.pgm")), bytes).unwrap();
    }
}

#[test]
fn changed_images_are_refused_until_they_are_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run) = (folder.path().join("data"), folder.path().join("run"));
    fs::create_dir(&data).unwrap();
    pictures(&data, 0..24);
    let config = config("us3l/resnet18-cifar100", data.clone());
    let mut trainer = Trainer::with_graph(config, network(), &run).unwrap();
    run_until(&mut trainer, 2);

    pictures(&data, 30..40);
    fs::remove_file(data.join("05.pgm")).unwrap();
    let error = refusal(&run, &Resume::default());
    for part in [
        "24 images then, 33 now",
        r#"10 added ("30.pgm", "31.pgm", "32.pgm", …)"#,
        r#"1 removed ("05.pgm")"#,
        "--allow-changed-data",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let allowed = Resume {
        allow_changed_data: true,
        ..Resume::default()
    };
    let trainer = Trainer::resume_with(&run, &allowed).unwrap();
    // Four batches of 8 to an epoch from here on.
    assert_eq!(trainer.progress(), (2, 8));
    drop(trainer);
    // From here on these are the run's images.
    Trainer::resume(&run).unwrap();
}

#[test]
fn a_run_of_an_earlier_program_has_its_images_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let config = config("us3l/resnet18-cifar100", images(folder.path()));
    drop(Trainer::with_graph(config, network(), &run).unwrap());
    let record = run.join("images.jsonl.gz");
    let bytes = fs::read(&record).unwrap();
    fs::remove_file(&record).unwrap();
    let settings = fs::read_to_string(run.join("config.toml")).unwrap();
    let older: Vec<&str> = settings
        .lines()
        .filter(|line| !line.starts_with("checkpoint_minutes"))
        .collect();
    fs::write(run.join("config.toml"), older.join("\n")).unwrap();
    Trainer::resume(&run).unwrap();
    assert_eq!(fs::read(&record).unwrap(), bytes);
}

#[test]
fn a_run_starts_from_the_weights_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let mut settings = config("us3l/resnet18-cifar100", images(folder.path()));
    let mut trainer = Trainer::with_graph(settings.clone(), network(), &first).unwrap();
    run_until(&mut trainer, u64::MAX);
    let trained = trainer.checkpoint().params();
    let newest = first.join("checkpoints/step-00000006.safetensors");

    for source in [&first, &newest] {
        settings.model.init = Init::From(source.clone());
        settings.seed = 5;
        let second = tempfile::tempdir().unwrap();
        let run = second.path().join("run");
        let mut trainer = Trainer::with_graph(settings.clone(), network(), &run).unwrap();
        assert_eq!(trainer.checkpoint().params(), trained);
        let told = trainer.notes().join("\n");
        assert!(
            told.contains("starts from") && told.contains("9 tensors"),
            "{told}"
        );
        // Nothing but the run itself is needed from here on.
        run_until(&mut trainer, 3);
        drop(trainer);
        let moved = folder.path().join("moved");
        fs::rename(&first, &moved).unwrap();
        let mut trainer = Trainer::resume(&run).unwrap();
        assert_eq!(run_until(&mut trainer, u64::MAX), Outcome::Finished);
        fs::rename(&moved, &first).unwrap();
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let narrow = folder.path().join("narrow");
    let mut settings = config("us3l/resnet18-cifar100", images(folder.path()));
    settings.objective.widths.max = 0.5;
    drop(Trainer::with_graph(settings.clone(), network(), &narrow).unwrap());
    settings.objective.widths.max = 1.0;
    let mut refuse = |source: &Path, wanted: &[&str]| {
        settings.model.init = Init::From(source.to_owned());
        let run = folder.path().join("run");
        let error = Trainer::with_graph(settings.clone(), network(), &run).err();
        let error = error.expect("refused").to_string();
        for part in wanted {
            assert!(error.contains(part), "{error}");
        }
        assert!(!run.exists());
    };
    refuse(
        &narrow,
        &["`model.init`", "up to width 0.5", "objective.widths.max"],
    );
    refuse(Path::new("fan_out"), &["neither `uniform` nor `fanout`"]);
    refuse(folder.path(), &["holds no run"]);
    let other = crate::tiny::finished("simsiam/resnet18-cifar10", folder.path());
    refuse(&other, &["does not fit", "stem.conv.weight is missing"]);
    let junk = folder.path().join("junk.safetensors");
    fs::write(&junk, "nothing").unwrap();
    refuse(&junk, &["junk.safetensors"]);
}

/// What a run rolls back to must not depend on when the clock or Ctrl-C had it saved.
#[test]
fn checkpoints_by_the_clock_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let ends: Vec<_> = [0.0, 1e-9]
        .into_iter()
        .map(|minutes| {
            let mut settings = config("combined/resnet18-cifar10", images(folder.path()));
            settings.run.checkpoint_minutes = minutes;
            settings.run.checkpoint_every = 100;
            settings.run.keep = 100;
            let run = folder.path().join(format!("{minutes}"));
            let mut trainer = Trainer::with_graph(settings, network(), &run).unwrap();
            run_until(&mut trainer, u64::MAX);
            let files = trainer.run_dir().checkpoints(100).files().unwrap();
            let expected = if minutes == 0.0 {
                2
            } else {
                STEPS as usize + 1
            };
            assert_eq!(files.len(), expected);
            trainer.checkpoint()
        })
        .collect();
    assert_eq!(bits(&ends[0]), bits(&ends[1]));
}

#[test]
fn what_needs_more_memory_than_there_is_is_refused_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = slimbit_nn::parse_device("cpu").unwrap();
    let mut settings = config("combined/resnet18-cifar10", images(folder.path()));
    settings.check_device(&cpu).unwrap();
    settings.model.backbone = "resnet18-cifar".to_owned();
    settings.preprocess.height = 8192;
    settings.preprocess.width = 8192;
    let error = settings.check_device(&cpu).unwrap_err().to_string();
    for part in [
        "setting `batch`",
        "TB of memory",
        "8192x8192",
        "preprocess.height",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let run = folder.path().join("run");
    let mut trainer = Trainer::new(settings, &run).unwrap();
    assert_eq!(trainer.run(&mut |_| {}).unwrap_err().to_string(), error);
}
