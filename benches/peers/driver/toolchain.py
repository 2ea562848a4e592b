"""The environment and the binaries that the comparison runs. Standard library only."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).resolve().parents[1]


class Stop(Exception):
    """Ends the run with a message for the user."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def environment(scratch):
    """The interpreter of a virtual environment with exactly the pinned packages."""
    wanted = (PEERS / "requirements.txt").read_text()
    folder, stamp = scratch / "venv", scratch / "venv" / "requirements.txt"
    python = folder / "bin" / "python"
    if not (stamp.exists() and stamp.read_text() == wanted):
        say(f"installing the Python peers into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command(
            [*install, "-r", PEERS / "requirements.txt"], "the Python peers cannot be installed"
        )
        stamp.write_text(wanted)
    return python


def build(scratch, slimbit=None):
    """Release binaries by name: `slimbit`, `slimbit-timing-server`, `rust-peers`."""
    if not shutil.which("cargo"):
        raise Stop("cargo is not on the PATH; install Rust from https://rustup.rs")
    say("building Slimbit (minutes, the first time)")
    # The first is the README's build, so that what the user has built already is used.
    binaries = {"slimbit": slimbit.resolve()} if slimbit else cargo([])
    binaries |= cargo(["--package", "slimbit-timing-server"])
    say("building the Rust peers")
    manifest = PEERS / "rust-peers" / "Cargo.toml"
    target = scratch / "rust-peers"
    return binaries | cargo(["--manifest-path", manifest, "--target-dir", target, "--locked"])


def cargo(arguments):
    line = ["cargo", "build", "--release", "--message-format=json-render-diagnostics", *arguments]
    built = subprocess.run(
        [str(word) for word in line], cwd=PEERS, stdout=subprocess.PIPE, text=True, check=False
    )
    if built.returncode:
        raise Stop("cargo build failed")
    messages = (json.loads(text) for text in built.stdout.splitlines() if text.startswith("{"))
    paths = (message.get("executable") for message in messages)
    return {Path(path).name: Path(path) for path in paths if path}


def command(line, complaint, **options):
    """Runs a command, quietly unless it fails."""
    line = [str(word) for word in line]
    done = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode:
        raise Stop(f"{complaint}:\n  {' '.join(line)}\n{done.stdout.strip()}")
    return done.stdout


def enter(python):
    """Goes on inside the environment, with the same arguments."""
    if Path(sys.prefix).resolve() != python.parents[1].resolve():
        os.execv(python, [str(python), *sys.argv])
