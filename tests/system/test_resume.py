"""A run that was killed and started again is, bit for bit, the run that was never disturbed."""

import random
import shutil
import time

import pytest
from running import Running
from small_world import checkpoint, inspect, losses, make_config, rows

VARIANTS = {
    "1-rank": (1, {}),
    "2-ranks": (2, {}),
    "2-ranks-micro-batches": (2, {"train.micro_batch": 3}),
    "1-rank-ema-warmup-tensorflow-epsilon": (1, {"ema.warmup": True, "optimizer.eps_form": "uncorrected"}),
    "2-ranks-importance-sampling": (2, {"objective.timesteps": "importance", "diffusion.timesteps": 4, "sample.steps": 4}),
    "1-rank-bf16": (1, {"train.precision": "bf16"}),
    "2-ranks-bf16-sharded": (2, {"train.precision": "bf16", "optimizer.shard": True}),
    "2-ranks-power-averages": (2, {"ema.power_sigmas": [0.05, 0.1], "ema.snapshot_every": 3}),
}


def kill_when_published(command, environment, run, step, timeout=60):
    """Starts a training and kills all of it, unasked, as soon as the checkpoint of a step is there."""
    with Running(command, environment, run.with_suffix(".output")) as process:
        process.wait_until(lambda: list((run / "checkpoints").glob(f"step-{step:08}-i*[0-9]")), timeout)


def snapshots(run):
    """The tensor files of every snapshot with their contents; what a start made beyond the step of a resume is not there any more."""
    return {str(path.relative_to(run)): path.read_bytes() for path in (run / "snapshots").rglob("*.safetensors")}


def test_snapshots_are_made_again_from_the_step_of_a_resume_on(perrin, write_config):
    config, run = write_config(**{"ema.power_sigmas": [0.05, 0.1], "ema.snapshot_every": 5})
    perrin("train", config)
    before = snapshots(run)
    assert sorted({name.split("/")[1] for name in before}) == [f"step-{step:08}" for step in (5, 10, 15, 20)]
    shutil.rmtree(checkpoint(run, 20))
    for name in before:  # as another number of ranks could have left them: not what this start will make
        if "step-00000015" in name or "step-00000020" in name:
            (run / name).write_bytes(b"abandoned")
    (run / "snapshots" / "step-00000016.tmp").mkdir()
    perrin("train", config)
    assert snapshots(run) == before
    assert not list((run / "snapshots").glob("*.tmp"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_after_10_of_20_steps_ends_in_the_same_bits(perrin, mpirun, program_environment, write_config, variant):
    ranks, changes = VARIANTS[variant]
    straight_config, straight = write_config("straight", **changes)
    perrin("train", straight_config, ranks=ranks, timeout=120)

    config, run = write_config("killed", **changes)
    # It would go on for a million steps, so it dies in the middle of one; checkpoints past step 10 are what it did until the kill came.
    endless = mpirun(ranks, "train", config, "--train.steps=1000000", "--checkpoint.keep=1000")
    kill_when_published(endless, program_environment(), run, 10)
    for later in (run / "checkpoints").glob("step-*"):
        if later != checkpoint(run, 10):
            shutil.rmtree(later)
    perrin("train", config, ranks=ranks, timeout=120)

    assert inspect(perrin, checkpoint(run, 20))["sha256"] == inspect(perrin, checkpoint(straight, 20))["sha256"]
    kept = {"weights", "adam_m", "adam_v", "ema-0", "ema-1"}
    kept |= {"ema-2", "ema-3"} if "ema.power_sigmas" in changes else set()
    kept |= {"loss_history"} if "objective.timesteps" in changes else set()
    assert inspect(perrin, checkpoint(run, 20))["sha256"].keys() == kept
    assert snapshots(run) == snapshots(straight)
    assert losses(run) == losses(straight)
    assert losses(run, "heldout") == losses(straight, "heldout")
    assert [step for step, _ in losses(run)] == list(range(1, 21))


STEPS = 60


@pytest.fixture(scope="module")
def undisturbed(perrin, datasets, tmp_path_factory):
    """A run of two ranks that nothing disturbed."""
    config, run = config_of_kills(datasets, tmp_path_factory.mktemp("undisturbed"))
    perrin("train", config, ranks=2, timeout=120)
    return run


def config_of_kills(datasets, folder):
    return make_config(datasets, folder, "run", **{"train.steps": STEPS, "checkpoint.every": 7, "train.evaluate_every": 20})


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[] if seed < 3 else pytest.mark.slow) for seed in range(20)])
def test_killed_at_a_random_moment_ends_in_the_same_bits(perrin, mpirun, program_environment, datasets, tmp_path, undisturbed, seed):
    config, run = config_of_kills(datasets, tmp_path)
    moment = random.Random(seed)
    steps = moment.randrange(STEPS - 10)
    with Running(mpirun(2, "train", config), program_environment(), tmp_path / "output") as process:
        process.wait_until(lambda: (run / "metrics.jsonl").exists() and len(rows(run)) >= steps)
        time.sleep(moment.uniform(0, 0.05))
    perrin("train", config, ranks=2, timeout=120)
    assert inspect(perrin, checkpoint(run, STEPS))["sha256"] == inspect(perrin, checkpoint(undisturbed, STEPS))["sha256"]
    assert losses(run) == losses(undisturbed)
    assert losses(run, "heldout") == losses(undisturbed, "heldout")


def columns(row):
    """A row without what the clock says."""
    return {name: value for name, value in row.items() if "second" not in name}


def rows_of_training(run):
    """Without those of checkpoints, which are written whenever their threads are done."""
    return [columns(row) for kind in ("train", "heldout") for row in rows(run, kind)]


def test_losses_recorded_over_windows_survive_a_checkpoint_in_the_middle_of_one(perrin, write_config):
    changes = {"train.log_every": 4, "checkpoint.every": 10}
    straight_config, straight = write_config("straight", **changes)
    perrin("train", straight_config)
    config, run = write_config("stopped", **changes)
    perrin("train", config)
    shutil.rmtree(checkpoint(run, 20))
    perrin("train", config)
    assert rows_of_training(run) == rows_of_training(straight)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(perrin, write_config):
    config, run = write_config()
    perrin("train", config)
    undisturbed = inspect(perrin, checkpoint(run, 20))["sha256"]
    damaged = checkpoint(run, 20) / "adam_v.safetensors"
    contents = bytearray(damaged.read_bytes())
    contents[len(contents) // 2] ^= 1
    damaged.write_bytes(contents)

    outcome = perrin("train", config)
    assert "adam_v.safetensors" in outcome.stdout + outcome.stderr
    assert inspect(perrin, checkpoint(run, 20))["sha256"] == undisturbed
    assert len(list((run / "checkpoints").glob("step-00000020-i*.damaged"))) == 1


def test_a_time_budget_ends_the_run_in_order_and_the_same_command_goes_on(perrin, write_config):
    config, run = write_config(**{"train.steps": 100_000, "train.max_minutes": 0.03, "train.log_every": 10, "checkpoint.every": 1_000_000})
    first = perrin("train", config, ranks=2, check=False)
    assert first.returncode == 85, first.stderr
    reached = max(int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*"))
    assert reached > 0
    perrin("train", config, "--train.max_minutes=0", f"--train.steps={reached + 3}", ranks=2)
    assert checkpoint(run, reached + 3).is_dir()


def test_a_finished_run_has_nothing_left_to_do(perrin, write_config):
    config, run = write_config()
    perrin("train", config)
    before = (run / "metrics.jsonl").read_bytes()
    perrin("train", config)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_old_checkpoints_go_and_the_newest_stay(perrin, write_config):
    config, run = write_config(**{"checkpoint.every": 4, "checkpoint.keep": 2})
    perrin("train", config)
    assert sorted(path.name[:13] for path in (run / "checkpoints").glob("step-*")) == ["step-00000016", "step-00000020"]
