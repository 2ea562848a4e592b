"""Interleaved timings and what can be said from them."""

import time
from dataclasses import dataclass, field

import numpy as np

from .engines import EngineFailed

MINIMUM_ROUNDS = 7
# A peer so many times slower than the fastest has no part in the ratio: a few samples do.
SLOW, SELDOM = 6, 5
RESAMPLES = 2000


@dataclass
class Samples:
    """Nanoseconds of one peer, each next to ours of the same moment."""

    ours: list = field(default_factory=list)
    theirs: list = field(default_factory=list)


def interleave(ours, peers, rounds, seconds, between=lambda: None):
    """Times `ours, peer, ours, peer, …` for so many rounds, or as many as the time allows.

    Returns the samples per peer, and the errors of those that failed under way."""
    samples, failed = {name: Samples() for name in peers}, {}
    pace = {}
    for name, peer in peers.items():
        try:
            pace[name] = peer.time()
        except EngineFailed as error:
            failed[name] = str(error)
    fastest = min(pace.values(), default=0)
    order = list(pace)
    start = time.monotonic()
    for turn in range(rounds):
        if turn >= MINIMUM_ROUNDS and time.monotonic() - start > seconds:
            break
        between()
        # Another peer begins each round, so that none always follows the same neighbour.
        shift = turn % max(len(order), 1)
        for name in order[shift:] + order[:shift]:
            seldom = pace[name] > SLOW * fastest
            if name in failed or (seldom and turn % SELDOM):
                continue
            ours_ns = ours.time()
            try:
                theirs_ns = peers[name].time()
            except EngineFailed as error:
                failed[name] = str(error)
                continue
            samples[name].ours.append(ours_ns)
            samples[name].theirs.append(theirs_ns)
    return {name: s for name, s in samples.items() if s.ours and name not in failed}, failed


def milliseconds(nanoseconds):
    """Median, 10th and 90th percentile."""
    p10, median, p90 = np.percentile(nanoseconds, [10, 50, 90]) / 1e6
    return {"median": median, "p10": p10, "p90": p90}


def ratio(ours, theirs):
    """Median of the paired ratios, with the bootstrap's 95 % interval of that median."""
    ratios = np.asarray(ours) / np.asarray(theirs)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def agreement(ours, theirs):
    """How alike two sets of outputs are, a row per image."""
    if ours.shape != theirs.shape:
        return {"error": f"shape {theirs.shape} instead of {ours.shape}"}
    if not np.isfinite(theirs).all():
        return {"error": "not all outputs are finite"}
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-30)
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    return {"cosine": float(cosines.min()), "top1": int(same.sum()), "images": len(ours)}


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values)))) if values else None
