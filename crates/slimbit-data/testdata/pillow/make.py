#!/usr/bin/env python3
"""Make the images that resizing and colour operations are compared with, by Pillow (`pip install pillow`)."""

from pathlib import Path

from PIL import Image, ImageEnhance

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 45, 37


def noise_and_ramps():
    state, values = 1, bytearray()
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for ramp in (x * 5, y * 6, (x + y) * 3):
                state = (state * 1103515245 + 12345) & 0x7FFFFFFF
                values.append((ramp + (state >> 16) % 90) % 256)
    return Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(values))


def shift_hue(image, steps):
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point(lambda h: (h + steps) % 256)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def save(image, name):
    image.save(HERE / f"{name}.png", optimize=True)


image = noise_and_ramps()
save(image, "input")
for filter_name, kernel in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
    for width, height in ((32, 32), (7, 5), (60, 80), (45, 11)):
        save(image.resize((width, height), kernel), f"{filter_name}-{width}x{height}")
        save(image.convert("L").resize((width, height), kernel), f"grey-{filter_name}-{width}x{height}")
save(image.convert("L"), "grey")
for factor in (0.0, 0.63, 1.4):
    save(ImageEnhance.Brightness(image).enhance(factor), f"brightness-{factor}")
    save(ImageEnhance.Contrast(image).enhance(factor), f"contrast-{factor}")
    save(ImageEnhance.Color(image).enhance(factor), f"saturation-{factor}")
for turns in (-0.5, -0.07, 0.0, 0.1):
    # torchvision casts the shift to a byte: towards zero, then modulo 256.
    save(shift_hue(image, int(turns * 255) % 256), f"hue-{turns}")
