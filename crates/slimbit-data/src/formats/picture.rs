//! One picture file: its header, and its pixels, within bounds on memory.
//!
//! Whatever a file claims to hold, reading its header takes at most twice its size and 16 MiB, and
//! decoding it at most twice its size and [`MOST_BYTES`], which all pictures that are decoded at a
//! time share.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use image::{ColorType, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::budget::{Budget, Permit};
use crate::{DataError, Image};

/// (channels, height, width).
pub(crate) type Shape = (usize, usize, usize);

/// Bytes that decoding pictures may take beside their files: 134 million grey or 8-bit RGB pixels of a
/// JPEG.
const MOST_BYTES: u64 = 384 << 20;

/// Bytes of a picture file.
const MOST_FILE: u64 = 512 << 20;

/// Bytes that the profiles and texts of a PNG may take beyond its file; none of them is looked at, and
/// deflate makes a thousand times as much of them.
const MOST_PROFILE: u64 = 16 << 20;

static BUDGET: Budget = Budget::new(MOST_BYTES);

/// A decoded picture that still counts as being decoded.
pub(crate) struct Held {
    pub(crate) image: Image,
    _permit: Option<Permit<'static>>,
}

impl Held {
    /// A copy of an image that is in memory anyway.
    pub(crate) fn free(image: Image) -> Self {
        Held {
            image,
            _permit: None,
        }
    }
}

/// Decodes one picture: grey stays grey, everything else becomes RGB, transparency is dropped, 16 bits
/// and floats become 8 bits, of an animation it is the first frame, and orientation stays as it is
/// stored.
pub(crate) fn decode(path: &Path) -> Result<Held, DataError> {
    let bytes = read(path)?;
    // Only reading can fail for the system's reasons; from here on it is the file that is wrong.
    let (image, permit) = pixels(&bytes).map_err(|reason| DataError::Decode {
        path: path.into(),
        reason,
    })?;
    Ok(Held {
        image,
        _permit: Some(permit),
    })
}

/// The shape of a picture by its header; what is wrong with it, where it cannot be used.
pub(crate) fn read_shape(path: &Path) -> Result<Shape, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    check_file(len)?;
    // Decoders of some formats read all of the file before they tell its header.
    let _permit = BUDGET.take(2 * len);
    let mut reader = BufReader::new(file);
    let mut start = [0; 64];
    let known = fill(&mut reader, &mut start).map_err(unreadable)?;
    std::io::Seek::rewind(&mut reader).map_err(unreadable)?;
    let (decoder, format) = decoder(reader, &start[..known], len)?;
    let (width, height) = decoder.dimensions();
    // A progressive JPEG is told from others when it is decoded.
    check_memory(&decoder, working_bytes(&decoder, format, &[]))?;
    let channels = if decoder.color_type().has_color() {
        3
    } else {
        1
    };
    Ok((channels, height as usize, width as usize))
}

/// All of a file, or an error for more than [`MOST_FILE`]; a pipe that a user names is read too.
fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let failed = |error| DataError::io(path, error);
    let file = File::open(path).map_err(failed)?;
    let refuse = |reason| DataError::Decode {
        path: path.into(),
        reason,
    };
    let len = file.metadata().map_err(failed)?.len();
    check_file(len).map_err(refuse)?;
    let mut bytes = Vec::with_capacity(len as usize);
    let mut limited = file.take(MOST_FILE + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    check_file(bytes.len() as u64).map_err(refuse)?;
    Ok(bytes)
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

fn pixels(bytes: &[u8]) -> Result<(Image, Permit<'static>), String> {
    let start = &bytes[..bytes.len().min(64)];
    let (decoder, format) = decoder(Cursor::new(bytes), start, bytes.len() as u64)?;
    if format == ImageFormat::Jpeg && !reaches_end_of_image(bytes) {
        return Err("the file is truncated: it has no end-of-image marker".into());
    }
    let working = working_bytes(&decoder, format, bytes);
    check_memory(&decoder, working)?;
    let permit = BUDGET.take(working);
    let (width, height) = decoder.dimensions();
    let colour = decoder.color_type();
    let mut samples = vec![0; decoder.total_bytes() as usize];
    decoder
        .read_image(&mut samples)
        .map_err(|error| error.to_string())?;
    let channels = narrow(&mut samples, colour)?;
    let image = Image::new(channels, height as usize, width as usize, samples);
    Ok((image.map_err(|error| error.to_string())?, permit))
}

/// The decoder of a file that begins with `start` and has `len` bytes.
fn decoder<'a>(
    reader: impl std::io::BufRead + std::io::Seek + 'a,
    start: &[u8],
    len: u64,
) -> Result<(impl ImageDecoder + 'a, ImageFormat), String> {
    let mut reader = ImageReader::new(reader)
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    let Some(format) = reader.format() else {
        return Err(what_it_is(start).to_owned());
    };
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(match format {
        // Its pixels do not count.
        ImageFormat::Png => len + MOST_PROFILE,
        _ => MOST_BYTES,
    });
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    match decoder.dimensions() {
        (0, _) | (_, 0) => Err("it has no pixels".into()),
        _ => Ok((decoder, format)),
    }
}

/// What a file is that is no picture, as far as it helps.
fn what_it_is(start: &[u8]) -> &'static str {
    let text = start.trim_ascii_start().to_ascii_lowercase();
    match start {
        [] => "the file is empty",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => {
            "a HEIC or AVIF picture or a video, which is not supported: convert it to JPEG or PNG"
        }
        _ if start.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer instead of the picture: fetch it with `git lfs pull`"
        }
        _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => {
            "a web page instead of a picture: download it again"
        }
        _ => "not a picture in a format that is supported",
    }
}

/// The most memory that decoding takes, pixels included and the file left out.
fn working_bytes(decoder: &impl ImageDecoder, format: ImageFormat, bytes: &[u8]) -> u64 {
    let (width, height) = decoder.dimensions();
    let area = u64::from(width) * u64::from(height);
    let pixels = decoder.total_bytes();
    pixels.saturating_add(match format {
        // 16-bit coefficients of three components, or four, of the whole image.
        ImageFormat::Jpeg if is_progressive(bytes) => area.saturating_mul(8),
        // A frame of RGBA, and of YUV or of transforms.
        ImageFormat::WebP => area.saturating_mul(6),
        // A frame beside the canvas.
        ImageFormat::Gif => area.saturating_mul(4),
        // Decoded strips or tiles before they are put in place.
        ImageFormat::Tiff | ImageFormat::Pnm => pixels,
        _ => 0,
    })
}

fn check_file(len: u64) -> Result<(), String> {
    match len > MOST_FILE {
        true => Err(format!(
            "its {len} bytes are more than the {MOST_FILE} of the largest picture file that is read: shrink it"
        )),
        false => Ok(()),
    }
}

fn check_memory(decoder: &impl ImageDecoder, working: u64) -> Result<(), String> {
    let (width, height) = decoder.dimensions();
    match working > MOST_BYTES {
        true => Err(format!(
            "its {width}x{height} pixels take {working} bytes to decode, more than the {MOST_BYTES} that one picture \
             may: shrink it"
        )),
        false => Ok(()),
    }
}

/// Turns samples into 8-bit grey or RGB in their place, and gives the number of channels.
fn narrow(samples: &mut Vec<u8>, colour: ColorType) -> Result<usize, String> {
    let channels = usize::from(colour.channel_count());
    let kept = if colour.has_color() { 3 } else { 1 };
    let wide = usize::from(colour.bytes_per_pixel()) / channels;
    let sample: fn(&[u8]) -> u8 = match (colour, wide) {
        (_, 1) => |bytes| bytes[0],
        // Of 257 parts, to the nearest.
        (_, 2) => |bytes| ((u32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) + 128) / 257) as u8,
        (ColorType::Rgb32F | ColorType::Rgba32F, 4) => |bytes| {
            let value = f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            (value.clamp(0.0, 1.0) * 255.0).round() as u8
        },
        _ => {
            return Err(format!(
                "its samples are {colour:?}, which is not supported"
            ));
        }
    };
    if (channels, wide) == (kept, 1) {
        return Ok(kept);
    }
    let mut written = 0;
    for pixel in 0..samples.len() / (channels * wide) {
        for channel in 0..kept {
            let start = (pixel * channels + channel) * wide;
            samples[written] = sample(&samples[start..start + wide]);
            written += 1;
        }
    }
    samples.truncate(written);
    samples.shrink_to_fit();
    Ok(kept)
}

/// Whether a JPEG is a progressive one: whether such a frame comes before the first scan.
fn is_progressive(jpeg: &[u8]) -> bool {
    let mut rest = jpeg.get(2..).unwrap_or_default();
    while let [0xff, marker, after @ ..] = rest {
        match (marker, after) {
            (0xff, _) => rest = &rest[1..],
            (0xc2 | 0xc6 | 0xca | 0xce, _) => return true,
            (0xda | 0xd9, _) => return false,
            (_, &[high, low, ..]) => {
                let length = usize::from(u16::from_be_bytes([high, low]));
                rest = after.get(length..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    // Whatever this is, it is counted as what takes more.
    !jpeg.is_empty()
}

/// Whether a JPEG's segments lead to its end-of-image marker: the decoder pads a truncated picture
/// with grey instead of refusing it. Markers are followed from the start, because embedded
/// thumbnails and appended videos have their own.
fn reaches_end_of_image(jpeg: &[u8]) -> bool {
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff | 0xd0..=0xd7);
    let mut rest = jpeg.get(2..).unwrap_or_default();
    while let Some(marker) = rest.windows(2).position(is_marker) {
        let segment = &rest[marker + 2..];
        rest = match (rest[marker + 1], segment) {
            (0xd9, _) => return true,
            (0x01 | 0xd8, _) => segment,
            (_, &[high, low, ..]) => segment
                .get(usize::from(u16::from_be_bytes([high, low]))..)
                .unwrap_or_default(),
            _ => return false,
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use image::{DynamicImage, ImageBuffer};

    use super::*;

    #[test]
    fn the_end_of_a_jpeg_is_not_that_of_its_thumbnail() {
        let mut jpeg = Cursor::new(Vec::new());
        let noise = image::RgbImage::from_fn(40, 40, |x, y| {
            image::Rgb([(x * y * 7) as u8, (x * 31) as u8, y as u8])
        });
        noise.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let plain = jpeg.into_inner();
        let length = (plain.len() as u16 + 2).to_be_bytes();
        let embedding = [&plain[..2], &[0xff, 0xe1], &length, &plain, &plain[2..]].concat();
        assert!(!is_progressive(&plain) && !is_progressive(&embedding));
        for jpeg in [&plain, &embedding] {
            assert!(reaches_end_of_image(jpeg));
            assert!(reaches_end_of_image(
                &[jpeg, &[0xff, 0xda, 0xff][..]].concat()
            ));
            for cut in 1..jpeg.len() - 1 {
                assert!(
                    !reaches_end_of_image(&jpeg[..cut]),
                    "{cut} of {}",
                    jpeg.len()
                );
            }
        }
    }

    /// The conversions are those of the `image` crate, which needs a second picture for them.
    #[test]
    fn samples_become_8_bits_in_place() {
        let sixteen: Vec<u16> = (0..=u16::MAX).collect();
        let grey =
            DynamicImage::ImageLuma16(ImageBuffer::from_raw(256, 256, sixteen.clone()).unwrap());
        let with_alpha = sixteen.iter().flat_map(|&v| [v, 7]).collect();
        let rgb: Vec<u16> = sixteen.iter().flat_map(|&v| [v, !v, v / 2]).collect();
        let rgba: Vec<u16> = sixteen.iter().flat_map(|&v| [v, !v, v / 2, 9]).collect();
        let floats: Vec<f32> = (-9_000_i16..9_000)
            .flat_map(|v| [f32::from(v) / 8_000.0, f32::from(v), 0.5])
            .collect();
        let bytes: Vec<u8> = (0..=255).flat_map(|v: u8| [v, !v, v / 2, 3]).collect();
        for picture in [
            grey,
            DynamicImage::ImageLumaA16(ImageBuffer::from_raw(256, 256, with_alpha).unwrap()),
            DynamicImage::ImageRgb16(ImageBuffer::from_raw(256, 256, rgb).unwrap()),
            DynamicImage::ImageRgba16(ImageBuffer::from_raw(256, 256, rgba).unwrap()),
            DynamicImage::ImageRgb32F(ImageBuffer::from_raw(180, 100, floats).unwrap()),
            DynamicImage::ImageRgba8(ImageBuffer::from_raw(16, 16, bytes.clone()).unwrap()),
            DynamicImage::ImageLumaA8(ImageBuffer::from_raw(16, 32, bytes.clone()).unwrap()),
            DynamicImage::ImageLuma8(ImageBuffer::from_raw(32, 32, bytes).unwrap()),
        ] {
            let mut samples = picture.as_bytes().to_vec();
            let channels = narrow(&mut samples, picture.color()).unwrap();
            let expected = match picture.color().has_color() {
                true => (3, picture.to_rgb8().into_raw()),
                false => (1, picture.to_luma8().into_raw()),
            };
            assert!((channels, samples) == expected, "{:?}", picture.color());
        }
    }

    #[test]
    fn what_is_no_picture_is_named() {
        for (bytes, part) in [
            (&b""[..], "empty"),
            (b"\0\0\0\x18ftypheic\0\0", "HEIC or AVIF"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b" <!DOCTYPE html>", "web page"),
            (b"hello", "not a picture"),
        ] {
            let reason = pixels(bytes).err().unwrap();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
