"""Tables for people; the same figures as JSON for programs."""

from .measure import geometric_mean


def table(head, rows):
    """Left column left-aligned, the others right-aligned."""
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, *rest = (
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(row, widths))
        )
        print("  ".join(["  " + first, *rest]).rstrip())
    print()


def interval(ratio):
    return f"{ratio['median']:.3f}  [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def head(machine, options):
    print(f"{machine['cpu']}, {machine['cores']} cores; {', '.join(machine['instruction_sets'])}")
    print(f"{machine['system']}; load {machine['load']:.2f}")
    print(
        f"one inference each in turn, after an untimed one; at most {options.rounds} rounds or "
        f"{options.seconds} s a table; ratio = ours / peer, [95 % interval]\n"
    )


def row(result):
    """The table of one network, batch and number of threads."""
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    print(
        f"{result['network']} {result['point']}, batch {result['batch']}, {threads}, "
        f"{result['rounds']} rounds; peak {result['peak_macs_per_second_and_core'] / 1e9:.1f} "
        f"GMAC/s a core"
    )
    low, high = result["ours_spread_ms"]
    lines = [
        [
            "slimbit " + result["isa"],
            f"{result['ours_ms']:.3f}",
            f"{low:.3f} to {high:.3f}",
            "",
            "",
            f"{100 * result['fraction_of_peak']:.1f} % of peak",
        ]
    ]
    for name in sorted(result["peers"], key=result["peers"].get):
        low, high = result["peers_spread_ms"][name]
        lines.append(
            [
                ("* " if name == result["best_peer"] else "  ") + name,
                f"{result['peers'][name]:.3f}",
                f"{low:.3f} to {high:.3f}",
                interval(result["ratios"][name]),
                *agreement(result["agreement"][name], " !" if name in result["inexact"] else ""),
            ]
        )
    table(["", "median ms", "p10 to p90", "ratio", "top-1", "lowest cosine"], lines)
    for name, error in result["failed"].items():
        print(f"  {name} does not run it: {short(error)}")
    if result["failed"]:
        print()


def agreement(alike, mark):
    if "error" in alike:
        return "", alike["error"]
    return f"{alike['top1']}/{alike['images']}", f"{alike['cosine']:.5f}{mark}"


def short(text, limit=300):
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def own(result):
    print(f"{result['network']}, Slimbit with itself, batch 1")
    lines = []
    for line in result["ratios"]:
        if "failed" in line:
            lines.append([line["what"], short(line["failed"], 80), "", ""])
            continue
        times = f"{line['a_ms']:.3f}", f"{line['b_ms']:.3f}"
        lines.append([line["what"], *times, interval(line["ratio"])])
    table(["a / b", "a ms", "b ms", "ratio"], lines)
    first = ", ".join(f"{p} {ms:.2f}" for p, ms in result["first_set_point_ms"].items())
    later = 1e3 * result["set_point_ms"]["median"]
    print(f"  load to first result  {spread(result['load_to_first_result_ms'])}")
    print(f"  first move to a point {first} ms; later moves {later:.1f} µs\n")


def spread(times):
    return f"{times['median']:.3f} ms ({times['p10']:.3f} to {times['p90']:.3f})"


def means(rows, counted, threads):
    """Geometric mean of ours / best peer over the networks that count; none if one is missing."""
    ratios = {
        row["network"]: row["ratio"]
        for row in rows
        if row["batch"] == 1 and row["threads"] == threads and row["network"] in counted
    }
    complete = set(ratios) == set(counted) and all(ratios.values())
    return geometric_mean(list(ratios.values())) if complete else None


def foot(document, rows):
    if any(row["inexact"] for row in rows):
        print(
            "! an int8 peer that is farther from the quantised network than the float network is.\n"
            "  Without VNNI, kernels add pairs of products in 16 bits and clip them.\n"
        )
    for threads in (1, 2):
        mean = document[f"geomean_vs_best_peer_{threads}t"]
        if mean is not None:
            print(f"geometric mean of ours / best peer, {threads} thread(s), batch 1: {mean:.3f}")
    print("versions: " + ", ".join(f"{n} {v}" for n, v in sorted(document["versions"].items())))
