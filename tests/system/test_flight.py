"""A run that ended badly says which rank it was, and what the ranks were about to do."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from small_world import checkpoint

ENDLESS = {"train.steps": 1_000_000, "checkpoint.every": 1_000_000, "train.log_every": 1_000, "distributed.timeout_seconds": 5}
COMMUNICATION, WATCHDOG = 75, 69


def descendants(pid):
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [found for child in map(int, children) for found in (child, *descendants(child))]


def rank_of(process):
    """{rank: process id} of the ranks below an mpirun, or below what started it."""
    found = {}
    for pid in descendants(process.pid):
        environment = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
        for entry in environment:
            if entry.startswith(b"OMPI_COMM_WORLD_RANK="):
                found[int(entry.split(b"=")[1])] = pid
    return found


def in_training(run):
    log = run / "logs" / "rank-0.log"
    return log.exists() and "parameters" in log.read_text()


def fly(command, environment, run, hit, ranks):
    """Starts a training, hits rank 1 at a random moment of it. @return (exit code, seconds from the hit to the end, stderr)."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not in_training(run):
            assert process.poll() is None and time.monotonic() < until, "the training did not start"
            time.sleep(0.05)
        time.sleep(0.5 + random.Random(ranks * 10 + hit).random())
        begun = time.monotonic()
        os.kill(rank_of(process)[1], hit)
        said = process.communicate(timeout=60)[1]
        return process.returncode, time.monotonic() - begun, said
    finally:
        if process.poll() is None:
            for pid in (process.pid, *descendants(process.pid)):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("hit", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_inspect_and_the_next_start_name_the_rank_and_the_operation(perrin, mpirun, program_environment, write_config, hit, ranks):
    config, run = write_config(**ENDLESS)
    code, seconds, _ = fly(mpirun(ranks, "train", config), program_environment(), run, hit, ranks)
    if hit == signal.SIGKILL:
        assert code == 137
        assert seconds < 10
    else:
        assert code in (COMMUNICATION, WATCHDOG)
        assert seconds < 5 + 10  # the deadline, and 10 s to end

    found = json.loads(perrin("inspect", run, "--json").stdout)["last_start"]
    assert found["named_ranks"] == [1], found["summary"]
    assert len(found["endings"]) == ranks
    stuck = [communicator for communicator in found["communicators"] if "differ_at" in communicator]
    assert stuck and all(communicator["phase"] == "step" for communicator in stuck), found["summary"]
    assert any(name in communicator["operation"] for communicator in stuck for name in ("all_reduce", "reduce_scatter", "all_gather"))
    assert "rank 1 (" in perrin("inspect", run).stdout

    again = perrin("train", config, "--train.steps=2", ranks=ranks).stderr
    assert "the last start of this run did not end in order: rank 1 (" in again
    assert checkpoint(run, 2).is_dir()
    assert "last_start" not in json.loads(perrin("inspect", run, "--json").stdout)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_stopped_rank_is_found_within_the_default_deadline(perrin, mpirun, program_environment, write_config, ranks):
    config, run = write_config(**{**ENDLESS, "distributed.timeout_seconds": 30})
    code, seconds, _ = fly(mpirun(ranks, "train", config), program_environment(), run, signal.SIGSTOP, ranks)
    assert code in (COMMUNICATION, WATCHDOG)
    assert 30 <= seconds < 30 + 10
    assert json.loads(perrin("inspect", run, "--json").stdout)["last_start"]["named_ranks"] == [1]


def test_the_supervisor_prints_the_merged_report(perrin_binary, mpirun, program_environment, write_config):
    """Whatever mpirun prints, this names the rank and the operation."""
    config, run = write_config(**ENDLESS)
    launcher = mpirun(2, "train", config)[:-3]
    command = [f"{perrin_binary}-supervise", "--restarts=0", *launcher, "--", str(config)]
    code, _, said = fly(command, program_environment(), run, signal.SIGKILL, 2)
    assert code == 137
    report = said[said.index("last_start"):]
    assert "rank 1 (" in report and "killed" in report and " of gradients" in report, said
    assert "in phase step" in report, said


def test_a_run_that_ends_in_order_has_nothing_to_tell(perrin, write_config):
    config, run = write_config(**{"train.steps": 2})
    for _ in range(2):
        assert "last start" not in perrin("train", config, ranks=2).stderr
    assert "last_start" not in json.loads(perrin("inspect", run, "--json").stdout)
    assert sorted(path.name for path in (run / "flight").iterdir()) == [
        "rank-0000.bin", "rank-0000.previous.bin", "rank-0001.bin", "rank-0001.previous.bin"]


def test_a_foreign_file_among_the_records_is_named(perrin, write_config):
    config, run = write_config(**{"train.steps": 2})
    perrin("train", config)
    (run / "flight" / "rank-0000.bin").write_bytes(b"not a flight record")
    found = json.loads(perrin("inspect", run, "--json").stdout)["last_start"]
    assert len(found["unreadable"]) == 1 and "rank-0000.bin: has 19 bytes" in found["unreadable"][0]
