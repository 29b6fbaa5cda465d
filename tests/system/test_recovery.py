"""Numbers that go wrong, and disks that fill up."""

import os
import re
import signal
import subprocess

import pytest
from running import Running
from small_world import checkpoint, inspect, rows

RUN_ERROR = 73
DIVERGED = 77


def test_a_run_that_explodes_returns_and_ends_with_its_own_code(perrin, write_config):
    config, run = write_config(**{
        "optimizer.lr": 1e30, "optimizer.warmup_steps": 0, "checkpoint.every": 100, "train.steps": 100,
        "recovery.most_skipped": 3, "recovery.most_rollbacks": 2})
    ended = perrin("train", config, ranks=2, check=False)
    assert ended.returncode == DIVERGED, ended.stderr
    said = ended.stdout + ended.stderr
    assert "after 2 returns to an earlier checkpoint" in said
    assert "on rank 0 " in said and "is not finite" in said and "weights, Adam and EMA stay as they were" in said
    returns = rows(run, "rollback")
    assert [row["step"] for row in returns] == [0, 0]
    batch = 16
    assert returns[0]["position"] == returns[0]["from_step"] * batch
    assert returns[1]["position"] == returns[0]["position"] + returns[1]["from_step"] * batch
    assert not (run / "COMPLETED").exists()
    newest = inspect(perrin, run)  # what is left is sound
    assert (newest["step"], newest["rollbacks"], newest["position"]) == (0, 2, returns[1]["position"])
    again = perrin("train", config, ranks=2, check=False)
    assert again.returncode == DIVERGED, "a script that starts it for ever must not begin to count anew"
    assert len(rows(run, "rollback")) == 2


def test_a_loss_far_above_those_before_brings_the_run_back_and_leaves_its_data_out(perrin, write_config):
    config, run = write_config(**{
        "train.steps": 300, "checkpoint.every": 50, "checkpoint.keep": 100, "train.log_every": 10,
        "recovery.loss_z_score": 0.5, "recovery.most_rollbacks": 1000})  # half a deviation: soon after 128 steps
    said = perrin("train", config, ranks=2, timeout=120)
    assert "deviations above the 128 before" in said.stdout + said.stderr
    returns = rows(run, "rollback")
    assert returns and all(row["step"] % 50 == 0 and row["step"] < row["from_step"] for row in returns)
    newest = inspect(perrin, run)
    assert newest["step"] == 300 and newest["rollbacks"] == len(returns)
    left_out = sum(row["from_step"] - row["step"] for row in returns)
    assert newest["position"] == (300 + left_out) * 16
    assert newest["incarnation"] == 1 + len(returns) and newest["parent"].endswith(f"-i{len(returns):04}")
    steps = [row["step"] for row in rows(run)]
    assert steps == sorted(steps), "rows of an abandoned branch"


def test_a_run_that_diverges_again_from_a_checkpoint_returns_to_the_one_before(perrin, write_config):
    config, run = write_config(**{"train.steps": 100, "checkpoint.every": 50, "train.log_every": 10})
    perrin("train", config, ranks=2, timeout=120)
    # From here on no checkpoint but those of returns, and soon after each of them a loss that is too high.
    ended = perrin("train", config, "--train.steps=1000", "--checkpoint.every=1000", "--recovery.loss_z_score=0.5", "--recovery.most_rollbacks=3",
                   ranks=2, timeout=120, check=False)
    assert ended.returncode == DIVERGED, ended.stderr
    assert re.findall(r"back from step \d+ to step (\d+)", ended.stdout + ended.stderr) == ["100", "50", "50"], "50 is the first one"
    assert "the run has diverged from here before" in ended.stdout + ended.stderr
    assert inspect(perrin, run)["step"] == 50


def test_no_checkpoint_is_made_while_updates_are_skipped(perrin, write_config):
    config, run = write_config(**{
        "optimizer.lr": 1e30, "optimizer.warmup_steps": 0, "checkpoint.every": 1, "checkpoint.keep": 100, "train.steps": 100,
        "recovery.most_skipped": 5, "recovery.most_rollbacks": 1})
    ended = perrin("train", config, check=False)
    assert ended.returncode == DIVERGED, ended.stderr
    skipped = {int(step) for step in re.findall(r"step (\d+): .* stay as they were", ended.stdout + ended.stderr)}
    assert len(skipped) >= 5
    made = {int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*")}
    assert made and not made & skipped


def test_the_best_checkpoint_outlives_newer_ones(perrin, write_config):
    config, run = write_config(**{
        "train.steps": 20, "checkpoint.every": 4, "train.evaluate_every": 4, "checkpoint.keep": 1, "checkpoint.keep_every": 16,
        "optimizer.lr": 0.3, "optimizer.warmup_steps": 0, "ema.decays": [0.5]})  # a rate at which the loss goes up and down
    perrin("train", config)
    losses = {row["step"]: row["loss"] for row in rows(run, "heldout")}
    best = min(losses, key=losses.get)
    assert best not in (16, 20), f"the test shows nothing with these losses: {losses}"
    assert sorted(int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*")) == sorted({best, 16, 20})


def test_after_too_many_failures_the_run_ends_and_says_why(perrin_binary, program_environment, write_config):
    config, run = write_config(**{"checkpoint.every": 1, "checkpoint.most_failures": 3, "train.steps": 1000})
    limited = f"ulimit -f 16; exec {perrin_binary} train {config}"
    ended = subprocess.run(["bash", "-c", limited], env=program_environment(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == RUN_ERROR, ended.stderr
    said = ended.stdout + ended.stderr
    assert "3 checkpoints in a row could not be written" in said and "raise the file size limit" in said
    assert said.count("training goes on") >= 3
    assert not list((run / "checkpoints").glob("step-*"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_checkpoints_and_not_the_training(perrin, mpirun, program_environment, write_config, small_disk, tmp_path):
    config, run = write_config(**{
        "run.directory": str(small_disk / "run"), "train.steps": 1_000_000, "checkpoint.every": 5, "checkpoint.most_failures": 1_000_000,
        "checkpoint.keep": 2})
    with Running(mpirun(2, "train", config), program_environment(), tmp_path / "output") as process:
        process.wait_until(lambda: list((run / "checkpoints").glob("step-*-i0001")))
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        process.wait_until(lambda: process.said().count("training goes on") >= 3)
        assert "No space left on device" in process.said()
        full_at = newest_step(run)
        inspect(perrin, checkpoint(run, full_at))  # what was there is whole
        filler.unlink()
        process.wait_until(lambda: newest_step(run) > full_at + 5)
        process.send(signal.SIGUSR1)
        assert process.end(timeout=60) == 85
    newest = inspect(perrin, run)
    assert newest["step"] > full_at + 5
    assert [row["step"] for row in rows(run)] == list(range(1, newest["step"] + 1)), "rows that could not be written were lost"


def newest_step(run):
    return max(int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*") if path.suffix != ".tmp")
