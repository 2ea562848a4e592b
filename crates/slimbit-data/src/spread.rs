//! Some of many images, spread evenly.

use rayon::prelude::*;

use crate::{DataError, Dataset, EvalBatch, Preprocess};

/// `count` positions below `len`, spread evenly, in ascending order; all of them where `count` is not
/// below `len`.
///
/// ```
/// assert_eq!(slimbit_data::spread(10, 4).collect::<Vec<_>>(), [0, 2, 5, 7]);
/// assert_eq!(slimbit_data::spread(1500, 1024).len(), 1024);
/// assert!(slimbit_data::spread(3, 8).eq(0..3));
/// ```
pub fn spread(len: usize, count: usize) -> impl ExactSizeIterator<Item = usize> + Clone {
    let count = count.min(len);
    // In 128 bits, for the product of two lengths need not fit into 64.
    (0..count).map(move |i| (i as u128 * len as u128 / count as u128) as usize)
}

/// `limit` images of a dataset as a network is fed them in evaluation, or all, spread evenly over it
/// and in its order.
///
/// Exactly as many are decoded as are asked for; for each that turns out to be damaged, one that lies
/// near it. Fewer than `limit` come back only where the dataset has no more.
///
/// # Errors
/// [`DataError::Empty`] where no image can be decoded, [`DataError::Setting`] where `limit` is zero
/// or the settings cannot be used, and [`DataError::Io`].
pub fn eval_images(
    dataset: &Dataset,
    preprocess: &Preprocess,
    limit: Option<usize>,
) -> Result<EvalBatch, DataError> {
    preprocess.validate()?;
    if limit == Some(0) {
        return Err(DataError::setting(
            "limit",
            "0 images are none to look at; choose at least 1",
        ));
    }
    let read = |index: usize| match dataset.with_image(index, |image| preprocess.codes(image)) {
        Ok(codes) => Ok(Some(codes)),
        // The dataset reports it.
        Err(DataError::Decode { .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let size = preprocess.len();
    let (mut indices, mut codes) = (Vec::new(), Vec::new());
    decodable(
        dataset.len(),
        limit.unwrap_or(usize::MAX),
        &read,
        &mut |index, image: Vec<u8>| {
            indices.push(index);
            codes.extend(image);
        },
    )?;
    if indices.is_empty() {
        return Err(dataset.no_image_left());
    }
    if !indices.is_sorted() {
        let mut order: Vec<usize> = (0..indices.len()).collect();
        order.sort_by_key(|&row| indices[row]);
        let rows = order.iter().flat_map(|&row| &codes[row * size..][..size]);
        codes = rows.copied().collect();
        indices = order.iter().map(|&row| indices[row]).collect();
    }
    let labels = indices.iter().map(|&index| dataset.label(index)).collect();
    Ok(EvalBatch {
        codes,
        labels,
        indices,
    })
}

/// Gives `take` `count` of `len` items that can be read, spread evenly: where `read` gives none, the
/// next that no other was to take, and then, last and out of order, any that is left.
fn decodable<T: Send, E: Send>(
    len: usize,
    count: usize,
    read: &(dyn Fn(usize) -> Result<Option<T>, E> + Sync),
    take: &mut dyn FnMut(usize, T),
) -> Result<(), E> {
    /// Slots whose items are in memory before they are taken.
    const CHUNK: usize = 256;
    let starts: Vec<usize> = spread(len, count).collect();
    let ends = starts.iter().skip(1).copied().chain([len]);
    let slots: Vec<(usize, usize)> = starts.iter().copied().zip(ends).collect();
    let (mut missing, mut untouched) = (0, Vec::new());
    for slots in slots.chunks(CHUNK) {
        // Of each slot, what was found and how far it was looked for.
        let looked = slots
            .par_iter()
            .map(|&(start, end)| {
                for index in start..end {
                    if let Some(item) = read(index)? {
                        return Ok((Some((index, item)), index + 1));
                    }
                }
                Ok((None, end))
            })
            .collect::<Result<Vec<_>, E>>()?;
        for ((item, next), &(_, end)) in looked.into_iter().zip(slots) {
            untouched.extend(next..end);
            match item {
                Some((index, item)) => take(index, item),
                None => missing += 1,
            }
        }
    }
    if missing > 0 && !untouched.is_empty() {
        decodable(
            untouched.len(),
            missing,
            &|place| read(untouched[place]),
            &mut |place, item| take(untouched[place], item),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn as_many_as_asked_for_evenly() {
        for len in [0, 1, 5, 750, 1000, 1500] {
            for count in [1, 2, 7, 749, 1024, 5000] {
                let rows: Vec<usize> = spread(len, count).collect();
                assert_eq!(rows.len(), count.min(len));
                assert!(rows.iter().all(|&row| row < len));
                let steps = rows.windows(2).map(|pair| pair[1] - pair[0]);
                let (least, most) = (steps.clone().min(), steps.max());
                if let (Some(least), Some(most)) = (least, most) {
                    assert!(least >= 1 && most - least <= 1, "{count} of {len}");
                }
            }
        }
        assert_eq!(spread(usize::MAX, 2).last(), Some(usize::MAX / 2));
    }

    #[test]
    fn only_what_is_used_is_decoded() {
        let reads = AtomicUsize::new(0);
        let count = |len, count, damaged: &(dyn Fn(usize) -> bool + Sync)| {
            reads.store(0, Ordering::Relaxed);
            let read = |index| {
                reads.fetch_add(1, Ordering::Relaxed);
                Ok::<_, ()>((!damaged(index)).then_some(index))
            };
            let mut found = Vec::new();
            decodable(len, count, &read, &mut |index, item| {
                assert_eq!(index, item);
                found.push(index);
            })
            .unwrap();
            found.sort_unstable();
            found.dedup();
            (found.len(), reads.load(Ordering::Relaxed))
        };
        assert_eq!(count(1500, 1024, &|_| false), (1024, 1024));
        assert_eq!(count(100_000, 16, &|_| false), (16, 16));
        assert_eq!(count(10, 64, &|_| false), (10, 10));
        // The first of each slot of ten is damaged; then a whole slot; then all; then every other.
        assert_eq!(count(100, 10, &|index| index % 10 == 0), (10, 20));
        assert_eq!(count(100, 10, &|index| index < 10), (10, 20));
        assert_eq!(count(100, 10, &|_| true), (0, 100));
        assert_eq!(count(20, 15, &|index| index % 2 == 0), (10, 20));
        let gone = decodable(4, 2, &|_| Err::<Option<()>, _>("gone"), &mut |_, ()| {});
        assert_eq!(gone, Err("gone"));
    }

    #[test]
    fn images_come_in_order_though_a_slot_is_damaged() {
        // Of six images in three slots, both of the first slot cannot be decoded.
        let folder = tempfile::tempdir().unwrap();
        for index in 0..6_u8 {
            let path = folder.path().join(format!("{index}.png"));
            image::GrayImage::from_pixel(4, 4, image::Luma([index]))
                .save(&path)
                .unwrap();
            if index < 2 {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..bytes.len() / 2 + 8]).unwrap();
            }
        }
        let dataset = Dataset::open(folder.path()).unwrap();
        let preprocess = Preprocess {
            channels: 1,
            height: 1,
            width: 1,
            ..Preprocess::fashion_mnist()
        };
        let batch = eval_images(&dataset, &preprocess, Some(3)).unwrap();
        assert_eq!(batch.indices, [2, 3, 4]);
        assert_eq!(batch.codes, [2, 3, 4]);
        assert_eq!(dataset.skipped().len(), 2);
        assert!(eval_images(&dataset, &preprocess, Some(0)).is_err());
        assert_eq!(eval_images(&dataset, &preprocess, None).unwrap().len(), 4);
    }
}
