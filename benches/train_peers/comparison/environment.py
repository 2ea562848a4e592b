"""The virtual environment with PyTorch. Standard library only."""

import venv
from pathlib import Path

from driver.toolchain import command, say

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


def python(scratch):
    """The interpreter of an environment with the pinned packages."""
    wanted = REQUIREMENTS.read_text()
    folder = scratch / "venv"
    stamp, interpreter = folder / "requirements.txt", folder / "bin" / "python"
    if not (stamp.exists() and stamp.read_text() == wanted):
        say(f"installing PyTorch into {folder}")
        venv.create(folder, with_pip=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command([*install, "-r", REQUIREMENTS], "PyTorch cannot be installed")
        stamp.write_text(wanted)
    return interpreter
