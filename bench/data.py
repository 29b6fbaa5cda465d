#!/usr/bin/env python3
"""`perrin bench data` beside a PyTorch DataLoader that reads the same HDF5 files by h5py, in random order, with 2 workers. The two take
turns, round after round, so that whatever else the machine does meets both. A ratio is perrin's median over the DataLoader's.

    .venv/bin/python bench/data.py --build build/cpu [DATASET] [--rounds 5] [--json]
"""

import argparse
import bisect
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKERS = 2
WARM_UP_BATCHES = 20
LOADER_NEEDS = ("h5py", "torch")


class Shards:
    """A map-style dataset over /images and /labels of all shards; each worker opens them for itself, as h5py asks."""

    def __init__(self, folder):
        shards = json.loads((folder / "manifest.json").read_text())["shards"]
        self.paths = [folder / shard["path"] for shard in shards]
        self.starts = [sum(shard["n"] for shard in shards[:i]) for i in range(len(shards))]
        self.size = sum(shard["n"] for shard in shards)
        self.files = None

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        import h5py

        if self.files is None:
            files = [h5py.File(path, "r") for path in self.paths]
            self.files = [(file["images"], file["labels"]) for file in files]
        shard = bisect.bisect_right(self.starts, index) - 1
        images, labels = self.files[shard]
        return images[index - self.starts[shard]], labels[index - self.starts[shard]]


def dataloader_rate(folder, batch, seconds):
    """Images a second that the main process gets in batches."""
    import torch

    loader = torch.utils.data.DataLoader(Shards(folder), batch_size=batch, shuffle=True, num_workers=WORKERS)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(WARM_UP_BATCHES):
        next(batches)
    begun, images = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        images += len(next(batches)[0])
    return images / (time.monotonic() - begun)


def perrin_rows(arguments, *options):
    command = [arguments.build / "launch/perrin", "bench", "data", *options, "--batch", arguments.batch, "--json"]
    outcome = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=3600)
    if outcome.returncode != 0:
        sys.exit(f"perrin bench data failed with {outcome.returncode}:\n{outcome.stderr}")
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def measure(arguments, folder, with_loader):
    """The rows of every round, and the DataLoader's rate in each."""
    rounds, loader_rates = [], []
    for _ in range(arguments.rounds):
        rounds.append(perrin_rows(arguments, folder, "--rounds", 3, "--seconds", arguments.seconds))
        if with_loader:
            loader_rates.append(dataloader_rate(folder, arguments.batch, arguments.loader_seconds))
    return rounds, loader_rates


def combined(rows, loader_rates):
    """One row of medians over the rounds; the DataLoader has a random order only."""
    row = {key: statistics.median(each[key] for each in rows) if isinstance(rows[0][key], float) else rows[0][key] for key in rows[0]}
    for name in ("perrin", "h5dread", "memcpy"):
        row[f"{name}_per_second_slowest"] = min(each[f"{name}_per_second_slowest"] for each in rows)
        row[f"{name}_per_second_fastest"] = max(each[f"{name}_per_second_fastest"] for each in rows)
    row["rounds"] = sum(each["rounds"] for each in rows)
    if loader_rates and row["order"] == "random":
        row["dataloader_per_second"] = statistics.median(loader_rates)
        row["ratio_random_vs_dataloader"] = row["perrin_per_second"] / row["dataloader_per_second"]
    return row


def print_row(row):
    cells = [f"{name} {row[f'{name}_per_second'] / 1e3:.4g}" for name in ("perrin", "h5dread", "memcpy", "dataloader") if f"{name}_per_second" in row]
    cells += [f"{key} {value:.2f}" for key, value in row.items() if key.startswith("ratio_")]
    print(f"{row['order']:<10} {row['threads']} threads  " + "  ".join(cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, nargs="?", help="a dataset that fits into memory (default: noise, as perrin bench data makes it)")
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--images", type=int, default=200_000, help="images of noise")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement of perrin")
    parser.add_argument("--loader-seconds", type=float, default=3.0, help="of each measurement of the DataLoader")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    missing = [name for name in LOADER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: the DataLoader, since this Python has no {' and no '.join(missing)}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.dataset
        if folder is None:
            folder = Path(temporary) / "noise"
            perrin_rows(arguments, "--make", folder, "--images", arguments.images, "--rounds", 1, "--seconds", 0.01)
        rounds, loader_rates = measure(arguments, folder, with_loader=not missing)

    if not arguments.json:
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; thousand images/s, medians of "
              f"{arguments.rounds} turns; the DataLoader has {WORKERS} workers, H5Dread one thread")
    for rows in zip(*rounds):
        row = combined(rows, loader_rates)
        print(json.dumps(row)) if arguments.json else print_row(row)


if __name__ == "__main__":
    main()
