"""Numbers that are none: losses and gradients that are not finite."""

import contextlib
import json
import re

import numpy as np
from safetensors.numpy import load_file

from cluster import wait_for
from memory import Memory
from scenario import last_lines, scenario
from training import EVERY, STEPS, VALUES, perrin

SICK = 2  # the rank, on the second node
SKIPPED = rf"step (\d+): on rank {SICK} the loss of its images is not finite \(loss nan\); weights, Adam and EMA stay"
RETURN = r"back from step (\d+) to step (\d+)"


@scenario("17-infinite-loss", "a training that diverges stops with its own exit code, is not repeated, and publishes nothing that is not finite")
def infinite_loss(bed):
    training = bed.training(optimizer__lr=1e30, optimizer__warmup_steps=0, optimizer__clip_norm=0.0, train__steps=2000)
    job = bed.submit(training)
    ended_as_diverged(bed, job)
    return f"exit 77; checkpoints at {', '.join(map(str, training.checkpoints())) or 'none'}"


def ended_as_diverged(bed, job):
    assert job.wait_end(150) == "FAILED", job.state
    bed.cluster.idle()
    assert (job.exit_code, job.restarts) == ("77:0", 0), f"exit {job.exit_code}: {last_lines(job.log())}"
    assert "; restart " not in job.log(), "it was started again, in vain"


def alphas_cumprod():
    """The table of which every step takes its noise levels: [timesteps] float64 in the memory of each rank."""
    return np.cumprod(1 - np.linspace(1e-4, VALUES["diffusion.beta_end"], VALUES["diffusion.timesteps"]))


class SickMemory:
    """NaN in that table of one rank alone: what a faulty memory or processor does to the rank's loss and gradient."""

    def __init__(self, rank):
        self._memory = Memory(rank.pid)
        self._places = {}

    def poison(self):
        table = alphas_cumprod()
        for address in self._memory.find(table):
            self._places[address] = self._memory.read(address, len(table))
            self._memory.write(address, np.full(len(table), np.nan))
        assert self._places, "the table was not found"

    def heal(self):
        for address, contents in self._places.items():
            self._memory.write(address, contents)


def skipped_steps(job):
    return [int(step) for step in re.findall(SKIPPED, job.log())]


def returns(job):
    """(from step, to step) of every return to an earlier checkpoint."""
    return [tuple(map(int, steps)) for steps in re.findall(RETURN, job.log())]


def newest(training):
    return json.loads(perrin("inspect", training.checkpoints()[max(training.checkpoints())], "--json").stdout)


def check_finite(training):
    """Every number of every checkpoint."""
    for path in training.run.glob("checkpoints/step-*/*.safetensors"):
        assert all(np.isfinite(array).all() for array in load_file(path).values()), f"{path} holds a number that is not finite"


def check_ended_right(bed, training, job, same_until):
    """The run is whole; until the fault its losses are the undisturbed run's. What came later must differ: updates were left out."""
    assert job.wait_end(200) == "COMPLETED", last_lines(job.log())
    bed.cluster.idle()
    assert (job.exit_code, job.restarts) == ("0:0", 0) and "; restart " not in job.log(), last_lines(job.log())
    assert training.completed() == f"step {STEPS}", training.completed()
    losses, expected = dict(training.rows()), dict(bed.expected(STEPS)["train"])
    assert sorted(losses) == list(range(1, STEPS + 1)), "steps without a row, or with two"
    assert all(losses[step] == expected[step] for step in range(1, same_until + 1)), "losses before the fault differ"
    assert losses[STEPS] != expected[STEPS], "nothing was left out"
    check_finite(training)
    return newest(training)


@scenario("17-nan-for-a-moment", "NaN in one rank's loss and gradient for a moment: rank named, updates skipped by all ranks alike, and on")
def nan_for_a_moment(bed):
    training = bed.training(recovery__most_skipped=1000)
    job = bed.submit(training)
    sick = SickMemory(bed.cluster.rank(SICK))
    training.reach(60)
    sick.poison()
    wait_for("word of the rank", lambda: skipped_steps(job), 60, 0.001)
    sick.heal()
    last = check_ended_right(bed, training, job, same_until=60)
    skipped = skipped_steps(job)
    assert skipped == list(range(skipped[0], skipped[-1] + 1)), f"steps {skipped} were skipped"
    assert (last["updates"], last["rollbacks"], last["position"]) == (STEPS - len(skipped), 0, STEPS * VALUES["train.batch_size"])
    assert not set(training.checkpoints()) & set(skipped), "a checkpoint was made while updates were skipped"
    return f"{len(skipped)} updates skipped from step {skipped[0]} on"


@scenario("17-nan-that-stays", "NaN in one rank's memory that stays: after ten updates skipped the run returns to its checkpoint, and ends right")
def nan_that_stays(bed):
    training = bed.training()
    job = bed.submit(training)
    sick = SickMemory(bed.cluster.rank(SICK))
    training.reach(60)
    sick.poison()
    wait_for("return", lambda: returns(job), 90, 0.05)
    (from_step, to_step), = returns(job)
    last = check_ended_right(bed, training, job, same_until=to_step)
    assert 60 <= to_step < from_step <= to_step + EVERY + 10, f"back from step {from_step} to step {to_step}"
    left_out = from_step - to_step
    assert (last["updates"], last["rollbacks"], last["position"]) == (STEPS, 1, (STEPS + left_out) * VALUES["train.batch_size"])
    return f"back from step {from_step} to step {to_step}, and {STEPS - to_step} steps on other data"


@scenario("17-nan-that-comes-back", "NaN in one rank's memory after every return: further back each time, then the run ends with its own exit code")
def nan_that_comes_back(bed):
    training = bed.training(checkpoint__every=60)  # time enough to find the table again before the next one
    job = bed.submit(training)
    rank = bed.cluster.rank(SICK)
    training.reach(180)
    while rank.lives():
        with contextlib.suppress(OSError, AssertionError):  # it has just ended, or is just returning
            SickMemory(rank).poison()
    ended_as_diverged(bed, job)
    steps = [to_step for _, to_step in returns(job)]
    assert steps == [180, 120, 60], f"returns to steps {steps}"
    check_finite(training)
    return f"returns to steps {', '.join(map(str, steps))}; exit 77"
