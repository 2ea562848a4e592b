"""From the prepared environment to the report."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from driver import machine, measure, report
from driver.engines import Engine, EngineFailed, Spec
from driver.toolchain import Stop, cargo, say

from .cli import REPOSITORY, STEPS

SERVER = REPOSITORY / "benches" / "train_peers" / "torch_side" / "server.py"
LAYOUTS = {"pytorch": "", "pytorch channels-last": ":channels-last"}
# Steps whose losses are compared. The later ones hold only if gradients agree, but they magnify
# what rounding does; quantised losses differ at once where a weight on a tie rounds either way.
COMPARED = 3
FIRST, FIRST_QUANTISED, LATER = 1e-4, 1e-2, 3e-2


def run(options):
    facts = machine.describe()
    cores = options.cores or machine.physical_cores()[: options.threads]
    if len(cores) != options.threads:
        raise Stop(f"--threads: this machine has {len(cores)} free cores")
    server = options.server
    if not server:
        say("building Slimbit (minutes, the first time)")
        server = cargo(["--package", "slimbit-training-server"])["slimbit-training-server"]
    shape = (options.batch, 3, 32, 32)
    images = options.scratch / f"images-{options.batch}.f32"
    noise = np.random.default_rng(1).standard_normal((2, *shape), np.float32)
    noise.tofile(images)
    print(f"{facts['cpu']}; {options.threads} threads, batch {options.batch}, {options.rounds} rounds")
    print("one step each in turn; ratio = ours / theirs, [95 % interval]\n")
    rows = []
    for step in options.only:
        folder = options.scratch / step
        folder.mkdir(exist_ok=True)

        def spec(name, command, which):
            return Spec(name, command, folder, images, shape, which, cores)

        ours = spec("slimbit", [server], step)
        peers = {
            name: spec(name, [sys.executable, SERVER], step + layout)
            for name, layout in LAYOUTS.items()
        }
        try:
            rows.append(compare(step, ours, peers, options.rounds))
        except EngineFailed as error:
            raise Stop(f"{step}: {error}") from error
        show(rows[-1])
    if options.json:
        document = {"machine": facts, "slimbit": revision(), "rows": rows}
        print(json.dumps(document | {"batch": options.batch, "threads": options.threads}))


def revision():
    """The commit that was built, with a mark if the tree differs from it."""
    line = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def compare(step, ours, peers, rounds):
    """One table: a step on both sides. Ours begins, because it writes the parameters."""
    say(STEPS[step])
    with ExitStack() as stack:
        ours = stack.enter_context(Engine(ours))
        engines = {name: stack.enter_context(Engine(spec)) for name, spec in peers.items()}
        everyone = {"slimbit": ours, **engines}
        losses = {name: first_losses(engine) for name, engine in everyone.items()}
        first, later = (
            max(largest_difference(losses["slimbit"][part], losses[name][part]) for name in engines)
            for part in (slice(1), slice(1, None))
        )
        if first > (FIRST_QUANTISED if step == "ssql" else FIRST) or later > LATER:
            raise Stop(f"{step}: losses differ by {first:.2g}, then {later:.2g}: {losses}")
        samples = {name: measure.Samples() for name in engines}
        work = {name: [] for name in everyone}

        def timed(name, engine):
            before = cpu_seconds(engine)
            ns = engine.time(warm_up=0)
            work[name].append(1000 * (cpu_seconds(engine) - before))
            return ns

        for turn in range(rounds):
            # Another peer begins each round, so that none always follows the same neighbour.
            for name in list(engines)[:: 1 if turn % 2 else -1]:
                samples[name].ours.append(timed("slimbit", ours))
                samples[name].theirs.append(timed(name, engines[name]))
        memory = {}
        for name, engine in everyone.items():
            peak, settled = engine.ask("memory")["peak_bytes"], engine.facts["settled_bytes"]
            memory[name] = {"peak": peak, "step": peak - settled}
        version = engines["pytorch"].facts["version"]
    times = {name: measure.milliseconds(sample.theirs) for name, sample in samples.items()}
    times["slimbit"] = measure.milliseconds([ns for s in samples.values() for ns in s.ours])
    best = min(engines, key=lambda name: times[name]["median"])
    return {
        "step": step,
        "pytorch_version": version,
        "ms": times,
        "cpu_ms": {name: float(np.median(ms)) for name, ms in work.items()},
        "best_peer": best,
        "ratios": {name: measure.ratio(s.ours, s.theirs) for name, s in samples.items()},
        "memory_bytes": memory,
        "memory_ratio": memory["slimbit"]["step"] / memory[best]["step"],
        "losses": losses,
        "loss_difference": first,
        "later_loss_difference": later,
    }


def cpu_seconds(engine):
    """Processor time of all its threads: what a busy machine changes least."""
    stat = Path(f"/proc/{engine.process.pid}/stat").read_text()
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def first_losses(engine):
    while len(losses := engine.ask("losses")["losses"]) < COMPARED:
        engine.time(warm_up=0)
    return losses


def largest_difference(ours, theirs):
    """Of the losses of some steps, relative where they are large."""
    pairs = ((a, b) for steps in zip(ours, theirs) for a, b in zip(*steps))
    return max(abs(a - b) / max(abs(b), 1.0) for a, b in pairs)


def show(row):
    print(
        f"{STEPS[row['step']]}; losses differ by {row['loss_difference']:.0e}, after two steps "
        f"by {row['later_loss_difference']:.0e}"
    )
    lines = []
    for name in sorted(row["ms"], key=lambda name: row["ms"][name]["median"]):
        ms, memory = row["ms"][name], row["memory_bytes"][name]
        ratio = row["ratios"].get(name)
        lines.append(
            [
                name,
                f"{ms['median']:.0f}",
                f"{ms['p10']:.0f} to {ms['p90']:.0f}",
                report.interval(ratio) if ratio else "",
                f"{row['cpu_ms'][name]:.0f}",
                f"{memory['step'] / 2**20:.0f}",
                f"{memory['peak'] / 2**20:.0f}",
            ]
        )
    head = ["", "median ms", "p10 to p90", "ratio", "CPU ms", "step MiB", "peak MiB"]
    report.table(head, lines)
    print(
        f"  ratio to the faster, {row['best_peer']}: "
        f"{row['ratios'][row['best_peer']]['median']:.3f}; memory {row['memory_ratio']:.2f}\n"
    )
