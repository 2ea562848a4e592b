"""One long-lived process per engine, stopped whenever it is not asked anything."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PATIENCE = 300  # Seconds without an answer after which an engine is given up.
PR_SET_PDEATHSIG = 1


class EngineFailed(Exception):
    """The engine's own words."""


@dataclass
class Spec:
    """What to start."""

    name: str
    command: list
    model: Path
    inputs: Path
    shape: tuple
    which: str
    cores: list
    environment: dict = field(default_factory=dict)


class Engine:
    """A running engine. Use as a context manager: processes end with the block."""

    def __init__(self, spec):
        self.spec = spec
        shape = "x".join(map(str, spec.shape))
        line = [*spec.command, spec.model, spec.inputs, shape, len(spec.cores), spec.which]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [str(word) for word in line],
            bufsize=0,  # A line in a buffer would be invisible to `select`.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=os.environ | {"OMP_NUM_THREADS": str(len(spec.cores))} | spec.environment,
            preexec_fn=lambda: settle(spec.cores),
        )
        try:
            answer = self.receive()
        except EngineFailed:
            self.close()
            raise
        self.ready, self.facts = answer["ready"], answer["facts"]
        self.process.send_signal(signal.SIGSTOP)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, line):
        """Sends a command and waits for its answer.

        Between questions the process is stopped: worker threads that spin, waiting for the next
        inference, would take the cores from the engine whose turn it is."""
        self.process.send_signal(signal.SIGCONT)
        # `receive` finds out why a pipe broke.
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{line}\n".encode())
        answer = self.receive()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def receive(self):
        while True:
            readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            if not readable:
                raise EngineFailed(f"no answer within {PATIENCE} s")
            line = self.process.stdout.readline()
            if not line:
                raise EngineFailed(self.last_words())
            # Libraries may print, too.
            if line.startswith(b"{"):
                break
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailed(answer["error"])
        return answer

    def last_words(self):
        code = self.process.wait()
        self.log.seek(0)
        text = self.log.read().decode(errors="replace").strip().splitlines()
        return f"ended with {code}: {text[-1] if text else 'without a word'}"

    def time(self, warm_up=1):
        """Nanoseconds of one inference, by the engine's own clock."""
        return self.ask(f"time {warm_up}")["ns"]

    def outputs(self, batches):
        """Outputs for all inputs, a row per image."""
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for batch in range(batches):
                path = Path(folder) / f"{batch}.f32"
                self.ask(f"output {batch} {path}")
                rows.append(np.fromfile(path, np.float32).reshape(self.spec.shape[0], -1))
        return np.concatenate(rows)

    def close(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            with suppress(BrokenPipeError):
                stream.close()


def settle(cores):
    """Pins the process, and lets it die with the driver: a stopped one would never notice."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
