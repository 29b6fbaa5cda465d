#!/usr/bin/env python3
"""All-reduce of perrin on the host beside MPI_Allreduce and torch.distributed's gloo: float32, sum, in place, on the ranks of one
mpirun. The three take turns at each size, round after round, so that whatever else the machine does meets all of them. A launch repeats
small all-reduces more often than large ones: the first hundreds are slower by half for all three, and a training makes thousands. A
ratio is the peer's median over perrin's: above 1, perrin is faster.

    .venv/bin/python bench/allreduce.py --build build/cpu --ranks 2 [--rounds 9] [--json]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {"0.1MB": 100_000, "1MB": 1_000_000, "10MB": 10_000_000, "143MB": 143_000_000}
LAUNCH_BYTES = 300_000_000  # reduced by one launch unless told otherwise, so that gloo takes a few seconds at most
HERE = Path(__file__).resolve().parent
# torch is looked for where this program runs: the ranks of gloo run on the same interpreter.
HAS_TORCH = subprocess.run([sys.executable, "-c", "import torch.distributed"], capture_output=True).returncode == 0


def ranks_output(arguments, *command):
    """What rank 0 prints, of the same launch for all three."""
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(arguments.ranks)]
    run = subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, timeout=600, env=environment)
    if run.returncode != 0:
        sys.exit(f"{command[0]} failed with {run.returncode}:\n{run.stderr}")
    return json.loads(run.stdout)


def perrin(arguments, size, repeat):
    report = ranks_output(arguments, arguments.build / "launch/perrin", "bench", "comm", "--ops", "all_reduce", "--device", "cpu",
                          "--repeat", repeat, "--json", "--sizes", f"{size}B")
    return report["results"][0]["seconds"]


def mpi(arguments, size, repeat):
    return ranks_output(arguments, arguments.build / "bench/mpi_allreduce", repeat, size)[str(size)]


def gloo(arguments, size, repeat):
    with tempfile.TemporaryDirectory() as folder:
        return ranks_output(arguments, sys.executable, HERE / "gloo_allreduce.py", Path(folder) / "store", repeat, size)[str(size)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin and mpi_allreduce")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="launches of each program")
    parser.add_argument("--repeat", type=int, help="all-reduces in a launch, of which the median counts (default: by size, at least 20)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    programs = {"perrin": perrin, "mpi": mpi} | ({"gloo": gloo} if HAS_TORCH else {})
    if not HAS_TORCH:
        print("skipped: gloo, since this Python has no torch.distributed", file=sys.stderr)

    repeats = {size: arguments.repeat or max(20, LAUNCH_BYTES // size) for size in SIZES.values()}
    rounds = {(name, size): [] for name in programs for size in SIZES}
    for _ in range(arguments.rounds):
        for label, size in SIZES.items():
            for name, measure in programs.items():
                rounds[name, label].append(measure(arguments, size, repeats[size]))

    if not arguments.json:
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.ranks} ranks, "
              f"medians (fastest to slowest) of {arguments.rounds} rounds, in ms")
    for label, size in SIZES.items():
        row, cells = {"size": label, "ranks": arguments.ranks, "rounds": arguments.rounds, "repeat": repeats[size]}, []
        for name in programs:
            times = sorted(1e3 * seconds for seconds in rounds[name, label])
            row |= {f"{name}_ms": statistics.median(times), f"{name}_ms_fastest": times[0], f"{name}_ms_slowest": times[-1]}
            cells.append(f"{name} {row[f'{name}_ms']:.3f} ({times[0]:.3f} to {times[-1]:.3f})")
        for peer in list(programs)[1:]:
            key = f"ratio_allreduce_{label}_vs_{peer}"
            row[key] = row[f"{peer}_ms"] / row["perrin_ms"]
            cells.append(f"{key} {row[key]:.2f}")
        print(json.dumps(row) if arguments.json else f"{label:>6} x {repeats[size]:<6} " + "  ".join(cells))


if __name__ == "__main__":
    main()
