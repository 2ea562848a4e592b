//! Every format, whole and damaged.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use slimbit_data::{
    AugmentConfig, DataError, Dataset, Loader, LoaderConfig, Parts, Preprocess, Split, eval_batches,
};
use tempfile::{TempDir, tempdir};

fn fashion_mnist() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/fashion-mnist"
    ))
}

fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn refusal(path: impl AsRef<Path>) -> String {
    Dataset::open(&path)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_else(|| "opened".into())
}

fn picture(format: image::ImageFormat, rgb: [u8; 3], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb(rgb));
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(rgb: [u8; 3], width: u32, height: u32) -> Vec<u8> {
    picture(image::ImageFormat::Png, rgb, width, height)
}

#[test]
fn the_carried_fashion_mnist_is_balanced_and_has_its_known_statistics() {
    for (split, count) in [(Split::Train, 10_000), (Split::Test, 2000)] {
        let dataset = Dataset::open_split(fashion_mnist(), split).unwrap();
        assert_eq!((dataset.len(), dataset.shape()), (count, (1, 28, 28)));
        assert_eq!(
            (dataset.classes().len(), dataset.classes()[9].as_str()),
            (10, "Ankle boot")
        );
        let mut counts = [0; 10];
        (0..count).for_each(|index| counts[dataset.label(index).unwrap() as usize] += 1);
        assert_eq!(counts, [count / 10; 10]);
    }
    let train = Dataset::open(fashion_mnist()).unwrap();
    let sum: u64 = (0..train.len())
        .flat_map(|i| train.image(i).unwrap().pixels)
        .map(u64::from)
        .sum();
    let mean = sum as f64 / (train.len() * 28 * 28) as f64 / 255.0;
    assert!(
        (mean - f64::from(Preprocess::fashion_mnist().mean[0])).abs() < 0.002,
        "{mean}"
    );
    let error = train.image(10_000).unwrap_err().to_string();
    assert_eq!(error, "image 10000 of 10000 does not exist");
}

#[test]
fn idx_files_open_raw_or_packed_with_or_without_labels() {
    let images = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
    let raw = folder(&[("a-images-idx3-ubyte", images.clone())]);
    let dataset = Dataset::open(raw.path()).unwrap();
    assert_eq!(
        (
            dataset.len(),
            dataset.label(0),
            dataset.image(1).unwrap().pixels
        ),
        (2, None, vec![4, 5, 6])
    );

    let packed = folder(&[
        ("a-images-idx3-ubyte.gz", gzip(&images)),
        ("a-labels-idx1-ubyte.gz", gzip(&idx(&[2], &[3, 0]))),
    ]);
    let dataset = Dataset::open(packed.path().join("a-images-idx3-ubyte.gz")).unwrap();
    assert_eq!((dataset.label(0), dataset.classes().len()), (Some(3), 4));
    let error = Dataset::open_split(packed.path(), Split::Test)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no test split"), "{error}");
}

#[test]
fn damaged_idx_files_are_refused() {
    let images = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
    let packed = gzip(&images);
    let cut = packed[..packed.len() - 5].to_vec();
    let mut flipped = packed.clone();
    let checksum = flipped.len() - 8;
    flipped[checksum] ^= 1;
    let claims_more = gzip(&idx(&[1000, 1000, 1000], &[0; 64]));
    for (bytes, part) in [
        (images[..20].to_vec(), "only 4"),
        (cut, "cannot be read"),
        (flipped, "cannot be read"),
        (claims_more, "more than the file can hold"),
        (idx(&[2, 0, 3], &[]), "0x3"),
        (b"<html>404</html>".to_vec(), "first bytes"),
    ] {
        let folder = folder(&[("train-images-idx3-ubyte", bytes)]);
        let error = refusal(folder.path());
        assert!(
            error.contains(part) && error.contains("train-images-idx3-ubyte"),
            "{error}"
        );
    }
    let none = folder(&[("train-images-idx3-ubyte", idx(&[0, 28, 28], &[]))]);
    assert!(refusal(none.path()).contains("no images"));
    let mismatch = folder(&[
        ("train-images-idx3-ubyte", images),
        ("train-labels-idx1-ubyte", idx(&[3], &[0, 1, 2])),
    ]);
    assert!(refusal(mismatch.path()).contains("3 labels for 2 images"));
}

#[test]
fn cifar_binaries_open_and_damage_is_found() {
    let record = |labels: &[u8], first: u8| {
        let mut record = labels.to_vec();
        record.extend((0..3072).map(|i| {
            if i % 1024 == 0 {
                first + (i / 1024) as u8
            } else {
                0
            }
        }));
        record
    };
    let ten = folder(&[
        (
            "cifar-10-batches-bin/data_batch_1.bin",
            [record(&[7], 10), record(&[1], 20)].concat(),
        ),
        ("cifar-10-batches-bin/data_batch_2.bin", record(&[2], 30)),
        ("cifar-10-batches-bin/test_batch.bin", record(&[9], 40)),
    ]);
    let train = Dataset::open(ten.path()).unwrap();
    assert_eq!(
        (train.len(), train.shape(), train.label(0), train.label(2)),
        (3, (3, 32, 32), Some(7), Some(2))
    );
    assert_eq!(train.image(1).unwrap().pixels[..4], [20, 21, 22, 0]);
    assert_eq!(
        Dataset::open_split(ten.path(), Split::Test)
            .unwrap()
            .label(0),
        Some(9)
    );

    let hundred = folder(&[("train.bin", record(&[3, 55], 1))]);
    let dataset = Dataset::open(hundred.path()).unwrap();
    assert_eq!((dataset.label(0), dataset.classes().len()), (Some(55), 100));
    assert!(Dataset::open_split(hundred.path(), Split::Test).is_err());

    let truncated = folder(&[("data_batch_1.bin", record(&[7], 1)[..3000].to_vec())]);
    assert!(refusal(truncated.path()).contains("3000 bytes are not whole records of 3073"));
    let mislabelled = folder(&[("data_batch_1.bin", record(&[10], 1))]);
    assert!(refusal(mislabelled.path()).contains("label 10 of 10"));
    let pickled = folder(&[("data_batch_1", vec![0x80])]);
    assert!(refusal(pickled.path()).contains("binary version"));
}

#[test]
fn class_folders_give_labels_and_splits_share_them() {
    let root = folder(&[
        ("train/cat/1.png", png([255, 0, 0], 4, 3)),
        ("train/cat/deep/2.PNG", png([255, 0, 0], 4, 3)),
        (
            "train/dog/1.jpg",
            picture(image::ImageFormat::Jpeg, [0, 0, 255], 9, 9),
        ),
        ("train/dog/notes.txt", b"not a picture".to_vec()),
        ("train/.hidden/1.png", png([1, 1, 1], 2, 2)),
        ("val/dog/1.png", png([0, 0, 255], 5, 5)),
    ]);
    let train = Dataset::open(root.path()).unwrap();
    assert_eq!((train.len(), train.shape()), (3, (3, 3, 4)));
    assert_eq!(train.classes(), ["cat", "dog"]);
    assert_eq!(train.name(0), "cat/1.png");
    assert!(
        (0..3)
            .map(|index| train.label(index).unwrap())
            .eq([0, 0, 1])
    );
    let test = Dataset::open_split(root.path(), Split::Test).unwrap();
    assert_eq!((test.len(), test.label(0)), (1, Some(1)));
}

#[test]
fn mixed_pictures_become_one_shape() {
    let mut grey = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_pixel(5, 7, image::Luma([100]))
        .write_to(&mut grey, image::ImageFormat::Png)
        .unwrap();
    let mut deep = std::io::Cursor::new(Vec::new());
    let rgba16 = image::ImageBuffer::from_pixel(40, 30, image::Rgba([65_535_u16, 0, 0, 9]));
    image::DynamicImage::ImageRgba16(rgba16)
        .write_to(&mut deep, image::ImageFormat::Png)
        .unwrap();
    let root = folder(&[
        ("a.png", grey.into_inner()),
        ("b.png", deep.into_inner()),
        ("c.bmp", picture(image::ImageFormat::Bmp, [0, 255, 0], 1, 1)),
        (
            "d.webp",
            picture(image::ImageFormat::WebP, [0, 255, 0], 3, 200),
        ),
    ]);
    let dataset = Dataset::open(root.path()).unwrap();
    assert_eq!(
        (dataset.len(), dataset.label(0), dataset.classes().len()),
        (4, None, 0)
    );
    assert_eq!(dataset.shape().0, 3);
    assert_eq!(
        (
            dataset.image(0).unwrap().channels,
            dataset.image(1).unwrap().channels
        ),
        (1, 3)
    );
    let preprocess = Preprocess::cifar();
    let batch = eval_batches(&dataset, &preprocess, 10)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!((batch.len(), batch.labels), (4, None));
    assert_eq!(batch.codes[..3], [100, 100, 100]);
    assert_eq!(batch.codes[3072..3075], [255, 0, 0]);
}

#[test]
fn corrupt_pictures_are_skipped_and_listed() {
    let whole = png([9, 9, 9], 64, 64);
    let jpeg = picture(image::ImageFormat::Jpeg, [9, 9, 9], 64, 64);
    let root = folder(&[
        ("0.png", whole.clone()),
        ("1.png", whole[..whole.len() / 2].to_vec()),
        ("2.png", b"not a png".to_vec()),
        ("3.png", Vec::new()),
        ("4.jpg", jpeg[..jpeg.len() - 20].to_vec()),
        ("5.jpg", jpeg),
    ]);
    let dataset = Arc::new(Dataset::open(root.path()).unwrap());
    let names = |dataset: &Dataset| -> Vec<String> {
        let skipped = dataset.skipped();
        skipped
            .iter()
            .map(|s| s.path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(
        (dataset.len(), names(&dataset)),
        (4, vec!["2.png".into(), "3.png".into()])
    );

    let config = LoaderConfig {
        batch: 4,
        ..LoaderConfig::default()
    };
    let loader = Loader::new(
        Arc::clone(&dataset),
        config,
        AugmentConfig::cifar(),
        Preprocess::cifar(),
    )
    .unwrap();
    let mut indices = loader.epoch(0, 0).next().unwrap().unwrap().indices;
    indices.sort_unstable();
    assert_eq!(indices, [0, 3, 3, 3]);
    assert_eq!(names(&dataset), ["1.png", "2.png", "3.png", "4.jpg"]);

    let preprocess = Preprocess::cifar();
    let batches: Vec<_> = eval_batches(&dataset, &preprocess, 2)
        .map(Result::unwrap)
        .collect();
    assert!(
        batches
            .iter()
            .map(|batch| batch.indices.as_slice())
            .eq([&[0][..], &[3]])
    );
}

#[test]
fn folders_without_a_readable_picture_are_refused() {
    let empty = tempdir().unwrap();
    assert!(refusal(empty.path()).contains("no images in"));
    let text = folder(&[("readme.txt", b"hello".to_vec())]);
    assert!(refusal(text.path()).contains("no images in"));
    let broken = folder(&[("a/1.png", b"x".to_vec()), ("b/2.jpg", b"y".to_vec())]);
    assert!(refusal(broken.path()).contains("all 2 candidates are corrupt"));
    assert!(refusal(empty.path().join("absent")).contains("check that it exists"));
    let archive = folder(&[("photos.tar", b"x".to_vec())]);
    assert!(refusal(archive.path().join("photos.tar")).contains("unpack"));

    let whole = png([9, 9, 9], 64, 64);
    let halves = folder(&[("1.png", whole[..whole.len() / 2].to_vec())]);
    let dataset = Dataset::open(halves.path()).unwrap();
    let preprocess = Preprocess::cifar();
    let mut batches = eval_batches(&dataset, &preprocess, 2);
    assert!(matches!(
        batches.next(),
        Some(Err(DataError::Empty { skipped: 1, .. }))
    ));
    assert!(batches.next().is_none());
}

#[test]
fn pictures_outside_the_class_folders_are_listed() {
    let root = folder(&[
        ("a/1.png", png([1, 2, 3], 2, 2)),
        ("stray.png", png([1, 2, 3], 2, 2)),
    ]);
    let dataset = Dataset::open(root.path()).unwrap();
    assert_eq!((dataset.len(), dataset.skipped().len()), (1, 1));
    assert!(dataset.skipped()[0].reason.contains("outside"));
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let root = tempdir().unwrap();
    let odd = OsStr::from_bytes(b"caf\xe9.png");
    fs::write(root.path().join(odd), png([1, 2, 3], 2, 2)).unwrap();
    assert_eq!(Dataset::open(root.path()).unwrap().len(), 1);

    let class = root.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&class).unwrap();
    fs::write(class.join("1\n2.png"), png([1, 2, 3], 2, 2)).unwrap();
    let dataset = Dataset::open(root.path()).unwrap();
    assert_eq!(dataset.classes(), ["caf\\xe9"]);
    assert_eq!(dataset.name(0), "caf\\xe9/1\\n2.png");
    assert_eq!(dataset.image(0).unwrap().pixels[..3], [1, 2, 3]);
}

/// Each is left out with its reason; the rest of the folder is read.
#[cfg(unix)]
#[test]
fn links_pipes_and_odd_entries_are_skipped_and_counted() {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    let root = folder(&[
        ("a/1.png", png([1, 2, 3], 2, 2)),
        ("a/dir.jpg/2.png", png([1, 2, 3], 2, 2)),
        ("b/3.png", png([1, 2, 3], 2, 2)),
        ("a/photo.HEIC", vec![0; 9]),
        ("elsewhere.txt", png([1, 2, 3], 2, 2)),
        ("c/notes.txt", Vec::new()),
    ]);
    let at = |name: &str| root.path().join(name);
    symlink(root.path(), at("a/again")).unwrap();
    symlink("nowhere.png", at("a/broken.png")).unwrap();
    symlink(at("elsewhere.txt"), at("a/link.png")).unwrap();
    let _socket = UnixListener::bind(at("a/socket.png")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(at("b/pipe.jpg"))
        .status();
    assert!(fifo.unwrap().success());
    let dataset = Dataset::open(root.path()).unwrap();
    let names: Vec<String> = (0..dataset.len()).map(|i| dataset.name(i)).collect();
    assert_eq!(
        names,
        ["a/1.png", "a/dir.jpg/2.png", "a/link.png", "b/3.png"]
    );
    assert_eq!(dataset.classes(), ["a", "b"]);
    let skipped: Vec<(String, String)> = dataset
        .skipped()
        .into_iter()
        .map(|skipped| {
            let name = skipped.path.strip_prefix(root.path()).unwrap();
            (name.to_str().unwrap().to_owned(), skipped.reason)
        })
        .collect();
    for (name, part) in [
        ("a/again", "leads back"),
        ("a/broken.png", "leads nowhere"),
        ("a/photo.HEIC", "not supported"),
        ("a/socket.png", "not a regular file"),
        ("b/pipe.jpg", "not a regular file"),
    ] {
        let found = skipped.iter().find(|(path, _)| path == name);
        let (_, reason) = found.unwrap_or_else(|| panic!("{name}: {skipped:?}"));
        assert!(reason.contains(part), "{name}: {reason}");
    }
    assert_eq!(skipped.len(), 5);
    assert!(refusal(at("nowhere")).starts_with("cannot read"));
}

#[test]
fn a_folder_of_nothing_usable_says_why() {
    let root = folder(&[("1.heic", vec![0; 9]), ("2.heic", vec![0; 9])]);
    let error = refusal(root.path());
    assert!(
        error.contains("2 left out") && error.contains("1.heic and 2.heic (a format"),
        "{error}"
    );
}

#[test]
fn all_splits_open_together_under_names_of_their_own() {
    let root = folder(&[
        ("test/dog/1.png", png([1, 1, 1], 2, 2)),
        ("train/cat/1.png", png([2, 2, 2], 2, 2)),
        ("train/dog/1.png", png([3, 3, 3], 2, 2)),
        ("val/cat/1.png", png([4, 4, 4], 2, 2)),
    ]);
    let all = Dataset::open_all(root.path()).unwrap();
    let names: Vec<String> = (0..all.len()).map(|i| all.name(i)).collect();
    let expected = [
        "train/cat/1.png",
        "train/dog/1.png",
        "test/dog/1.png",
        "val/cat/1.png",
    ];
    assert_eq!(names, expected);
    assert_eq!(all.labels(), Some(&[0, 1, 1, 0][..]));
    assert_eq!(all.classes(), ["cat", "dog"]);
    assert_eq!(Dataset::open(root.path()).unwrap().len(), 2);
    assert_eq!(Dataset::open_test(root.path(), None).unwrap().len(), 1);

    let both = Dataset::open_all(fashion_mnist()).unwrap();
    assert_eq!(both.len(), 12_000);
    assert_eq!(
        (both.name(9_999), both.name(10_000)),
        ("train/9999".into(), "test/0".into())
    );
    let test = Dataset::open_split(fashion_mnist(), Split::Test).unwrap();
    assert_eq!(both.image(10_007).unwrap(), test.image(7).unwrap());
    assert_eq!(both.label(10_007), test.label(7));

    let flat = folder(&[
        ("1.png", png([1, 1, 1], 2, 2)),
        ("2.png", png([1, 1, 1], 2, 2)),
    ]);
    for open in [
        Dataset::open(flat.path()),
        Dataset::open_all(flat.path()),
        Dataset::open_test(flat.path(), None),
    ] {
        assert_eq!(open.unwrap().len(), 2);
    }
}

#[test]
fn images_are_held_out_of_one_folder_without_overlap() {
    let files: Vec<(String, Vec<u8>)> = (0..30)
        .map(|i| {
            let class = ["cat", "dog", "owl"][i % 3];
            (format!("{class}/{i}.png"), png([i as u8, 0, 0], 2, 2))
        })
        .collect();
    let named: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    let root = folder(&named);
    let holdout = |text: &str| Some((text.parse().unwrap(), 5));
    let names = |dataset: &Dataset| -> Vec<String> {
        (0..dataset.len()).map(|i| dataset.name(i)).collect()
    };
    let Parts { train, test } = Parts::open(root.path(), holdout("20%")).unwrap();
    assert_eq!((train.len(), test.len()), (24, 6));
    let mut all = [names(&train), names(&test)].concat();
    all.sort();
    assert_eq!(all, names(&Dataset::open(root.path()).unwrap()));
    let mut per_class = [0; 3];
    test.labels()
        .unwrap()
        .iter()
        .for_each(|&l| per_class[l as usize] += 1);
    assert_eq!(per_class, [2, 2, 2]);
    for index in 0..test.len() {
        let number: u8 = test.name(index)[4..]
            .trim_end_matches(".png")
            .parse()
            .unwrap();
        assert_eq!(test.image(index).unwrap().pixels[0], number);
    }
    let again = Dataset::open_test(root.path(), holdout("20%")).unwrap();
    assert_eq!(names(&again), names(&test));

    let error = |result: Result<Parts, DataError>| result.err().unwrap().to_string();
    assert!(error(Parts::open(root.path(), None)).contains("no train split"));
    assert!(error(Parts::open(root.path(), holdout("28"))).contains("leaves 27 at most"));
    assert!(error(Parts::open(fashion_mnist(), holdout("20%"))).contains("already"));

    // Of images in memory too, and of a split alone.
    let train = fashion_mnist().join("train-images-idx3-ubyte.gz");
    let parts = Parts::open(train, holdout("1000")).unwrap();
    assert_eq!((parts.train.len(), parts.test.len()), (9000, 1000));
    let only = folder(&[
        ("train/a/1.png", png([1, 1, 1], 2, 2)),
        ("train/a/2.png", png([1, 1, 1], 2, 2)),
    ]);
    assert_eq!(
        Parts::open(only.path(), holdout("50%")).unwrap().test.len(),
        1
    );
}

#[cfg(unix)]
#[test]
fn a_test_split_that_is_a_link_to_the_training_images_is_refused() {
    let root = folder(&[("train/a/1.png", png([1, 1, 1], 2, 2))]);
    std::os::unix::fs::symlink("train", root.path().join("test")).unwrap();
    let error = Parts::open(root.path(), None).err().unwrap().to_string();
    assert!(error.contains("are the same folder"), "{error}");
}

#[test]
fn splits_are_splits_whatever_else_is_there_but_pictures() {
    let mut files = vec![
        ("Train/cat/1.png", png([1, 1, 1], 2, 2)),
        ("Test/cat/2.png", png([1, 1, 1], 2, 2)),
        ("annotations/instances.json", b"{}".to_vec()),
        ("README.md", b"# photos".to_vec()),
    ];
    let root = folder(&files);
    assert_eq!(Dataset::open(root.path()).unwrap().classes(), ["cat"]);
    assert_eq!(Parts::open(root.path(), None).unwrap().test.len(), 1);
    // With pictures beside them they are classes, as before.
    files.push(("bus/3.png", png([1, 1, 1], 2, 2)));
    let dataset = Dataset::open(folder(&files).path()).unwrap();
    assert_eq!(dataset.classes(), ["Test", "Train", "bus"]);
}
