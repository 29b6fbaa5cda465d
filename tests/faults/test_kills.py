"""A short form of what crash_points.py and sigkills.py do at length."""

import pathlib
import re
import sys

import pytest

HERE = pathlib.Path(__file__).parent


def survived(done):
    """(survived, staged), as the last line says."""
    last = done.stdout.strip().splitlines()[-1]
    return tuple(map(int, re.match(r"survived (\d+) of (\d+)", last).groups()))


@pytest.mark.parametrize("first", [1, 20])
def test_crashes_at_some_points_of_all(run_command, build_dir, first):
    done = run_command([sys.executable, HERE / "crash_points.py", "--build", build_dir, "--first", first, "--every", 41], timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert survived(done)[1] >= 6


@pytest.mark.slow
def test_crashes_at_every_point(run_command, build_dir):
    done = run_command([sys.executable, HERE / "crash_points.py", "--build", build_dir], timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert survived(done)[1] >= 200


def test_a_dozen_kills_of_all_ranks(run_command, build_dir):
    done = run_command([sys.executable, HERE / "sigkills.py", "--build", build_dir, "--kills", 12], timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert survived(done) == (12, 12)
