//! Pictures that claim or unpack to far more than their files hold: in processes of their own, whose
//! peak is measured.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use slimbit_data::{Dataset, Preprocess, eval_images, open_image};
use tempfile::tempdir;

/// What the child process looks at: a picture, or a folder of them.
const TARGET: &str = "SLIMBIT_DATA_MEMORY_TARGET";

/// What decoding may take beside twice the file, as `open_image` says.
const BOUND: u64 = 384 << 20;

const MIB: u64 = 1 << 20;

/// Highest resident memory of this process so far.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kib * 1024
}

/// The child: prints by how much decoding raised the peak, and what came of it.
#[test]
fn child() {
    let Some(target) = std::env::var_os(TARGET) else {
        return;
    };
    let target = Path::new(&target);
    let before = peak();
    let outcome = match target.is_dir() {
        true => Dataset::open(target)
            .and_then(|dataset| eval_images(&dataset, &Preprocess::cifar(), None))
            .map(|batch| format!("{} images", batch.len())),
        false => open_image(target).map(|image| format!("{}x{}", image.height, image.width)),
    };
    let outcome = outcome.unwrap_or_else(|error| error.to_string());
    println!("\npeak={} outcome={outcome}", peak() - before);
}

/// Bytes that looking at a picture or a folder takes, and what came of it.
fn look_at(target: &Path) -> (u64, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(TARGET, target)
        .env("RAYON_NUM_THREADS", "8")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.strip_prefix("peak="));
    let (bytes, outcome) = found
        .and_then(|found| found.split_once(" outcome="))
        .unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    (bytes.parse().unwrap(), outcome.to_owned())
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let length = (data.len() as u32).to_be_bytes();
    [&length[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

/// `len` zeros, deflated.
fn zeros(len: u64) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let block = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let count = left.min(block.len() as u64);
        encoder.write_all(&block[..count as usize]).unwrap();
        left -= count;
    }
    encoder.finish().unwrap()
}

/// A black PNG of 16 bits a sample: `colour` 2 is RGB, 6 is RGBA.
fn png16(side: u32, colour: u8, profile: &[u8]) -> Vec<u8> {
    let channels = if colour == 6 { 4 } else { 3 };
    let mut header = Vec::new();
    header.extend(side.to_be_bytes());
    header.extend(side.to_be_bytes());
    header.extend([16, colour, 0, 0, 0]);
    let row = 1 + u64::from(side) * channels * 2;
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend(chunk(b"IHDR", &header));
    if !profile.is_empty() {
        png.extend(chunk(b"iCCP", &[b"icc\0\0", profile].concat()));
    }
    png.extend(chunk(b"IDAT", &zeros(row * u64::from(side))));
    png.extend(chunk(b"IEND", &[]));
    png
}

#[test]
fn a_picture_takes_no_more_than_its_bound() {
    let folder = tempdir().unwrap();
    let progressive = [
        &b"\xff\xd8\xff\xc2\0\x11\x08\x27\x10\x27\x10\x03\x01\x11\0\x02\x11\0\x03\x11\0"[..],
        b"\xff\xda\0\x0c\x03\x01\0\x02\0\x03\0\0\0\0\xff\xd9",
    ]
    .concat();
    let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bmp.extend(60_000_u32.to_le_bytes());
    bmp.extend(60_000_u32.to_le_bytes());
    bmp.extend(b"\x01\0\x18\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let gif = [
        &b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff"[..],
        b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;",
    ]
    .concat();
    let mut webp = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(5000, 5000)
        .write_to(&mut webp, image::ImageFormat::WebP)
        .unwrap();
    for (name, bytes, part, more) in [
        // Half a gigabyte of profile in half a megabyte, which nobody looks at.
        (
            "profile.png",
            png16(8, 2, &zeros(512 * MIB)),
            "8x8",
            64 * MIB,
        ),
        ("large.png", png16(7000, 6, &[]), "7000x7000", BOUND),
        (
            "too-large.png",
            png16(8000, 6, &[]),
            "8000x8000 pixels take 512000000 bytes",
            0,
        ),
        ("progressive.jpg", progressive, "10000x10000 pixels take", 0),
        ("large.bmp", bmp, "60000x60000 pixels take", 0),
        ("large.gif", gif, "65535x65535 pixels take", 0),
        (
            "large.ppm",
            b"P6 50000 50000 255\n".to_vec(),
            "50000x50000 pixels take",
            0,
        ),
        ("large.webp", webp.into_inner(), "5000x5000", BOUND),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let (peak, outcome) = look_at(&path);
        assert!(outcome.contains(part), "{name}: {outcome}");
        let bound = 2 * bytes.len() as u64 + more + 8 * MIB;
        assert!(
            peak <= bound,
            "{name}: {} MiB of {}",
            peak / MIB,
            bound / MIB
        );
    }
}

#[test]
fn threads_share_the_bound() {
    let folder = tempdir().unwrap();
    let picture = png16(5000, 2, &zeros(128 * MIB));
    for index in 0..8 {
        fs::write(folder.path().join(format!("{index}.png")), &picture).unwrap();
    }
    fs::write(folder.path().join("too-large.png"), png16(9000, 2, &[])).unwrap();
    let (peak, outcome) = look_at(folder.path());
    assert!(outcome.contains("8 images"), "{outcome}");
    // Each thread may have its file twice, and a profile.
    let bound = BOUND + 8 * (2 * picture.len() as u64 + 16 * MIB) + 16 * MIB;
    assert!(peak <= bound, "{} MiB of {}", peak / MIB, bound / MIB);
}
