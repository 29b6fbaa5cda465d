"""A small real training: its datasets, its configuration, and what its run folder says afterwards."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from cluster import SOURCE, wait_for

sys.path.insert(0, str(SOURCE / "tests" / "system"))
from small_world import blobs, write_idx  # noqa: E402

STEPS = 240
EVERY = 20  # steps between checkpoints

VALUES = {
    "run.seed": 7,
    "model.block_out_channels": [8],
    "model.layers_per_block": 1,
    "model.attention_resolutions": [],
    "model.norm_num_groups": 4,
    "model.dropout": 0.1,
    "diffusion.timesteps": 100,
    "diffusion.beta_end": 0.2,
    "train.steps": STEPS,
    "train.batch_size": 4,
    "train.log_every": 1,
    "optimizer.lr": 2e-3,
    "optimizer.warmup_steps": 5,
    "ema.decays": [0.9],
    "checkpoint.every": EVERY,
    "checkpoint.keep": 100,
    "evaluate.images": 64,
    "sample.rows": 2,
    "sample.columns": 2,
    "sample.steps": 5,
    # The same bits on any number of ranks, so that one undisturbed run is the answer for all.
    "distributed.reduction": "reproducible",
    "distributed.shards": 4,
    "distributed.timeout_seconds": 15,
}
PHASES = ("start", "step", "evaluation", "checkpoint", "sampling", "shutdown")


def program():
    """The program under test, as tests/run.sh names it."""
    return pathlib.Path(os.environ["PERRIN_BINARY"]).resolve()


def perrin(*arguments, check=True):
    done = subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"perrin {' '.join(map(str, arguments))}: {done.stderr}"
    return done


def make_datasets(folder):
    """folder/train (300 images of 8x8 in 3 shards) and folder/heldout (64)."""
    folder.mkdir(parents=True)
    for name, count, seed in (("train", 300, 1), ("heldout", 64, 2)):
        images, labels = blobs(count, seed)
        write_idx(folder / f"{name}-images.gz", images)
        write_idx(folder / f"{name}-labels.gz", labels)
        perrin("prepare", "--images", folder / f"{name}-images.gz", "--labels", folder / f"{name}-labels.gz", "--output", folder / name,
               "--shard-images", 128)


class Training:
    """One run: a folder with its configuration, its own copy of the datasets, and the run folder."""

    def __init__(self, folder, datasets, run=None, seen=None, **changes):
        """run: the run folder as the nodes see it, seen: as the host does (default: both in folder)."""
        self.folder = folder
        folder.mkdir(parents=True)
        self.data = folder / "data"
        shutil.copytree(datasets, self.data)
        run = run or folder / "run"
        self.run = seen or run
        self.config = folder / "training.toml"
        self._values = {**VALUES, "run.directory": str(run), "data.train": str(self.data / "train"), "data.heldout": str(self.data / "heldout")}
        self.set(**changes)

    def set(self, **changes):
        """Keys that the next start will have: set(train__steps=240)."""
        self._values.update({name.replace("__", "."): value for name, value in changes.items()})
        self.steps = self._values["train.steps"]
        self.every = self._values["checkpoint.every"]
        sections = {}
        for key, value in self._values.items():
            section, leaf = key.split(".")
            sections.setdefault(section, []).append(f"{leaf} = {json.dumps(value)}")
        self.config.write_text("\n\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items()) + "\n")

    def checkpoints(self):
        """The whole checkpoints, by step; of a step that was made twice the newest."""
        found = {}
        for path in sorted(self.run.glob("checkpoints/step-*/manifest.json"), key=lambda path: path.parent.name[-4:]):
            match = re.fullmatch(r"step-(\d+)-i\d+", path.parent.name)
            if match:
                found[int(match.group(1))] = path.parent
        return found

    def checkpoint(self, step):
        return self.checkpoints()[step]

    def rows(self, kind="train"):
        """(step, loss) of every whole line of metrics.jsonl."""
        path = self.run / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [(row["step"], row["loss"]) for row in rows if row["kind"] == kind]

    def step(self):
        """The last step that has a line of metrics."""
        rows = self.rows()
        return rows[-1][0] if rows else 0

    def phase(self, rank):
        """What a rank is doing, from its flight record; None before it has one."""
        try:
            with open(self.run / "flight" / f"rank-{rank:04}.bin", "rb") as file:
                file.seek(136)  # FlightHeader::phase, comm/flight_recorder.hpp
                return PHASES[file.read(1)[0]]
        except (OSError, IndexError):
            return None

    def reach(self, step, seconds=90):
        wait_for(f"checkpoint at step {step}", lambda: any(reached >= step for reached in self.checkpoints()), seconds, 0.05)

    def result(self):
        """What must not depend on any fault: the bits of the last checkpoint, and the losses of all steps."""
        inspected = json.loads(perrin("inspect", self.checkpoint(self.steps), "--json").stdout)
        return {"sha256": inspected["sha256"], "train": self.rows(), "heldout": self.rows("heldout")}

    def completed(self):
        """The text of the marker, or None."""
        path = self.run / "COMPLETED"
        return path.read_text().strip() if path.exists() else None


def resumed_steps(log):
    """The step that each later start went on from, in the order of the log."""
    return [int(step) for step in re.findall(r"going on from \S+ \(step (\d+)\)", log)]
