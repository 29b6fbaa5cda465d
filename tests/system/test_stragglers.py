"""A rank that is slow is named while the run goes on."""

import os
import signal
import subprocess
import threading
import time

import pytest
from small_world import rows
from test_flight import rank_of


def slow_down(pid, until):
    """Lets a process run 30 % of the time."""
    while not until.is_set():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.07)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.03)


@pytest.mark.alone
def test_a_slow_rank_is_named_once_and_when_it_recovers(mpirun, program_environment, write_config):
    config, run = write_config(**{"train.steps": 1_000_000, "train.log_every": 10, "checkpoint.every": 1_000_000, "train.batch_size": 64,
                                  "distributed.timeout_seconds": 30})
    process = subprocess.Popen(mpirun(2, "train", config), env=program_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    recovered = threading.Event()
    try:
        def wait_for(condition, what):
            until = time.monotonic() + 60
            while not condition():
                assert process.poll() is None and time.monotonic() < until, f"{what}: {log.read_text() if log.exists() else 'no log'}"
                time.sleep(0.1)

        log = run / "logs" / "rank-0.log"
        wait_for(lambda: (run / "metrics.jsonl").exists() and rows(run) and rows(run)[-1]["slow_ranks"] == [], "no even start")
        before = log.read_text().count("is slow")  # a busy machine may have been unfair
        slowing = threading.Thread(target=slow_down, args=(rank_of(process)[1], recovered))
        slowing.start()
        wait_for(lambda: log.read_text().count("is slow") > before, "the slow rank was not named")
        time.sleep(4)  # several judgements
        assert log.read_text().count("is slow") == before + 1, "it was said again though nothing had changed"
        assert rows(run)[-1]["slow_ranks"] == [1]
        waited = rows(run)[-1]["rank_wait_seconds"]
        assert waited["max"] > 2 * waited["min"], "the other rank waits for it"
        recovered.set()
        slowing.join()
        wait_for(lambda: rows(run)[-1]["slow_ranks"] == [], "its recovery was not noticed")
        assert "rank 1 (" in log.read_text() and "keeps up with the others again" in log.read_text()
        warning = [line for line in log.read_text().splitlines() if "is slow" in line][before]
        assert "rank 1 (" in warning and "of the speed of rank 0 (" in warning, warning
    finally:
        recovered.set()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
