"""The networks: our file, and the float and QDQ ONNX files of the same point of the same file."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import images
from .toolchain import Stop, command, say

IMAGES = 8  # Of the check of outputs; a multiple of every batch.


@dataclass(frozen=True)
class Network:
    """A network that is compared."""

    name: str
    size: int
    batches: tuple
    classes: int = 1000
    # In the mean that the project is judged by.
    counts: bool = False


ALL = [
    Network("resnet18", 224, (1, 8), counts=True),
    Network("resnet50", 224, (1, 8), counts=True),
    Network("mobilenetv2", 224, (1, 8), counts=True),
    Network("resnet20", 32, (1,), classes=10),
    Network("resnet56", 32, (1,), classes=10),
]

POINT = "1x W8A8"
WIDTHS, BITS = "1,0.5", "W8A8,W4A8"
HEADROOM = 1.4


def chosen(names):
    known = {network.name: network for network in ALL}
    for name in names or known:
        if name not in known:
            raise Stop(f"--only: no network {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names or known]


@dataclass
class Files:
    """Where the files of a network are."""

    folder: Path
    recipe: dict

    @property
    def slim(self):
        return self.folder / "model.slim"

    def onnx(self, kind, batch):
        """`kind` is float or qdq."""
        first = self.folder / f"{kind}.onnx"
        path = self.folder / f"{kind}.batch{batch}.onnx"
        if not path.exists():
            set_batch(first, path, batch)
        return path


def make(network, slimbit, options):
    """Makes the files, unless the cache has them by the same recipe."""
    weights = checkpoint(network.name, options.weights)
    recipe = {
        "network": network.name,
        "weights": str(weights) if weights else f"random, seed {options.seed}",
        "images": str(options.images.resolve())
        if options.images
        else f"random, seed {options.seed}",
        "calibration": options.calibration,
        "points": f"{WIDTHS} of {BITS}, grid minmax, headroom {HEADROOM}",
    }
    folder = options.scratch / "networks" / network.name
    files, stamp = Files(folder, recipe), folder / "recipe.json"
    if stamp.exists() and json.loads(stamp.read_text()) == recipe and not options.fresh:
        return files
    say(f"making {network.name}: weights {recipe['weights']}, images {recipe['images']}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    photos = options.images
    if photos is None:
        photos = options.scratch / "images" / f"{network.size}-{options.seed}-{options.calibration}"
        if not photos.exists():
            images.write_folder(photos, options.calibration, network.size, options.seed)
    net = folder / "net.safetensors"
    source = [weights] if weights else ["--random", options.seed, "--classes", network.classes]

    def run(*words):
        command([slimbit, *words], f"{network.name} cannot be made")

    run("import", *source, "--arch", network.name, "-o", net)
    # Reconstruction takes minutes and decides between neighbouring codes, which no engine's speed
    # depends on. Headroom is what a user on a CPU without an 8-bit dot product would choose; every
    # peer gets the same codes.
    run(
        "quantize",
        net,
        "--images",
        photos,
        "--calibration-images",
        options.calibration,
        "--widths",
        WIDTHS,
        "--bits",
        BITS,
        "--grid",
        "minmax",
        "--reconstruct",
        0,
        "--headroom",
        HEADROOM,
        "-o",
        files.slim,
    )
    run("export", net, "--onnx", folder / "float.onnx")
    run("export", files.slim, "--onnx", folder / "qdq.onnx", "--point", POINT)
    stamp.write_text(json.dumps(recipe, indent=2))
    return files


def checkpoint(name, folder):
    """The checkpoint that is named after the network, as torchvision and others name them."""
    if folder is None:
        return None
    spellings = {name, name.replace("netv2", "net_v2")}
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in {".pth", ".pt", ".th", ".safetensors", ".bin"}
        and any(part.split(".")[0] in spellings for part in path.name.lower().split("-"))
    )
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise Stop(f"--weights: more than one checkpoint for {name}: {names}")
    return found[0] if found else None


def set_batch(source, target, batch):
    """Writes the network with a fixed batch, so that every peer may plan for it, and with the
    logits as its one output."""
    import onnx

    model = onnx.load(source)
    logits = [output for output in model.graph.output if output.name == "logits"]
    if logits:
        del model.graph.output[:]
        model.graph.output.extend(logits)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    onnx.save(model, target)
