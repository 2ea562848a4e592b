"""What the figures are measured on."""

import os
import platform
from pathlib import Path

# The extensions that decide which integer kernel an engine takes.
EXTENSIONS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX-512F",
    "avx512bw": "AVX-512BW",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx_vnni_int8": "AVX-VNNI-INT8",
    "amx_int8": "AMX-INT8",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "I8MM",
}


def describe():
    facts = cpu_facts()
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "cpu": facts.get("model name", platform.processor() or "unknown processor"),
        "cores": len(usable()),
        "instruction_sets": [name for flag, name in EXTENSIONS.items() if flag in flags],
        # Of the last minute: whatever else runs takes time from somebody.
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def cpu_facts():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def usable():
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores():
    """One logical core of each physical one: two threads on one core would only share it."""
    cores, seen = [], set()
    for core in usable():
        siblings = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        name = siblings.read_text().strip() if siblings.exists() else str(core)
        if name not in seen:
            seen.add(name)
            cores.append(core)
    return cores


def saturates(machine):
    """Whether the usual 8-bit kernels of this CPU add products in pairs in 16 bits and clip them."""
    exact = {"AVX-512 VNNI", "AVX-VNNI", "NEON"}
    return not exact & set(machine["instruction_sets"])
