#!/usr/bin/env python3
"""What scores inside a training cost beyond the sampling itself: trainings with and without, and `perrin bench sample`, in turns.

Three programs take turns, so that whatever else the machine does meets all of them: the same training without scores, with one score at its
end, and the drawing of as many images of the same network by the same sampler. The reference is a file of `perrin stats`, as for a training
with many scores, which measures its reference once.

    .venv/bin/python bench/score_overhead.py --build build/cpu --data datasets/fashion-mnist/train [--config configs/quickstart.toml]
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

ROWS, COLUMNS = 16, 32  # 512 samples: whole batches for any number of ranks up to 32


class Program:
    """perrin on a number of ranks of one thread."""

    def __init__(self, binary, ranks):
        self._command = [*(["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)] if ranks > 1 else []), str(binary)]
        self._environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "OMPI_ALLOW_RUN_AS_ROOT": "1",
                                          "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def __call__(self, *arguments):
        """(what it printed, seconds it took)."""
        begun = time.monotonic()
        outcome = subprocess.run([*self._command, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                 env=self._environment)
        if outcome.returncode != 0:
            sys.exit(f"perrin {' '.join(map(str, arguments))} failed with {outcome.returncode}:\n{outcome.stderr}")
        return outcome.stdout, time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.toml"))
    parser.add_argument("--data", type=Path, required=True, help="dataset of the configuration")
    parser.add_argument("--image", default="1x28x28", help="shape of its images")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--training-steps", type=int, default=10)
    parser.add_argument("--sampling-steps", type=int, default=20)
    arguments = parser.parse_args()
    program = Program((arguments.build / "launch/perrin").resolve(), arguments.ranks)
    samples = ROWS * COLUMNS
    common = [f"--sample.steps={arguments.sampling_steps}", "--distributed.threads=1"]
    inside, outside, drawing = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program("stats", arguments.data, "--output", folder / "reference.npz", "--threads", 1)

        def train(run, *options):
            _, seconds = program("train", arguments.config, f"--run.directory={folder / run}", f"--data.train={arguments.data.resolve()}",
                                 "--data.heldout=", f"--train.steps={arguments.training_steps}", "--train.evaluate_every=0",
                                 "--train.sample_every=0", f"--evaluate.reference={folder / 'reference.npz'}", *common, *options)
            return seconds

        for i in range(arguments.rounds):
            without = train(f"without-{i}")
            whole = train(f"with-{i}", f"--evaluate.samples={samples}")
            row = next(row for row in map(json.loads, (folder / f"with-{i}" / "metrics.jsonl").read_text().splitlines()) if row["kind"] == "samples")
            said, _ = program("bench", "sample", arguments.config, "--image", arguments.image, "--rounds", 1, "--json",
                              f"--sample.rows={ROWS}", f"--sample.columns={COLUMNS}", *common)
            inside.append(row["seconds"])
            outside.append(whole - without)
            drawing.append(samples / json.loads(said)["images_per_second"])
            print(f"round {i + 1}: {samples} samples scored inside a training in {inside[-1]:.2f} s ({outside[-1]:.2f} s by the length of the "
                  f"trainings), drawn alone in {drawing[-1]:.2f} s", flush=True)
    for what, values in (("the training's own clock", inside), ("the length of the trainings", outside)):
        ratios = [a / b - 1 for a, b in zip(values, drawing)]
        print(f"over the drawing alone, by {what}: {100 * statistics.median(ratios):+.1f} % ({100 * min(ratios):+.1f} to {100 * max(ratios):+.1f})")


if __name__ == "__main__":
    main()
