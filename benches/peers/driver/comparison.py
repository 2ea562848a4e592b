"""What is compared: our engine with every peer, and with itself."""

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from . import images, machine, measure
from .engines import Engine, EngineFailed, Spec
from .networks import IMAGES, POINT
from .toolchain import Stop, say

SERVER = Path(__file__).with_name("onnx_server.py")


class Comparison:
    """Everything that the tables have in common."""

    def __init__(self, options, facts):
        self.options, self.machine = options, facts
        self.binaries = {}
        self.cores = options.cores or machine.physical_cores()
        if not set(self.cores) <= set(machine.usable()):
            raise Stop(f"--cores: this process may use {machine.usable()}, not {self.cores}")
        self.versions = {}

    def ours(self, network, files, batch, threads, point=POINT, **environment):
        """Our engine's specification, its input beside the network's files."""
        pixels = files.folder / "inputs.u8"
        if not pixels.exists():
            images.inputs(self.options.images, IMAGES, network.size, self.options.seed).tofile(
                pixels
            )
        shape = (batch, 3, network.size, network.size)
        command = [self.binaries["slimbit-timing-server"]]
        cores = self.cores[:threads]
        return Spec("slimbit", command, files.slim, pixels, shape, point, cores, environment)

    def peers(self, network, files, batch, threads, ours):
        """The peers' specifications, by name. `ours` is running: it knows the normalisation."""
        floats = files.folder / "inputs.f32"
        shape = (batch, 3, network.size, network.size)
        if not floats.exists():
            pixels = np.fromfile(files.folder / "inputs.u8", np.uint8)
            pixels = pixels.reshape(-1, network.size, network.size, 3)
            images.normalised(pixels, ours.facts["mean"], ours.facts["std"]).tofile(floats)
        python, rust = [sys.executable, SERVER], [self.binaries["rust-peers"]]
        known = [
            ("onnxruntime int8", python, "qdq", "onnxruntime"),
            ("openvino int8", python, "qdq", "openvino"),
            ("onnxruntime float", python, "float", "onnxruntime"),
            ("openvino float", python, "float", "openvino"),
            ("rten int8", rust, "qdq", "rten"),
            ("rten float", rust, "float", "rten"),
            ("tract int8", rust, "qdq", "tract"),
            ("tract float", rust, "float", "tract"),
        ]
        if machine.saturates(self.machine):
            known.insert(1, ("onnxruntime int8 exact", python, "qdq", "onnxruntime-exact"))
        wanted = self.options.peers
        return {
            name: Spec(
                name, command, files.onnx(kind, batch), floats, shape, which, self.cores[:threads]
            )
            for name, command, kind, which in known
            if not wanted or any(word in name for word in wanted)
        }

    def row(self, network, files, batch, threads):
        """One table: a network, a batch and a number of threads."""
        say(f"{network.name}, batch {batch}, {threads} threads")
        with ExitStack() as stack:
            ours = stack.enter_context(Engine(self.ours(network, files, batch, threads)))
            specs = self.peers(network, files, batch, threads, ours)
            engines, failed = {}, {}
            for name, spec in specs.items():
                try:
                    engines[name] = stack.enter_context(Engine(spec))
                    self.versions[spec.which.split("-")[0]] = engines[name].facts["version"]
                except EngineFailed as error:
                    failed[name] = str(error)
            batches = IMAGES // batch
            reference = ours.outputs(batches)
            agreement = {}
            for name, engine in list(engines.items()):
                try:
                    agreement[name] = measure.agreement(reference, engine.outputs(batches))
                except EngineFailed as error:
                    failed[name] = str(error)
                    engines.pop(name)
            peaks = []
            samples, stopped = measure.interleave(
                ours,
                engines,
                self.options.rounds,
                self.options.seconds,
                between=lambda: peaks.append(ours.ask("peak")["macs_per_second"]),
            )
            return self.summary(
                network, batch, threads, ours, engines, samples, failed | stopped, agreement, peaks
            )

    def summary(self, network, batch, threads, ours, engines, samples, failed, agreement, peaks):
        times = [ns for peer in samples.values() for ns in peer.ours] or [ours.time()]
        ours_ms = measure.milliseconds(times)
        peers = {name: measure.milliseconds(peer.theirs) for name, peer in samples.items()}
        ratios = {name: measure.ratio(peer.ours, peer.theirs) for name, peer in samples.items()}
        best = min(peers, key=lambda name: peers[name]["median"], default=None)
        peak = float(np.median(peaks)) if peaks else ours.ask("peak")["macs_per_second"]
        rate = ours.facts["macs"] / (ours_ms["median"] * 1e-3)
        return {
            "network": network.name,
            "batch": batch,
            "threads": threads,
            "point": POINT,
            "rounds": max((len(peer.ours) for peer in samples.values()), default=0),
            "isa": ours.facts["isa"],
            "macs": ours.facts["macs"],
            "ours_ms": ours_ms["median"],
            "ours_spread_ms": [ours_ms["p10"], ours_ms["p90"]],
            "peers": {name: peer["median"] for name, peer in peers.items()},
            "peers_spread_ms": {name: [peer["p10"], peer["p90"]] for name, peer in peers.items()},
            "ratios": ratios,
            "best_peer": best,
            "ratio": ratios[best]["median"] if best else None,
            "ratio_interval": [ratios[best]["low"], ratios[best]["high"]] if best else None,
            "peak_macs_per_second_and_core": peak,
            "fraction_of_peak": rate / (peak * threads),
            "arena_bytes": ours.facts["arena_bytes"],
            "agreement": agreement,
            "inexact": inexact(agreement),
            "failed": failed,
            "details": {
                name: {key: value for key, value in engine.facts.items() if key != "version"}
                for name, engine in engines.items()
            },
        }

    def own(self, network, files):
        """Our engine against itself, and at the AVX2 level against float."""
        rows = []

        def compare(what, a, b):
            try:
                with Engine(a) as left, Engine(b) as right:
                    samples, failed = measure.interleave(
                        left, {"b": right}, self.options.rounds, self.options.seconds
                    )
            except EngineFailed as error:
                failed, samples = {"b": str(error)}, {}
            row = {"what": what, "network": network.name}
            if samples:
                pair = samples["b"]
                row["a_ms"] = measure.milliseconds(pair.ours)["median"]
                row["b_ms"] = measure.milliseconds(pair.theirs)["median"]
                row["ratio"] = measure.ratio(pair.ours, pair.theirs)
            else:
                row["failed"] = failed["b"]
            rows.append(row)

        say(f"{network.name} against itself")

        def ours(threads=1, **options):
            return self.ours(network, files, 1, threads, **options)

        if len(self.cores) > 1:
            compare("1 thread / 2 threads", ours(), ours(threads=2))
        compare("1x / 0.5x width, W8A8", ours(), ours(point="0.5x W8A8"))
        compare("W4A8 / W8A8, 1x", ours(point="1x W4A8"), ours())
        avx2 = ours(SLIMBIT_ISA="avx2")
        for name, floats in self.restricted(network, files, ours()):
            compare(f"avx2 int8 / {name}", avx2, floats)
        return {"network": network.name, "ratios": rows, **self.starts(network, files, ours())}

    def restricted(self, network, files, spec):
        """The float peers at AVX2, as far as they can be held to it."""
        if "AVX2" not in self.machine["instruction_sets"]:
            return []
        with Engine(spec) as ours:
            peers = self.peers(network, files, 1, 1, ours)
        only = "AVX-512F" not in self.machine["instruction_sets"]
        floats = []
        if spec := peers.get("onnxruntime float"):
            # It asks the CPU itself and has no switch.
            floats.append((spec.name if only else f"{spec.name} with AVX-512", spec))
        if spec := peers.get("openvino float"):
            spec.environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
            floats.append((spec.name, spec))
        return floats

    def starts(self, network, files, spec):
        """From a file in the page cache to the first result, and moves between points."""
        first = []
        for _ in range(5 if self.options.quick else 11):
            with Engine(spec) as ours:
                first.append(ours.ready["first_ns"])
        points = ["0.5x W8A8", "1x W4A8", POINT]
        with Engine(spec) as ours:
            moves = [ours.ask(f"point {points[i % 3]}")["ns"] for i in range(32)]
        return {
            "load_to_first_result_ms": measure.milliseconds(first),
            "first_set_point_ms": {points[i]: moves[i] / 1e6 for i in range(2)},
            "set_point_ms": measure.milliseconds(moves[2:]),
        }


def inexact(agreement):
    """The int8 peers that are farther from us, who compute what the file says, than the network
    before it was quantised."""
    cosines = {name: alike.get("cosine", -1.0) for name, alike in agreement.items()}
    floats = [cosine for name, cosine in cosines.items() if "float" in name]
    limit = max(floats, default=0.99)
    return [name for name, cosine in cosines.items() if "int8" in name and cosine < limit]
