#!/usr/bin/env python3
"""Make this folder's four IDX files from the full Fashion-MNIST, byte for byte.

    apt-get install dataset-fashion-mnist        # or: apt-get download, dpkg-deb -x
    python3 make.py [/usr/share/datasets/fashion-mnist]

The subset is the first 1,000 training and the first 200 test images of each of the ten classes, in the order of the
original files. The gzip header carries no name and no time. Both the source files and the results are checked against
SHA-256 sums; `make.py --check` only checks the results.
"""

import gzip
import hashlib
import io
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PER_CLASS = {"train": 1000, "t10k": 200}
SOURCES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def read_source(folder, name):
    packed = (folder / name).read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != SOURCES[name]:
        sys.exit(f"{folder / name}: SHA-256 is {digest}, expected {SOURCES[name]}")
    return gzip.decompress(packed)


def write_gzip(path, payload):
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(payload)
    path.write_bytes(buffer.getvalue())


def make_split(folder, split, per_class):
    images = read_source(folder, f"{split}-images-idx3-ubyte.gz")
    labels = read_source(folder, f"{split}-labels-idx1-ubyte.gz")
    _, count, height, width = struct.unpack(">4I", images[:16])
    size = height * width

    taken = [0] * 10
    chosen = []
    for index in range(count):
        label = labels[8 + index]
        if taken[label] < per_class:
            taken[label] += 1
            chosen.append(index)
    if taken != [per_class] * 10:
        sys.exit(f"{split}: {taken} images per class, expected {per_class} of each")

    pixels = b"".join(images[16 + i * size : 16 + (i + 1) * size] for i in chosen)
    header = struct.pack(">4I", 0x0803, len(chosen), height, width)
    write_gzip(HERE / f"{split}-images-idx3-ubyte.gz", header + pixels)
    header = struct.pack(">2I", 0x0801, len(chosen))
    write_gzip(HERE / f"{split}-labels-idx1-ubyte.gz", header + bytes(labels[8 + i] for i in chosen))


def check():
    for line in (HERE / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        found = hashlib.sha256((HERE / name).read_bytes()).hexdigest()
        if found != digest:
            sys.exit(f"{name}: SHA-256 is {found}, expected {digest} (made with zlib 1.2.13; zlib-ng packs differently)")
        print(f"{name}: ok")


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        source = Path(sys.argv[1] if sys.argv[1:] else "/usr/share/datasets/fashion-mnist")
        for split, per_class in PER_CLASS.items():
            make_split(source, split, per_class)
    check()
