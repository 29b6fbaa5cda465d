"""The smallest training that checkpoints at every step, for faults by the hundred."""

import gzip
import os
import pathlib
import random
import struct
import subprocess

import whole_checkpoints

CONFIG = """
[run]
directory = "{run}"
seed = 7
[data]
train = "{data}"
[model]
block_out_channels = [4]
layers_per_block = 1
attention_resolutions = []
norm_num_groups = 2
[diffusion]
timesteps = 10
[train]
steps = {steps}
batch_size = 4
log_every = 1
[ema]
decays = [0.9]
[checkpoint]
every = 1
keep = 1
keep_best = false
[sample]
rows = 1
columns = 1
steps = 2
[distributed]
device = "cpu"
threads = 1
timeout_seconds = 30
"""


def environment(**changes):
    """Of a program under test: one thread a rank, no scheduler's variables, mpirun allowed for root."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "OMPI_", "PMIX_", "PMI_"))}
    own.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **changes)
    return own


class TinyRun:
    """A run in `folder`, which is empty."""

    def __init__(self, perrin, folder):
        self.perrin, self.folder, self.run = str(perrin), pathlib.Path(folder).resolve(), pathlib.Path(folder).resolve() / "run"
        images, labels = self.folder / "images.gz", self.folder / "labels.gz"
        images.write_bytes(gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 32, 4, 4) + random.Random(1).randbytes(32 * 16)))
        labels.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 32) + bytes(32)))
        self._call([self.perrin, "prepare", "--images", images, "--labels", labels, "--output", self.folder / "data"])
        self.config(1_000_000)

    def config(self, steps):
        self.file = self.folder / "tiny.toml"
        self.file.write_text(CONFIG.format(run=self.run, data=self.folder / "data", steps=steps))

    def command(self, ranks=None, **overrides):
        """The command line of a start; ranks=None: without mpirun."""
        launcher = [] if ranks is None else ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
        return [*launcher, self.perrin, "train", str(self.file), *(f"--{key.replace('__', '.')}={value}" for key, value in overrides.items())]

    def start(self, command, timeout=120, **changes):
        """Runs to its end. @return subprocess.CompletedProcess, output as text"""
        return subprocess.run(command, env=environment(**changes), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", timeout=timeout)

    def fault_of_next_start(self, ranks=None):
        """After a crash: checks what is left, and lets the run make one step more than its newest checkpoint.

        @return what is wrong, as text; "": nothing
        """
        if half := whole_checkpoints.not_whole(self.run):
            return f"with a checkpoint's name and not whole: {half}"
        newest = whole_checkpoints.newest_whole(self.run)
        step = int(newest.name[5:13]) if newest else 0
        ended = self.start(self.command(ranks, train__steps=step + 1))
        said = ended.stdout[-2000:]
        if ended.returncode != 0:
            return f"exit status {ended.returncode} after {newest}: {said}"
        if newest and f"going on from {newest} (step {step})" not in ended.stdout:
            return f"did not go on from {newest}: {said}"
        after = whole_checkpoints.newest_whole(self.run)
        if not after or int(after.name[5:13]) != step + 1:
            return f"ended with {after} instead of step {step + 1}: {said}"
        left = [path.name for path in (self.run / "checkpoints").iterdir() if ".tmp" in path.name]
        return f"left behind: {left}" if left else ""

    def _call(self, command):
        done = self.start([str(part) for part in command])
        assert done.returncode == 0, done.stdout
