//! One picture file: its header, and its pixels.

use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::path::Path;

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use crate::{DataError, Image};

/// (channels, height, width).
pub(crate) type Shape = (usize, usize, usize);

/// Decodes one picture: grey stays grey, everything else becomes RGB, transparency is dropped, 16
/// bits become 8.
pub(crate) fn decode(path: &Path) -> Result<Image, DataError> {
    let bytes = fs::read(path).map_err(|error| DataError::io(path, error))?;
    let undecodable = |reason: String| DataError::Decode {
        path: path.into(),
        reason,
    };
    // Only reading can fail for the system's reasons; from here on it is the file that is wrong.
    let reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(|e| undecodable(e.to_string()))?;
    if reader.format() == Some(ImageFormat::Jpeg) && !reaches_end_of_image(&bytes) {
        return Err(undecodable(
            "the file is truncated: it has no end-of-image marker".into(),
        ));
    }
    let picture = reader
        .decode()
        .map_err(|error| undecodable(error.to_string()))?;
    let (channels, height, width, pixels) = match picture {
        DynamicImage::ImageLuma8(grey) => (1, grey.height(), grey.width(), grey.into_raw()),
        other if !other.color().has_color() => (
            1,
            other.height(),
            other.width(),
            other.into_luma8().into_raw(),
        ),
        other => (
            3,
            other.height(),
            other.width(),
            other.into_rgb8().into_raw(),
        ),
    };
    Image::new(channels, height as usize, width as usize, pixels)
        .map_err(|error| undecodable(error.to_string()))
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

/// The shape of a picture by its header; what is wrong with it, where it cannot be used.
pub(crate) fn read_shape(path: &Path) -> Result<Shape, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let decoder = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(image::ImageError::from)
        .and_then(ImageReader::into_decoder);
    match decoder {
        Err(error) => Err(error.to_string()),
        Ok(decoder) => match decoder.dimensions() {
            (0, _) | (_, 0) => Err("it has no pixels".into()),
            (width, height) => Ok((
                channels_of(decoder.color_type()),
                height as usize,
                width as usize,
            )),
        },
    }
}

fn channels_of(colour: ColorType) -> usize {
    if colour.has_color() { 3 } else { 1 }
}

#[cfg(test)]
mod tests {
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
}
