#!/usr/bin/env python3
"""A checkpoint of perrin beside torch.save of the same state (weights, Adam's two moments, one EMA), both brought to the device. The two
take turns, so that whatever else the machine does meets both. torch.save stops the training until it is done; perrin, while it copies.

    .venv/bin/python bench/checkpoint.py --build build/cpu [--folder runs] [--rounds 5] [--json]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

BUFFERS = 4


def torch_save_seconds(state, folder):
    path = Path(folder) / "state.pt"
    begun = time.monotonic()
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.monotonic() - begun
    path.unlink()
    return seconds


def perrin(arguments):
    command = [arguments.build / "launch/perrin", "bench", "checkpoint", "--folder", arguments.folder, "--rounds", "3", "--json"]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    if run.returncode != 0:
        sys.exit(f"perrin failed with {run.returncode}:\n{run.stderr}")
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where both write: on the file system of the runs")
    parser.add_argument("--rounds", type=int, default=5, help="turns; in each perrin makes three checkpoints and torch.save one")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()

    rounds = [perrin(arguments)]  # the first tells the size, and warms up
    size = rounds.pop()["parameters"]
    state = {f"buffer-{i}": torch.full((size,), float(i)) for i in range(BUFFERS)}
    saves = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for _ in range(arguments.rounds):
            rounds.append(perrin(arguments))
            saves.append(torch_save_seconds(state, folder))
    median = {key: statistics.median(row[key] for row in rounds) for key in ("stall_seconds", "publish_seconds", "copy_seconds", "plain_write_seconds")}
    saved = statistics.median(saves)
    report = {"bytes": rounds[0]["bytes"], "rounds": arguments.rounds, **median, "torch_save_seconds": saved,
              "ratio_stall_vs_memcpy": median["stall_seconds"] / median["copy_seconds"],
              "ratio_throughput_vs_plain_write": median["plain_write_seconds"] / median["publish_seconds"],
              "ratio_stall_vs_torch_save": saved / median["stall_seconds"],
              "ratio_publish_vs_torch_save": saved / median["publish_seconds"]}
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{report['bytes'] / 1e6:.1f} MB, medians of {arguments.rounds} turns")
    for name, value in report.items():
        if name.startswith("ratio"):
            print(f"{name:<34}{value:8.2f}")
        elif name.endswith("seconds"):
            print(f"{name:<34}{value * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
