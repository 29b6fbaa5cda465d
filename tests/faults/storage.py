"""Disks and files: a full one, a read-only one, a clock that jumps, damaged shards, damaged checkpoints."""

import pathlib
import subprocess

import h5py
import numpy as np

from cluster import wait_for
from scenario import last_lines, resumed, scenario
from training import EVERY, STEPS, resumed_steps


def on_small_disk(bed, **changes):
    """A training whose run folder is on the small file system, and that file system as the host sees it."""
    there, here = bed.cluster.small()
    for entry in here.iterdir():
        subprocess.run(["rm", "-rf", entry], check=True)
    return bed.training(run=there / "run", seen=here / "run", **changes), here


def fill(folder):
    """Leaves no byte; the file that took them."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


@scenario("13-disk-full-in-checkpoint", "no space for a checkpoint: the run trains on, tries again, and ends right")
def disk_full(bed):
    training, small = on_small_disk(bed, checkpoint__every=40, checkpoint__keep=3)
    job = bed.submit(training)
    training.reach(80)
    filler = fill(small)
    wait_for("word of a checkpoint that failed", lambda: "No space left" in job.log(), 60, 0.1)
    filler.unlink()
    bed.finish(training, job)
    assert job.restarts == 0
    return resumed(job, 0, training, starts=0)


@scenario("13-disk-full-in-log", "no space for the job's log: the run trains on and ends right")
def log_full(bed):
    there, here = bed.cluster.small()
    training = bed.training()
    job = bed.submit(training, f"--output={there}/job.log")
    training.reach(60)
    filler = fill(here)
    training.reach(160)
    filler.unlink()
    bed.finish(training, job)
    (here / "job.log").unlink(missing_ok=True)
    assert job.restarts == 0
    return "the log has a gap, the run none"


@scenario("24-read-only-folder", "the folder of the checkpoints cannot be written for a while: the run trains on and ends right")
def read_only(bed):
    training = bed.training()
    job = bed.submit(training)
    training.reach(60)
    folder = training.run / "checkpoints"
    subprocess.run(["chattr", "+i", folder], check=True)  # as a mount that turned read-only, and root has to obey it too
    try:
        wait_for("word of a checkpoint that failed", lambda: "not permitted" in job.log(), 60, 0.1)
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
    bed.finish(training, job)
    assert job.restarts == 0
    return resumed(job, 0, training, starts=0)


@scenario("24-clock-jump", "the clock jumps a day ahead and two back: deadlines and bits do not care")
def clock_jump(bed):
    clock = bed.folder / "clock"
    clock.write_text("+0\n")
    library = next(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    training = bed.training()
    job = bed.submit(training, environment={"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                                            "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    training.reach(60)
    clock.write_text("+1d\n")
    training.reach(120)
    clock.write_text("-1d\n")
    bed.finish(training, job)
    assert job.restarts == 0
    return resumed(job, 0, training, starts=0)


# --- Shards ----------------------------------------------------------------------------------------------------------


def offset_of_images(shard):
    with h5py.File(shard) as file:
        return file["images"].id.get_offset(), file["images"].id.get_storage_size()


def overwrite(path, offset, change):
    """Applies change(bytes) to the bytes from offset on, in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(4096)
        file.seek(offset)
        file.write(change(old))


def flip_bit(shard):
    offset, size = offset_of_images(shard)
    overwrite(shard, offset + size // 2, lambda old: bytes([old[0] ^ 4]) + old[1:])


def zero_page(shard):
    offset, size = offset_of_images(shard)
    overwrite(shard, offset + size // 4, lambda old: b"\0" * min(len(old), size // 2))


def truncate(shard):
    offset, size = offset_of_images(shard)
    with open(shard, "r+b") as file:
        file.truncate(offset + size // 2)


def other_shape(shard):
    with h5py.File(shard, "r+") as file:
        images = file["images"][:]
        del file["images"]
        file["images"] = np.zeros((len(images), 1, 4, 4), np.uint8)


def damaged_shard(bed, damage, while_running):
    """The run refuses to train on what it cannot trust and names the file; with the shard restored it goes on."""
    training = bed.training()
    shard = training.data / "train" / "shard-00001.h5"
    whole = shard.read_bytes()
    if not while_running:
        damage(shard)
    job = bed.submit(training)
    step = 0
    if while_running:
        training.reach(60)
        step = training.step()
        damage(shard)
    assert job.wait_end(90) == "FAILED", job.state
    bed.cluster.idle()
    assert (job.exit_code, job.restarts) == ("65:0", 0), f"exit {job.exit_code} after {job.restarts} requeues: {last_lines(job.log())}"
    assert "; restart " not in job.log(), "it was started again, in vain"
    assert "shard-00001.h5" in job.log(), "the log does not name the shard"
    # In place: what is mapped stays mapped, and a new file would be another experiment.
    shard.write_bytes(whole)
    again = bed.submit(training)
    bed.finish(training, again)
    return resumed(again, step, training, starts=1 if while_running else 0)


@scenario("14-shard-bit", "a flipped bit in a shard: named, refused; restored, the run goes on")
def shard_bit(bed):
    return damaged_shard(bed, flip_bit, True)


@scenario("14-shard-page", "a zeroed page in a shard")
def shard_page(bed):
    return damaged_shard(bed, zero_page, True)


@scenario("14-shard-truncated", "a shard that is cut short under the running training")
def shard_truncated(bed):
    return damaged_shard(bed, truncate, True)


@scenario("14-shard-missing", "a shard that is not there")
def shard_missing(bed):
    return damaged_shard(bed, lambda shard: shard.unlink(), False)


@scenario("14-shard-shape", "a shard whose images have another shape")
def shard_shape(bed):
    return damaged_shard(bed, other_shape, False)


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def damaged_checkpoint(bed, damage, from_step):
    """Half of the run, damage to what it left, then the rest: the next start goes on from the newest whole checkpoint."""
    training = bed.training(train__steps=STEPS // 2)
    first = bed.submit(training)
    assert first.wait_end(90) == "COMPLETED", last_lines(first.log())
    bed.cluster.idle()
    damage(training)
    training.set(train__steps=STEPS)
    training.folder.joinpath("job.log").unlink()
    job = bed.submit(training)
    bed.finish(training, job)
    assert resumed_steps(job.log()) == [from_step], f"went on from {resumed_steps(job.log())}, not from {from_step}"
    return f"resumed at {from_step}; lost {STEPS // 2 - from_step}"


def one_file(training):
    return sorted(training.checkpoint(STEPS // 2).glob("adam_v*.safetensors"))[-1]


def cut(training):
    with open(one_file(training), "r+b") as file:
        file.truncate(one_file(training).stat().st_size // 2)


def flip(training):
    overwrite(one_file(training), one_file(training).stat().st_size // 2, lambda old: bytes([old[0] ^ 1]) + old[1:])


@scenario("15-checkpoint-truncated", "the newest checkpoint is cut short: named, set aside, the one before it taken")
def checkpoint_truncated(bed):
    return damaged_checkpoint(bed, cut, STEPS // 2 - EVERY)


@scenario("15-checkpoint-bit", "a flipped bit in the newest checkpoint", quick=True)
def checkpoint_bit(bed):
    return damaged_checkpoint(bed, flip, STEPS // 2 - EVERY)


@scenario("15-checkpoint-missing-rank", "the file of one rank is missing in the newest checkpoint")
def checkpoint_missing_file(bed):
    return damaged_checkpoint(bed, lambda training: one_file(training).unlink(), STEPS // 2 - EVERY)


def dangling_latest(training):
    latest = training.run / "checkpoints" / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to("step-99999999-i9999")


@scenario("16-dangling-latest", "the file `latest` points nowhere: the folders decide")
def latest_dangling(bed):
    return damaged_checkpoint(bed, dangling_latest, STEPS // 2)
