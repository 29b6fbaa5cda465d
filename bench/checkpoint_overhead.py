#!/usr/bin/env python3
"""What a checkpoint every half a minute costs a training: the same network on two threads, with and without, in turns.

Two trainings, alike but for checkpoint.every_minutes, take turns of a minute; while one runs the other is stopped (SIGSTOP), so that
whatever else the machine does meets both. Compared are the steps of all turns, and the processor time of a step, which a busy machine
changes less.

    .venv/bin/python bench/checkpoint_overhead.py --build build/cpu --data datasets/fashion-mnist/train [--folder runs] [--turns 4]
"""

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

EVERY_MINUTES = 0.5
TURN_SECONDS = 60
WARM_UP_SECONDS = 15
CONFIG = """
[run]
directory = "{run}"
[data]
train = "{data}"
[model]
block_out_channels = [64, 128, 192]
layers_per_block = 2
attention_resolutions = [7]
[train]
steps = 1000000
batch_size = 2
log_every = 1
[ema]
decays = [0.9999]
[checkpoint]
every = 1000000
every_minutes = {minutes}
keep = 1
[distributed]
device = "cpu"
threads = 2
"""


class Training:
    """Runs in turns; stopped between them."""

    def __init__(self, perrin, folder, data, minutes):
        self._run = folder / "run"
        folder.mkdir()
        config = folder / "training.toml"
        config.write_text(CONFIG.format(run=self._run, data=data.resolve(), minutes=minutes))
        with open(folder / "log", "w") as log:
            self._process = subprocess.Popen([perrin, "train", config], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.steps, self.seconds, self.processor_seconds = 0, 0.0, 0.0

    def rows(self, kind):
        path = self._run / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [row for row in map(json.loads, (line for line in lines if line.endswith("\n"))) if row["kind"] == kind]

    def _processor_seconds(self):
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def turn(self, seconds):
        """From the end of a step to the end of another, so that none counts in part."""
        self._process.send_signal(signal.SIGCONT)
        self._next_step()
        steps, begun, processor = len(self.rows("train")), time.monotonic(), self._processor_seconds()
        time.sleep(seconds)
        self._next_step()
        self.steps += len(self.rows("train")) - steps
        self.seconds += time.monotonic() - begun
        self.processor_seconds += self._processor_seconds() - processor
        self._process.send_signal(signal.SIGSTOP)

    def _next_step(self):
        steps = len(self.rows("train"))
        while len(self.rows("train")) == steps:
            if self._process.poll() is not None:
                raise SystemExit(f"perrin ended with {self._process.returncode}; its log: {self._run.parent / 'log'}")
            time.sleep(0.005)

    def end(self):
        self._process.kill()
        self._process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/cpu"), help="build folder, with perrin")
    parser.add_argument("--data", type=Path, required=True, help="dataset of 28x28 or 32x32 images")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where both write: on the file system of the runs")
    parser.add_argument("--turns", type=int, default=4, help="minutes of each")
    arguments = parser.parse_args()
    perrin = (arguments.build / "launch/perrin").resolve()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        trainings = {}
        try:
            for name, minutes in (("without", 0), ("with", EVERY_MINUTES)):
                trainings[name] = Training(perrin, Path(folder) / name, arguments.data, minutes)
                trainings[name].turn(WARM_UP_SECONDS)
            for training in trainings.values():
                training.steps, training.seconds, training.processor_seconds = 0, 0.0, 0.0
            for _ in range(arguments.turns):
                for training in trainings.values():
                    training.turn(TURN_SECONDS)
            rows = trainings["with"].rows("checkpoint")
        finally:
            for training in trainings.values():
                training.end()
    for name, training in trainings.items():
        print(f"{name:<8}{training.steps:6} steps{training.steps / training.seconds:8.3f} steps/s{training.processor_seconds / training.steps * 1e3:10.1f} ms of processor time a step")
    without, with_them = trainings["without"], trainings["with"]
    wall = (with_them.seconds / with_them.steps) / (without.seconds / without.steps) - 1
    processor = (with_them.processor_seconds / with_them.steps) / (without.processor_seconds / without.steps) - 1
    print(f"{len(rows)} checkpoints of {rows[-1]['bytes'] / 1e6:.1f} MB; stall {max(row['stall_seconds'] for row in rows) * 1e3:.0f} ms at most, "
          f"{max(row['seconds'] for row in rows):.2f} s to the end of writing at most")
    print(f"overhead: {100 * wall:.2f} % of wall time, {100 * processor:.2f} % of processor time")


if __name__ == "__main__":
    main()
