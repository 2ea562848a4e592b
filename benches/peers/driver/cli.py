"""The command line. Standard library only: it is read before the scratch environment exists."""

import argparse
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

EPILOG = """\
what it does
  1. makes a virtual environment with the pinned peers (benches/peers/requirements.txt), builds
     Slimbit and the Rust peers in release: minutes the first time, seconds later
  2. makes the networks once: import, quantise, export of the same point of the same file to ONNX
  3. starts one process per engine on the same cores, checks that their outputs agree, and times
     them in turn: ours, peer, ours, peer, ...
  4. prints medians, spreads and ratios (below 1 Slimbit is faster)

examples
  benches/peers/run --quick                           batch 1 only, few rounds
  benches/peers/run --only resnet18 --threads 1       one network, one thread
  benches/peers/run --weights checkpoints/ --images photos/ --json > result.txt

Run it on an otherwise idle machine. Only ratios within one run mean anything: clocks drift.
"""


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def numbers(text):
    return sorted({positive(part) for part in text.split(",")})


def indices(text):
    return [int(part) for part in text.split(",")]


def words(text):
    return [part for part in text.split(",") if part]


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        prog="benches/peers/run",
        description="Slimbit's engine against ONNX Runtime, OpenVINO, rten and tract: "
        "the same networks with the same weights, interleaved in one run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="batch 1 only and at most 9 rounds")
    add("--only", type=words, metavar="NAMES", help="networks, by name, separated by commas")
    add("--peers", type=words, metavar="NAMES", help="peers whose name contains one of these words")
    add("--threads", type=numbers, default=[1, 2], metavar="N,N", help="default: 1,2")
    add("--batches", type=numbers, metavar="N,N", help="default: 1,8; with --quick 1")
    add("--rounds", type=positive, metavar="N", help="rounds per table; default 40, with --quick 9")
    add(
        "--seconds",
        type=positive,
        metavar="S",
        help="stop a table after this time, once it has 7 rounds; default 90, with --quick 20",
    )
    add(
        "--cores", type=indices, metavar="I,I", help="cores to pin to; default: one per physical core"
    )
    add(
        "--weights",
        type=Path,
        metavar="DIR",
        help="checkpoints, named after the network as in "
        "resnet50-0676ba61.pth; networks without one get random weights",
    )
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="photos for calibration and for the check of outputs; by default smooth random images",
    )
    add(
        "--calibration",
        type=positive,
        default=16,
        metavar="N",
        help="images that calibrate; default: 16",
    )
    add("--seed", type=int, default=1, help="of random weights and images; default: 1")
    add("--no-own", action="store_true", help="skip the comparisons of Slimbit with itself")
    add(
        "--scratch",
        type=Path,
        default=REPOSITORY / "target" / "peers",
        metavar="DIR",
        help="environment, builds and networks; default: target/peers",
    )
    add(
        "--fresh",
        action="store_true",
        help="make the networks again, as after a change of the file format",
    )
    add("--slimbit", type=Path, metavar="FILE", help="a slimbit binary, instead of building one")
    add("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (9 if options.quick else 40)
    options.seconds = options.seconds or (20 if options.quick else 90)
    options.batches = options.batches or ([1] if options.quick else [1, 8])
    options.scratch = options.scratch.resolve()
    if not set(options.batches) <= {1, 8}:
        parser.error("--batches: 1, 8 or both")
    for name in ("weights", "images", "slimbit"):
        path = getattr(options, name)
        if path and not path.exists():
            parser.error(f"--{name}: {path} does not exist")
    return options
