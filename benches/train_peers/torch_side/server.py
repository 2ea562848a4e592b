"""PyTorch behind the pipe of `benches/peers/protocol.rs`:
`server.py FOLDER IMAGES SHAPE THREADS STEP[:channels-last]`, from the parameters in FOLDER."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from torch_side.steps import learner


def load(folder, images, shape, step):
    name, _, layout = step.partition(":")
    layout = torch.channels_last if layout else torch.contiguous_format
    values, at, parameters = np.fromfile(folder / "parameters.f32", np.float32), 0, {}
    for entry in json.loads((folder / "parameters.json").read_text()):
        size = int(np.prod(entry["shape"]))
        value = torch.from_numpy(values[at : at + size].reshape(entry["shape"]).copy())
        if value.dim() == 4:
            value = value.contiguous(memory_format=layout)
        parameters[entry["name"]] = value.requires_grad_()
        at += size
    views = torch.from_numpy(np.fromfile(images, np.float32)).reshape(2, *shape)
    views = [view.contiguous(memory_format=layout) for view in views]
    return learner(name, parameters, views)


def settle():
    """Bytes resident now; from here on the peak counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS:")


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def say(**answer):
    print(json.dumps(answer), flush=True)


def main(folder, images, shape, threads, step):
    torch.set_num_threads(int(threads))
    start = time.perf_counter_ns()
    steps = load(Path(folder), images, [int(n) for n in shape.split("x")], step)
    settled, losses = settle(), []
    load_ns = time.perf_counter_ns() - start
    losses.append(steps.step())
    first_ns = time.perf_counter_ns() - start
    facts = {"version": torch.__version__, "settled_bytes": settled}
    say(ready={"load_ns": load_ns, "first_ns": first_ns}, facts=facts)
    for line in sys.stdin:
        match line.split():
            case ["time", warm_up]:
                for _ in range(int(warm_up)):
                    losses.append(steps.step())
                start = time.perf_counter_ns()
                losses.append(steps.step())
                say(ns=time.perf_counter_ns() - start)
            case ["losses"]:
                say(losses=losses)
            case ["memory"]:
                say(peak_bytes=resident("VmHWM:"))
            case _:
                say(error=f"unknown command {line.strip()}")


try:
    main(*sys.argv[1:])
except Exception as problem:
    say(error=f"{type(problem).__name__}: {problem}")
