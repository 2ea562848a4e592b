"""From the prepared environment to the report."""

import json
import subprocess

from . import machine, networks, report
from .cli import REPOSITORY
from .comparison import Comparison
from .engines import EngineFailed
from .toolchain import Stop, build, say


def run(options):
    try:
        compare(options)
    except EngineFailed as error:
        # Those of peers are part of the report.
        raise Stop(f"slimbit: {error}; if the file format has changed, use --fresh") from error


def compare(options):
    # Builds take minutes: what may be wrong with the options is found first.
    facts, chosen = machine.describe(), networks.chosen(options.only)
    comparison = Comparison(options, facts)
    threads = [n for n in options.threads if n <= len(comparison.cores)]
    for missing in sorted(set(options.threads) - set(threads)):
        say(f"no table for {missing} threads: this machine has {len(comparison.cores)} free cores")
    if not threads:
        raise Stop("--threads: no number of threads fits this machine")
    comparison.binaries = build(options.scratch, options.slimbit)
    slimbit = comparison.binaries["slimbit"]
    files = {n.name: networks.make(n, slimbit, options) for n in chosen}
    report.head(facts, options)
    rows, own = [], []
    for network in chosen:
        for batch in [b for b in options.batches if b in network.batches]:
            for count in threads:
                rows.append(comparison.row(network, files[network.name], batch, count))
                report.row(rows[-1])
        if network.size == 224 and not options.no_own:
            own.append(comparison.own(network, files[network.name]))
            report.own(own[-1])
    counted = [network.name for network in networks.ALL if network.counts]
    document = {
        "machine": facts,
        "versions": comparison.versions | {"slimbit": revision()},
        "recipes": {name: f.recipe for name, f in files.items()},
        "rows": rows,
        "own": own,
        **{f"geomean_vs_best_peer_{n}t": report.means(rows, counted, n) for n in (1, 2)},
    }
    report.foot(document, rows)
    if options.json:
        print(json.dumps(document))


def revision():
    """The commit that was built, with a mark if the tree differs from it."""
    line = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
