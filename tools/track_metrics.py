#!/usr/bin/env python3
"""Hands the curves and the settings of a run to Weights & Biases, MLflow, or a CSV file.

    python tools/track_metrics.py runs/first --wandb my-project
    python tools/track_metrics.py runs/first --mlflow my-experiment
    python tools/track_metrics.py runs/first --csv curves.csv

RUN is a folder that `slimbit pretrain` or `slimbit finetune` wrote; it may still be in training. Nothing in it is
changed. Needs Python 3.11; `--wandb` needs the package wandb, `--mlflow` the package mlflow or mlflow-skinny. Where they
send things is their own settings' business (WANDB_MODE=offline, MLFLOW_TRACKING_URI=sqlite:///mlflow.db).

Curves have the names that TensorBoard shows: loss/base, loss/student1, feature_std/base, lr, ...
"""

import argparse
import csv
import json
import sys
import tomllib
from pathlib import Path

PER_NETWORK = ("loss", "feature_std", "effective_rank", "agreement", "gradient_norm")


def curves(line):
    """The step of a line of metrics.jsonl, and its numbers by name."""
    record = json.loads(line)
    step = record.pop("step")
    values = {}
    for index, network in enumerate(record.pop("networks", [])):
        name = "base" if index == 0 else f"student{index}"
        for measure in PER_NETWORK:
            values[f"{measure}/{name}"] = network.get(measure)
        rounding = network.get("rounding")
        values[f"rounding_error/{name}"] = rounding and rounding["relative"]
    values.update(record)
    return step, {name: value for name, value in values.items() if isinstance(value, (int, float))}


def read(run):
    """Every whole line of metrics.jsonl: steps and numbers, in order."""
    rows = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            rows.append(curves(line))
        except json.JSONDecodeError:
            # The last line of a run that is being written.
            break
    return rows


def settings(run):
    """Settings by dotted name."""
    for name in ("config.toml", "finetune.toml"):
        if (run / name).exists():
            return dict(flat(tomllib.loads((run / name).read_text(encoding="utf-8"))))
    return {}


def flat(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_csv(path, rows):
    names = sorted({name for _, values in rows for name in values})
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *names])
        writer.writerows([step, *(values.get(name, "") for name in names)] for step, values in rows)


def to_wandb(project, run, rows):
    import wandb

    with wandb.init(project=project, name=str(run), config=settings(run)) as tracked:
        for step, values in rows:
            tracked.log(values, step=step)


def to_mlflow(experiment, run, rows):
    import mlflow

    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=str(run)):
        # MLflow takes at most 6,000 characters of a value.
        mlflow.log_params({key: str(value)[:6000] for key, value in settings(run).items()})
        for step, values in rows:
            mlflow.log_metrics(values, step=step)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--csv", type=Path, metavar="FILE")
    target.add_argument("--wandb", metavar="PROJECT")
    target.add_argument("--mlflow", metavar="EXPERIMENT")
    options = parser.parse_args()
    try:
        rows = read(options.run)
        if options.csv:
            to_csv(options.csv, rows)
        elif options.wandb:
            to_wandb(options.wandb, options.run, rows)
        else:
            to_mlflow(options.mlflow, options.run, rows)
    except FileNotFoundError as error:
        sys.exit(f"error: {options.run} is no run that has begun: {error.filename} is missing")
    except ImportError as error:
        sys.exit(f"error: {error}; install it with pip")
    print(f"{options.run}: {len(rows)} steps")


if __name__ == "__main__":
    main()
