use std::path::Path;

use slimbit_engine::Image;

use crate::DataError;
use crate::formats::picture;

/// Decodes a picture file, told by its content: grey stays grey, everything else becomes RGB,
/// transparency is dropped, 16 bits and floats in 0 to 1 become 8 bits, of an animation it is the first
/// frame, and the orientation in EXIF is not applied.
///
/// The file may have 512 MiB. Decoding takes at most twice its size and 384 MiB; what would take more
/// is refused before it is decoded.
///
/// # Errors
/// [`DataError::Io`] where it cannot be read, [`DataError::Decode`] where it is not a picture, damaged
/// or too large.
pub fn open_image(path: impl AsRef<Path>) -> Result<Image, DataError> {
    Ok(picture::decode(path.as_ref())?.image)
}

/// An image of `testdata/pillow`, which Pillow made.
#[cfg(test)]
pub(crate) fn from_pillow(name: &str) -> Image {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/pillow");
    open_image(folder.join(format!("{name}.png"))).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_engine::resample::{Window, resize, resize_then_crop};
    use slimbit_engine::{Filter, Preprocess};

    #[test]
    fn grey_equals_pillow() {
        assert_eq!(
            from_pillow("input").with_channels(1).as_ref(),
            &from_pillow("grey")
        );
    }

    #[test]
    fn resizing_equals_pillow() {
        let input = from_pillow("input");
        for (kernel, filter) in [("bilinear", Filter::Bilinear), ("bicubic", Filter::Bicubic)] {
            for (width, height) in [(32, 32), (7, 5), (60, 80), (45, 11)] {
                for (prefix, image) in [("", &input), ("grey-", input.with_channels(1).as_ref())] {
                    let resized = resize(image, Window::whole(image), height, width, filter);
                    let name = format!("{prefix}{kernel}-{width}x{height}");
                    assert!(resized == from_pillow(&name), "{name}");
                }
            }
        }
    }

    #[test]
    fn cropping_before_or_after_the_passes_is_the_same() {
        let input = from_pillow("input");
        let kept = Window {
            top: 3,
            left: 11,
            height: 20,
            width: 30,
        };
        let whole = resize(&input, Window::whole(&input), 29, 61, Filter::Bicubic);
        let expected = resize(&whole, kept, kept.height, kept.width, Filter::Bicubic);
        assert_eq!(
            resize_then_crop(&input, (29, 61), kept, Filter::Bicubic),
            expected
        );
    }

    #[test]
    fn preprocessing_survives_toml() {
        let preprocess = Preprocess::imagenet();
        let text = toml::to_string(&preprocess).unwrap();
        assert_eq!(toml::from_str::<Preprocess>(&text).unwrap(), preprocess);
    }
}
