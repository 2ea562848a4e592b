"""Tests of the driver: `target/peers/venv/bin/python -m unittest discover benches/peers`."""

import os
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

import numpy as np

from driver import images, measure, report
from driver.comparison import inexact
from driver.engines import Engine, EngineFailed, Spec
from driver.machine import usable
from driver.networks import checkpoint
from driver.toolchain import Stop

# An engine that answers what its WHICH says, in turn, then breaks.
FAKE = """\
import json, sys
print("a library's greeting")
print(json.dumps({"ready": {"load_ns": 1, "first_ns": 2}, "facts": {}}), flush=True)
for answer, line in zip(sys.argv[5].split(","), sys.stdin):
    print(json.dumps({"ns": int(answer)} if answer.isdigit() else {"error": answer}), flush=True)
sys.exit("out of answers")
"""


class Clock:
    """Stands for an engine: so many nanoseconds a turn, and an error after the last."""

    def __init__(self, log, name, times):
        self.log, self.name, self.times = log, name, list(times)

    def time(self):
        self.log.append(self.name)
        if not self.times:
            raise EngineFailed("broken")
        return self.times.pop(0)


class Interleaving(unittest.TestCase):
    def test_ours_runs_before_every_peer(self):
        log = []
        clock = {name: Clock(log, name, [10] * 99) for name in "oab"}
        peers = {name: clock[name] for name in "ab"}
        samples, failed = measure.interleave(clock["o"], peers, 3, 9)
        self.assertEqual("".join(log), "ab" + "oaob" + "oboa" + "oaob")
        self.assertEqual(failed, {})
        self.assertEqual(len(samples["a"].ours), 3)

    def test_slow_peers_have_few_turns(self):
        ours, fast, slow = (Clock([], "", [ns] * 99) for ns in (10, 10, 1000))
        samples, _ = measure.interleave(ours, {"fast": fast, "slow": slow}, 10, 9)
        self.assertEqual([len(samples[name].theirs) for name in ("fast", "slow")], [10, 2])

    def test_a_peer_that_breaks_is_reported_and_the_others_go_on(self):
        ours, good, bad = (Clock([], "", [10] * n) for n in (99, 99, 2))
        samples, failed = measure.interleave(ours, {"good": good, "bad": bad}, 5, 9)
        self.assertEqual(failed, {"bad": "broken"})
        self.assertEqual(list(samples), ["good"])
        self.assertEqual(len(samples["good"].theirs), 5)


class Figures(unittest.TestCase):
    def test_the_ratio_is_the_median_of_pairs(self):
        ratio = measure.ratio([1, 2, 30], [2, 4, 10])
        self.assertEqual(ratio["median"], 0.5)
        self.assertTrue(ratio["low"] <= 0.5 <= ratio["high"])

    def test_agreement_is_that_of_the_worst_image(self):
        ours = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
        theirs = np.array([[2.0, 0.0], [1.0, 0.0]], np.float32)
        alike = measure.agreement(ours, theirs)
        self.assertEqual(alike, {"cosine": 0.0, "top1": 1, "images": 2})
        self.assertIn("error", measure.agreement(ours, theirs[:1]))
        self.assertIn("error", measure.agreement(ours, theirs * np.nan))

    def test_an_int8_peer_must_be_nearer_than_the_float_network(self):
        cosines = {"a int8": 0.998, "b int8": 0.9999, "b float": 0.999}
        agreement = {name: {"cosine": cosine} for name, cosine in cosines.items()}
        self.assertEqual(inexact(agreement | {"c int8": {"error": "shape"}}), ["a int8", "c int8"])

    def test_the_mean_needs_every_network_that_counts(self):
        row = {"batch": 1, "threads": 1}
        rows = [row | {"network": "a", "ratio": 0.5}, row | {"network": "b", "ratio": 2.0}]
        rows.append(row | {"network": "a", "batch": 8, "ratio": 9.0})
        self.assertAlmostEqual(report.means(rows, ["a", "b"], 1), 1.0)
        self.assertIsNone(report.means(rows, ["a", "b"], 2))
        self.assertIsNone(report.means(rows, ["a", "c"], 1))


class Processes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.script = Path(folder.name) / "fake.py"
        self.script.write_text(textwrap.dedent(FAKE))

    def engine(self, answers):
        command, path = [sys.executable, self.script], Path(os.devnull)
        return Engine(Spec("fake", command, path, path, (1, 3, 2, 2), answers, usable()[:1]))

    def test_answers_errors_and_deaths_are_told_apart(self):
        with self.engine("7,no such operator") as engine:
            self.assertEqual(engine.time(), 7)
            with self.assertRaisesRegex(EngineFailed, "no such operator"):
                engine.time()
            with self.assertRaisesRegex(EngineFailed, "ended with 1: out of answers"):
                engine.time()

    def test_an_engine_sleeps_between_questions(self):
        with self.engine("1") as engine:
            os.waitpid(engine.process.pid, os.WUNTRACED)
            state = Path(f"/proc/{engine.process.pid}/stat").read_text().rsplit(")", 1)[1]
            self.assertEqual(state.split()[0], "T")


class Inputs(unittest.TestCase):
    def test_checkpoints_are_found_by_the_networks_name(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in (
                "resnet18-f37072fd.pth",
                "mobilenet_v2-b0353104.pth",
                "notes-resnet50.txt",
            ):
                (folder / file).touch()
            self.assertEqual(checkpoint("resnet18", folder).name, "resnet18-f37072fd.pth")
            self.assertEqual(checkpoint("mobilenetv2", folder).name, "mobilenet_v2-b0353104.pth")
            self.assertIsNone(checkpoint("resnet50", folder))
            (folder / "resnet18.safetensors").touch()
            with self.assertRaisesRegex(Stop, "more than one checkpoint for resnet18"):
                checkpoint("resnet18", folder)

    def test_random_images_are_smooth_and_repeatable(self):
        first, again = (images.inputs(None, 2, 32, seed=3) for _ in range(2))
        self.assertTrue((first == again).all())
        steps = np.abs(np.diff(first.astype(int), axis=1)).mean()
        self.assertLess(steps, 0.5 * first.std())
        self.assertGreater(first.std(), 20)

    def test_peers_get_planes_of_normalised_floats(self):
        pixels = np.zeros((1, 2, 2, 3), np.uint8)
        pixels[0, 1, 0, 2] = 255
        floats = images.normalised(pixels, [0.0, 0.0, 0.5], [1.0, 1.0, 0.25])
        self.assertEqual(floats.shape, (1, 3, 2, 2))
        self.assertEqual(floats[0, 2].tolist(), [[-2.0, -2.0], [2.0, -2.0]])


if __name__ == "__main__":
    unittest.main()
