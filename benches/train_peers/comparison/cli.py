"""The command line. Standard library only: it is read before the scratch environment exists."""

import argparse
from pathlib import Path

from driver.cli import REPOSITORY, indices, positive, words

STEPS = {
    "resnet18": "ResNet-18, supervised",
    "mobilenetv2": "MobileNetV2, supervised",
    "ssql": "ResNet-18, SSQL-SimSiam",
    "us3l": "ResNet-18, US3L, widths 1, 0.5, 0.25",
}

EPILOG = """\
what it does
  1. makes a virtual environment with PyTorch (gigabytes and minutes, the first time) and builds
     Slimbit's side in release
  2. starts both sides of a step from the same parameters on the same images, and stops if their
     losses differ
  3. times one step each in turn: ours, theirs, ours, theirs, ...
  4. prints medians, spreads and ratios (below 1 Slimbit is faster)

Run it on an otherwise idle machine. Only ratios within one run mean anything: clocks drift.
"""


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        prog="benches/train_peers/run",
        description="Slimbit's training steps against PyTorch eager's on the CPU: the same networks, "
        "parameters and images, interleaved in one run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--smoke", action="store_true", help="8 images and 2 rounds: whether it runs at all")
    add("--only", type=words, default=list(STEPS), metavar="NAMES", help=", ".join(STEPS))
    add("--rounds", type=positive, metavar="N", help="rounds per step; default 15, with --smoke 2")
    add("--batch", type=positive, metavar="N", help="images; default 64, with --smoke 8")
    add("--threads", type=positive, default=2, metavar="N", help="default: 2")
    add("--cores", type=indices, metavar="I,I", help="cores to pin to")
    add(
        "--scratch",
        type=Path,
        default=REPOSITORY / "target" / "train_peers",
        metavar="DIR",
        help="environment, images and parameters; default: target/train_peers",
    )
    add("--server", type=Path, metavar="FILE", help="slimbit-training-server, instead of a build")
    add("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.smoke else 15)
    options.batch = options.batch or (8 if options.smoke else 64)
    options.scratch = options.scratch.resolve()
    if unknown := set(options.only) - set(STEPS):
        parser.error(f"--only: no step is called {', '.join(sorted(unknown))}")
    return options
