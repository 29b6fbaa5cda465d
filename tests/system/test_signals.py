"""A run that is asked to stop leaves a whole checkpoint in time, and goes on from there as if nothing had been."""

import json
import signal
import time

import pytest
from running import Running
from small_world import inspect, losses

IN_TIME = 10  # seconds from the signal to the end
UNFINISHED = 85
SUPERSEDED = 76
ENDLESS = {"train.steps": 1_000_000, "checkpoint.every": 1_000_000, "optimizer.warmup_steps": 5}


def names(run):
    """Of everything in the folder of the checkpoints that is named like one, finished or not."""
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def whole_checkpoints(perrin, run):
    """Every folder there, each verified by perrin, newest last; none is left half."""
    assert not [name for name in names(run) if name.endswith(".tmp")], names(run)
    return [inspect(perrin, run / "checkpoints" / name) for name in names(run)]


def trained(run, steps):
    return lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= steps


@pytest.fixture
def start(mpirun, program_environment, perrin_binary, tmp_path):
    """start(config, ranks=2) -> Running; ranks=None starts the program without mpirun."""

    def begin(config, ranks=2):
        command = mpirun(ranks, "train", config) if ranks else [perrin_binary, "train", config]
        return Running(command, program_environment(), tmp_path / "output")

    return begin


def stop_in_time(process, *signals, pid=None):
    """Sends the signals, a moment apart. @return exit status"""
    asked = time.monotonic()
    for number in signals:
        process.send(number, pid)
        time.sleep(0.05)
    status = process.end(timeout=60)
    took = time.monotonic() - asked
    assert took < IN_TIME, f"{took:.1f} s from the signal to the end"
    return status


@pytest.mark.parametrize("to", ["mpirun", "rank 0", "rank 1", "mpirun twice"])
def test_sigusr1_ends_the_run_in_order_and_it_goes_on_to_the_same_bits(perrin, start, write_config, to):
    config, run = write_config("stopped", **ENDLESS)
    with start(config) as process:
        process.wait_until(trained(run, 3))
        pid = process.ranks()[int(to[-1])] if to.startswith("rank") else None
        assert stop_in_time(process, *[signal.SIGUSR1] * (2 if "twice" in to else 1), pid=pid) == UNFINISHED
    stored = whole_checkpoints(perrin, run)
    assert len(stored) == 1 and not (run / "COMPLETED").exists()
    steps = f"--train.steps={stored[-1]['step'] + 3}"
    perrin("train", config, steps, ranks=2)
    straight_config, straight = write_config("straight", **ENDLESS)
    perrin("train", straight_config, steps, ranks=2, timeout=120)
    assert inspect(perrin, run)["sha256"] == inspect(perrin, straight)["sha256"]
    assert losses(run) == losses(straight)


BUSY_WITH = {
    "checkpoints": {"checkpoint.every": 1},
    "evaluation": {"train.evaluate_every": 1, "evaluate.batch_size": 1},
    "sampling": {"train.sample_every": 1, "sample.sampler": "ancestral", "sample.steps": 100, "sample.rows": 16, "sample.columns": 16},
}


@pytest.mark.parametrize("work", BUSY_WITH)
def test_sigusr1_in_the_midst_of_other_work(perrin, start, write_config, work):
    config, run = write_config(**{**ENDLESS, **BUSY_WITH[work]})
    with start(config) as process:
        process.wait_until(trained(run, 1))
        time.sleep(0.3)
        assert stop_in_time(process, signal.SIGUSR1) == UNFINISHED
    reached = whole_checkpoints(perrin, run)[-1]["step"]
    perrin("train", config, f"--train.steps={reached + 1}", "--train.sample_every=0", "--sample.rows=1", "--sample.columns=1", ranks=2)
    assert inspect(perrin, run)["step"] == reached + 1


@pytest.mark.parametrize("every", [1, 1_000_000])
def test_sigterm_to_mpirun_leaves_no_half_checkpoint(perrin, start, write_config, every):
    """mpirun kills its ranks 2 s after it is told to end; a checkpoint is begun only where those before were quicker."""
    config, run = write_config(**{**ENDLESS, "checkpoint.every": every})
    with start(config) as process:
        process.wait_until(trained(run, 5))
        assert stop_in_time(process, signal.SIGTERM) != 0
    for name in names(run):
        if not name.endswith(".tmp"):
            inspect(perrin, run / "checkpoints" / name)
    reached = max((int(name[5:13]) for name in names(run) if not name.endswith(".tmp")), default=0)
    assert (reached > 0) == (every == 1)
    perrin("train", config, f"--train.steps={reached + 2}", ranks=2)
    assert inspect(perrin, run)["step"] == reached + 2
    assert not [name for name in names(run) if name.endswith(".tmp")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_process_without_a_launcher_has_time_for_an_orderly_end(perrin, start, write_config, number):
    config, run = write_config(**ENDLESS)
    with start(config, ranks=None) as process:
        process.wait_until(trained(run, 3))
        assert stop_in_time(process, number) == UNFINISHED
    assert len(whole_checkpoints(perrin, run)) == 1


def test_a_second_interrupt_ends_a_process_at_once(start, write_config):
    config, run = write_config(**{**ENDLESS, "train.batch_size": 30_000})  # a step of many seconds
    with start(config, ranks=None) as process:
        process.wait_until((run / "incarnation.json").exists)
        time.sleep(0.5)
        process.send(signal.SIGINT)
        time.sleep(0.5)
        assert process.process.poll() is None, "the first one was not to end it in the middle of a step"
        process.send(signal.SIGINT)
        assert process.end(timeout=5) == -signal.SIGINT
    assert not names(run)


def test_the_mark_of_a_finished_run_comes_and_goes(perrin, start, write_config):
    config, run = write_config(**{"train.steps": 4})
    perrin("train", config)
    assert (run / "COMPLETED").read_text() == "step 4\n"
    before = (run / "metrics.jsonl").read_bytes()
    (run / "COMPLETED").unlink()  # as if the start had been killed just before it
    perrin("train", config)
    assert (run / "COMPLETED").read_text() == "step 4\n"
    assert (run / "metrics.jsonl").read_bytes() == before

    config, run = write_config(**ENDLESS)  # more steps are asked for
    with start(config) as process:
        process.wait_until(lambda: not (run / "COMPLETED").exists())
        process.wait_until(lambda: losses(run)[-1:] and losses(run)[-1][0] > 6)
        assert stop_in_time(process, signal.SIGUSR1) == UNFINISHED
    assert not (run / "COMPLETED").exists()


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_start_that_another_one_has_replaced_publishes_nothing(start, write_config, ranks):
    config, run = write_config(**ENDLESS)
    with start(config, ranks) as process:
        process.wait_until(trained(run, 3))
        incarnation = json.loads((run / "incarnation.json").read_text())
        incarnation["nonce"] += 1  # the same number: two starts that saw the same file on both sides of a broken link
        (run / "incarnation.json").write_text(json.dumps(incarnation))
        assert stop_in_time(process, signal.SIGUSR1) == SUPERSEDED
        assert "another start trains this run" in process.said()
    assert not [name for name in names(run) if not name.endswith(".tmp")]
