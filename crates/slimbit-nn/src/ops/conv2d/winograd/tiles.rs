//! Maps cut into tiles: into the transformed domain and back, a few images at a time.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};

use super::products::{GAP, Tiles};
use super::rows::Rows;
use super::transforms::{InputAdjoint, Linear, OUTPUTS, Output, POSITIONS, SIDE, map_lines};

/// Tiles of a group, and of a block of groups, at least: enough for the register tiles of products,
/// and for one reading of the transformed kernels.
const GROUP_TILES: usize = 16;
const BLOCK_TILES: usize = 64;

/// How maps are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Tiles down and across a map.
    pub(super) tiles: [usize; 2],
    /// Images whose tiles form a group.
    pub(super) images_per_group: usize,
}

impl Cut {
    /// Tiles that cover maps of `output`.
    pub(super) fn new(output: [usize; 2]) -> Self {
        let tiles = output.map(|side| side.div_ceil(OUTPUTS));
        Self {
            tiles,
            images_per_group: GROUP_TILES.div_ceil(tiles[0] * tiles[1]),
        }
    }

    /// Images that are processed together.
    pub(super) fn images_per_block(self) -> usize {
        let group = self.tiles_of(self.images_per_group);
        BLOCK_TILES.div_ceil(group) * self.images_per_group
    }

    /// Tiles of some images.
    pub(super) fn tiles_of(self, images: usize) -> usize {
        images * self.tiles[0] * self.tiles[1]
    }

    /// Floats of a position of a transformed group.
    fn position(self, pitch: usize) -> usize {
        self.tiles_of(self.images_per_group) * pitch + GAP
    }

    /// Floats of a transformed group.
    pub(super) fn group(self, pitch: usize) -> usize {
        POSITIONS * self.position(pitch)
    }

    /// The transformed groups of some images.
    pub(super) fn view(self, values: &[f32], images: usize, pitch: usize) -> Tiles<'_> {
        Tiles {
            values: &values[..images.div_ceil(self.images_per_group) * self.group(pitch)],
            group: self.group(pitch),
            position: self.position(pitch),
            pitch,
            per_group: self.tiles_of(self.images_per_group),
            count: self.tiles_of(images),
        }
    }
}

/// Floats of a position of products of some images.
pub(super) fn product_position(cut: Cut, images: usize, pitch: usize) -> usize {
    cut.tiles_of(images) * pitch + GAP
}

/// Floats of working memory for a map's rows and half-transformed lines.
pub(super) fn working(rows: &Rows) -> usize {
    rows.image() + (SIDE + 2) * rows.row()
}

/// The planes of a group of images to transformed tiles, by `L` down and across.
pub(super) struct Transform<'a, L, const N: usize> {
    pub(super) cut: Cut,
    pub(super) rows: &'a Rows,
    pub(super) pitch: usize,
    pub(super) planes: &'a [f32],
    /// [`working`] floats; those of the border are zero.
    pub(super) working: &'a mut [f32],
    pub(super) group: &'a mut [f32],
    pub(super) by: PhantomData<L>,
}

impl<L: Linear<N, SIDE>, const N: usize> WithSimd for Transform<'_, L, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            cut,
            rows: layout,
            pitch,
            planes,
            working,
            group,
            ..
        } = self;
        let [down, across] = cut.tiles;
        let (row, phase, run) = (layout.row(), layout.phase(), across * pitch);
        let position = cut.position(pitch);
        let (rows, half) = working.split_at_mut(layout.image());
        for (image, planes) in planes.chunks_exact(layout.planes()).enumerate() {
            layout.interleave(planes, rows);
            for y in 0..down {
                let from = &rows[y * OUTPUTS * row..];
                let from: [&[f32]; N] = std::array::from_fn(|n| &from[n * row..(n + 1) * row]);
                map_lines::<S, L, N, SIDE, 0>(simd, from, lines(half, row, 0, row));
                let tile = cut.tiles_of(image) + y * across;
                for (half, positions) in half
                    .chunks_exact(row)
                    .zip(group.chunks_mut(SIDE * position))
                    .take(SIDE)
                {
                    let from: [&[f32]; N] = std::array::from_fn(|n| {
                        &half[n % OUTPUTS * phase + n / OUTPUTS * pitch..][..run]
                    });
                    let to = lines(positions, position, tile * pitch, run);
                    map_lines::<S, L, N, SIDE, 0>(simd, from, to);
                }
            }
        }
    }
}

/// Products to the planes of a group of output images.
pub(super) struct ToOutput<'a> {
    pub(super) cut: Cut,
    pub(super) rows: &'a Rows,
    pub(super) products: Products<'a>,
    pub(super) planes: &'a mut [f32],
    /// [`working`] floats.
    pub(super) working: &'a mut [f32],
}

/// `[POSITIONS][tiles][pitch]`, from the first tile of a group on.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub(super) values: &'a [f32],
    pub(super) position: usize,
    pub(super) pitch: usize,
    /// The first tile of the group.
    pub(super) tile: usize,
}

impl<'a> Products<'a> {
    /// What a row of tiles has at each position of a row of positions.
    #[inline(always)]
    fn row(self, positions: usize, tile: usize, run: usize) -> [&'a [f32]; SIDE] {
        let first = (self.tile + tile) * self.pitch;
        std::array::from_fn(|n| {
            &self.values[(positions * SIDE + n) * self.position + first..][..run]
        })
    }
}

impl WithSimd for ToOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            cut,
            rows: layout,
            products,
            planes,
            working,
        } = self;
        let [down, across] = cut.tiles;
        let (row, phase, run) = (layout.row(), layout.phase(), across * products.pitch);
        let (rows, half) = working.split_at_mut(layout.image());
        for (image, planes) in planes.chunks_exact_mut(layout.planes()).enumerate() {
            for y in 0..down {
                let tile = cut.tiles_of(image) + y * across;
                for (n, half) in half.chunks_exact_mut(row).take(SIDE).enumerate() {
                    let from = products.row(n, tile, run);
                    map_lines::<S, Output, SIDE, OUTPUTS, 0>(
                        simd,
                        from,
                        lines(half, phase, 0, run),
                    );
                }
                let from: [&[f32]; SIDE] = std::array::from_fn(|n| &half[n * row..(n + 1) * row]);
                let to = lines(&mut rows[y * OUTPUTS * row..], row, 0, row);
                map_lines::<S, Output, SIDE, OUTPUTS, 0>(simd, from, to);
            }
            layout.separate(rows, planes);
        }
    }
}

/// Products to the planes of a group of input images; tiles overlap and are added up.
pub(super) struct ToInput<'a> {
    pub(super) cut: Cut,
    pub(super) rows: &'a Rows,
    pub(super) products: Products<'a>,
    pub(super) planes: &'a mut [f32],
    /// [`working`] floats.
    pub(super) working: &'a mut [f32],
}

impl WithSimd for ToInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            cut,
            rows: layout,
            products,
            planes,
            working,
        } = self;
        let [down, across] = cut.tiles;
        let pitch = products.pitch;
        let (row, phase, run) = (layout.row(), layout.phase(), across * pitch);
        let overlap = SIDE - OUTPUTS;
        let (rows, half) = working.split_at_mut(layout.image());
        let (half, next) = half.split_at_mut(SIDE * row);
        for (image, planes) in planes.chunks_exact_mut(layout.planes()).enumerate() {
            rows[..overlap * row].fill(0.0);
            for y in 0..down {
                let tile = cut.tiles_of(image) + y * across;
                for (n, half) in half.chunks_exact_mut(row).enumerate() {
                    let from = products.row(n, tile, run);
                    let [a, b, c, d] = lines(half, phase, 0, run);
                    let [e, f] = lines(next, row, 0, run);
                    let to = [a, b, c, d, e, f];
                    map_lines::<S, InputAdjoint, SIDE, SIDE, 0>(simd, from, to);
                    // The last columns of a tile are the first of the next.
                    for (half, next) in half
                        .chunks_exact_mut(phase)
                        .zip(next.chunks_exact(row))
                        .take(overlap)
                    {
                        half[run..].fill(0.0);
                        for (half, next) in half[pitch..].iter_mut().zip(&next[..run]) {
                            *half += next;
                        }
                    }
                }
                let from: [&[f32]; SIDE] = std::array::from_fn(|n| &half[n * row..(n + 1) * row]);
                let to = lines(&mut rows[y * OUTPUTS * row..], row, 0, row);
                map_lines::<S, InputAdjoint, SIDE, SIDE, 2>(simd, from, to);
            }
            layout.separate(rows, planes);
        }
    }
}

/// The first `M` lines of `length` floats, `stride` floats apart.
#[inline(always)]
fn lines<const M: usize>(
    buffer: &mut [f32],
    stride: usize,
    first: usize,
    length: usize,
) -> [&mut [f32]; M] {
    let mut lines = buffer.chunks_mut(stride);
    std::array::from_fn(|_| match lines.next() {
        Some(line) => &mut line[first..first + length],
        None => &mut [],
    })
}
