//! The wrong kind of file says what it is and which command takes it.

use std::fs;
use std::path::PathBuf;

use crate::command::{fails, succeeds, text};
use crate::trained::trained;

/// Files that are something else, and a float network.
struct Others {
    _folder: tempfile::TempDir,
    network: PathBuf,
    checkpoint: PathBuf,
    pointer: PathBuf,
    photo: PathBuf,
    empty: PathBuf,
}

fn others() -> Others {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let network = path("net.safetensors");
    succeeds(&[
        "import",
        "--random",
        "1",
        "--arch",
        "resnet8",
        "--input",
        "16",
        "-o",
        text(&network),
    ]);
    // The beginning of what old versions of `torch.save` write.
    fs::write(
        path("x.pth"),
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
    )
    .unwrap();
    fs::write(
        path("y.slim"),
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    )
    .unwrap();
    fs::write(path("photo.jpg"), b"\xff\xd8\xff\xe0\0\x10JFIF\0").unwrap();
    fs::write(path("empty.slim"), "").unwrap();
    Others {
        network,
        checkpoint: path("x.pth"),
        pointer: path("y.slim"),
        photo: path("photo.jpg"),
        empty: path("empty.slim"),
        _folder: folder,
    }
}

#[test]
fn every_command_names_what_it_was_given() {
    let f = trained();
    let o = others();
    let (data, run, slim) = (text(&f.data), text(&f.run), text(&f.file));
    let (network, checkpoint) = (text(&o.network), text(&o.checkpoint));
    let output = o.network.with_file_name("out.slim");
    let output = text(&output);
    let safetensors = o.network.with_file_name("out.safetensors");
    let safetensors = text(&safetensors);
    let images = ["--images", data];
    let cases: Vec<(Vec<&str>, &str, &str)> = vec![
        (
            vec!["quantize", checkpoint, images[0], images[1], "-o", output],
            "is a PyTorch checkpoint",
            "slimbit import",
        ),
        (
            vec!["quantize", slim, images[0], images[1], "-o", output],
            "is a .slim file",
            "quantised already",
        ),
        (
            vec!["quantize", run, images[0], images[1], "-o", output],
            "is a run directory",
            "slimbit export",
        ),
        (
            vec!["bench", run],
            "is a run directory",
            "its .slim file is",
        ),
        (
            vec!["bench", network],
            "is a float network file",
            "slimbit quantize",
        ),
        (
            vec!["import", slim, "-o", safetensors],
            "is a .slim file",
            "slimbit inspect",
        ),
        (
            vec!["import", network, "-o", safetensors],
            "is a float network file",
            "imported already",
        ),
        (
            vec!["import", run, "-o", safetensors],
            "is a run directory",
            "slimbit export",
        ),
        (
            vec!["import", text(&o.pointer), "-o", safetensors],
            "Git LFS pointer",
            "git lfs pull",
        ),
        (
            vec!["probe", text(&o.photo), "--data", data],
            "is an image",
            "slimbit predict",
        ),
        (
            vec!["probe", checkpoint, "--data", data],
            "is a PyTorch checkpoint",
            "slimbit import",
        ),
        (
            vec!["inspect", text(&o.pointer)],
            "Git LFS pointer",
            "git lfs pull",
        ),
        (
            vec!["inspect", text(&o.empty)],
            "is an empty file",
            "fetch it again",
        ),
        (vec!["inspect", data], "not a .slim file", ""),
        (
            vec!["verify", network, images[0], images[1]],
            "is a float network file",
            "slimbit quantize",
        ),
        (
            vec!["verify", slim, images[0], images[1], "--run", slim],
            "not a run directory",
            "quantised already",
        ),
        (
            vec!["compare", slim, slim, images[0], images[1]],
            "is a .slim file",
            "neither a float network file nor an ONNX file",
        ),
        (
            vec!["compare", network, network, images[0], images[1]],
            "not a .slim file",
            "slimbit quantize",
        ),
        (
            vec!["embed", checkpoint, images[0], images[1], "-o", "never.npy"],
            "is a PyTorch checkpoint",
            "slimbit import",
        ),
        (
            vec!["readiness", network, images[0], images[1]],
            "neither a .slim file nor a run directory",
            "slimbit quantize",
        ),
        (
            vec![
                "readiness",
                slim,
                images[0],
                images[1],
                "--float",
                checkpoint,
            ],
            "is a PyTorch checkpoint",
            "slimbit import",
        ),
        (
            vec!["export", network],
            "not a run directory",
            "slimbit pretrain",
        ),
        (
            vec!["export", checkpoint, "--onnx", "never.onnx"],
            "is a PyTorch checkpoint",
            "slimbit import",
        ),
        (
            vec!["finetune", slim, "--data", data, "--out", output],
            "not a run directory",
            "quantised already",
        ),
        (
            vec!["finetune", "--resume", run],
            "not the folder of a fine-tuning",
            "slimbit pretrain --resume",
        ),
        (
            vec!["pretrain", "--resume", slim],
            "not a run directory",
            "quantised already",
        ),
        (
            vec!["run", checkpoint, text(&o.photo)],
            "is a PyTorch checkpoint",
            "slimbit import",
        ),
        (
            vec!["inspect", "/no/such/file"],
            "/no/such/file",
            "No such file",
        ),
    ];
    for (arguments, is, next) in cases {
        let error = fails(&arguments);
        assert!(
            error.contains(is) && error.contains(next),
            "{arguments:?}: {error}"
        );
    }
}

#[test]
fn what_is_wrong_with_a_slim_file_is_said_with_its_name() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flipped.slim");
    let mut bytes = fs::read(&f.file).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&file, bytes).unwrap();
    for arguments in [vec!["inspect", text(&file)], vec!["bench", text(&file)]] {
        let error = fails(&arguments);
        assert!(error.contains("flipped.slim: "), "{error}");
    }
}

/// A kind is told by content: names may say anything.
#[test]
fn endings_do_not_matter() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    fs::copy(&f.file, &file).unwrap();
    succeeds(&["inspect", text(&file)]);
    let error = fails(&[
        "import",
        text(&file),
        "-o",
        text(&folder.path().join("n.safetensors")),
    ]);
    assert!(error.contains("is a .slim file"), "{error}");
}
