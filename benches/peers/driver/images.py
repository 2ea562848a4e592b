"""Images: the user's, or random ones that resemble photos in what matters to calibration."""

import numpy as np
from PIL import Image

from .toolchain import Stop

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


def smooth(rng, size):
    """A random image of `size`²: energy falls with frequency, colours go together, shapes have
    edges. White noise would calibrate ranges that no photo reaches."""
    image = np.zeros((size, size, 3))
    cells = 2
    while cells <= size // 2:
        grey = rng.standard_normal((cells, cells, 1))
        tint = rng.standard_normal((cells, cells, 3))
        image += enlarge(0.8 * grey + 0.5 * tint, size) / cells**0.7
        cells *= 2
    rows, columns = np.mgrid[0:size, 0:size] / size
    for _ in range(rng.integers(2, 6)):
        (y, x), (height, width) = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.35, 2)
        inside = ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
        image[inside] = 0.5 * image[inside] + rng.standard_normal(3) * 0.7
    image = (image - image.mean()) / image.std()
    return np.clip(115 + rng.uniform(40, 70) * image, 0, 255).astype(np.uint8)


def enlarge(grid, size):
    at = np.linspace(0, len(grid) - 1, size)
    low = np.minimum(at.astype(int), len(grid) - 2)
    part = (at - low)[:, None, None]
    tall = grid[low] * (1 - part) + grid[low + 1] * part
    part = part.reshape(1, -1, 1)
    return tall[:, low] * (1 - part) + tall[:, low + 1] * part


def write_folder(folder, count, size, seed):
    """A folder of random images for calibration."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, size, 1])
    for index in range(count):
        Image.fromarray(smooth(rng, size)).save(folder / f"{index:04}.png")


def inputs(folder, count, size, seed):
    """`count` images, HWC bytes, to check outputs on; random ones differ from calibration's."""
    if folder is None:
        rng = np.random.default_rng([seed, size, 2])
        return np.stack([smooth(rng, size) for _ in range(count)])
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise Stop(f"--images: {folder} has no images")
    return np.stack([crop(paths[i % len(paths)], size) for i in range(count)])


def crop(path, size):
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    left, top = ((side - short) // 2 for side in image.size)
    image = image.crop((left, top, left + short, top + short))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def normalised(pixels, mean, std):
    """What the peers are given: NCHW floats."""
    values = (pixels.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)
