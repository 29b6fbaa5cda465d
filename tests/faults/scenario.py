"""What a scenario is, and what every one of them checks."""

import dataclasses
import re
from collections.abc import Callable

from cluster import wait_for
from training import STEPS, Training, perrin, resumed_steps


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    promise: str  # what survives
    run: Callable  # run(bed) -> a line of figures; AssertionError: not survived
    quick: bool


class CannotBeStaged(Exception):
    """This machine has no means for a scenario: neither survived nor not."""


SCENARIOS = []


def scenario(name, promise, quick=False):
    """Registers bed -> str as a scenario. Names begin with the number of the fault in docs/reliability.md."""

    def register(run):
        SCENARIOS.append(Scenario(name, promise, run, quick))
        return run

    return register


class Bed:
    """What a scenario works with: the cluster, and a folder of its own for its run and its logs."""

    def __init__(self, cluster, datasets, folder, expected):
        self.cluster = cluster
        self.datasets = datasets
        self.folder = folder
        self.expected = expected

    def training(self, name="training", **changes):
        return Training(self.folder / name, self.datasets, **changes)

    def submit(self, training, *options, script="slurm/train.sbatch", nodes=2, tasks_per_node=2, environment=None, overrides=()):
        """The job as a user submits it; options are sbatch's, overrides perrin's, the environment is the job's alone."""
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in (environment or {}).items())])
        return self.cluster.submit(training.folder / "job.log", f"--nodes={nodes}", f"--ntasks-per-node={tasks_per_node}", "--cpus-per-task=1",
                                   "--time=10", f"--export={exported}", *options, script, training.config, *overrides)

    def finish(self, training, job, seconds=150):
        """The job ends by itself, in order, with the whole run done and not one bit other than undisturbed."""
        state = job.wait_end(seconds)
        assert (state, job.exit_code) == ("COMPLETED", "0:0"), f"the job ended as {state} {job.exit_code}: {last_lines(job.log())}"
        self.check(training)

    def check(self, training):
        """The run is complete and equal to the undisturbed one, and nothing is left behind."""
        self.cluster.idle()
        assert training.completed() == f"step {training.steps}", f"COMPLETED says {training.completed()}"
        self.check_steps(training)
        assert training.rows("heldout")[-1] == self.expected(training.steps)["heldout"][-1], "the held-out loss differs from the undisturbed run"

    def check_steps(self, training):
        """All steps, finished or stopped in order behind the last, are those of the undisturbed run."""
        result, expected = training.result(), self.expected(training.steps)
        for part in ("sha256", "train"):
            assert result[part] == expected[part], f"{part} differs from the undisturbed run: {difference(result[part], expected[part])}"
        assert not list(training.run.glob("checkpoints/*.tmp*")), "a half-written checkpoint was left"


def difference(found, expected):
    if isinstance(found, dict):
        return ", ".join(name for name in expected if found.get(name) != expected[name])
    if len(found) != len(expected):
        return f"{len(found)} rows instead of {len(expected)}"
    return next(f"{a} instead of {b}" for a, b in zip(found, expected) if a != b)


def last_lines(text, count=4):
    return " | ".join(text.strip().splitlines()[-count:])


def resumed(job, at_step, training, starts=1, warned=False):
    """Checks that the run went on from a checkpoint, `starts` times, without losing more than it may; gives the figures as text.

    @param at_step  the last step seen before the fault
    @param warned   the ranks were told to stop: they lose nothing
    """
    steps = resumed_steps(job.log())
    assert len(steps) == starts, f"{len(steps)} resumes instead of {starts}: {steps}"
    if not steps:
        return "never resumed"
    lost = at_step - steps[0]
    assert lost <= (0 if warned else training.every), f"went on from step {steps[0]}, though {at_step} was done"
    return f"resumed at {', '.join(map(str, steps))}; lost {max(lost, 0)}"


def undisturbed(folder, datasets):
    """expected(steps): the result of the same training on one rank, without Slurm, made once for each number of steps."""
    results = {}

    def expected(steps=STEPS):
        if steps not in results:
            training = Training(folder / f"undisturbed-{steps}", datasets, train__steps=steps, checkpoint__every=steps)
            perrin("train", training.config, "--distributed.device=cpu", "--distributed.threads=1", "--distributed.timeout_seconds=60")
            results[steps] = training.result()
        return results[steps]

    return expected


def wait_log(job, pattern, seconds=60):
    """Waits for a line of the job's log."""
    wait_for(f"'{pattern}' in the log of job {job.number}", lambda: re.search(pattern, job.log()), seconds, 0.2)
