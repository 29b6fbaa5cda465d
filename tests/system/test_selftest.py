"""perrin selftest: a verdict for each check, and a last line that counts them."""

import re

import pytest


@pytest.mark.parametrize("ranks, backend", [(None, "local"), (2, "mpi"), (3, "mpi")])
def test_a_sound_machine_passes(perrin, tmp_path, ranks, backend):
    lines = perrin("selftest", "--device", "cpu", "--directory", tmp_path / "runs", ranks=ranks).stdout.splitlines()
    assert lines[0].startswith(f"{ranks or 1} rank")
    verdicts = [re.split(r"  +", line) for line in lines[1:-1]]
    assert [name for name, verdict in verdicts if verdict != "ok"] == [f"{backend} operations in the order of streams"]
    for collective in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast"):
        for element in ("float32", "bfloat16", "float64", "int64", "uint8"):
            assert [f"{backend} {collective} of {element}", "ok"] in verdicts
    assert lines[-1] == f"{len(verdicts) - 1} passed, 0 failed, 1 skipped"


def test_ranks_that_would_not_come_are_said(perrin):
    outcome = perrin("selftest", "--device", "cpu", check=False, env={"SLURM_NTASKS": "4"})
    assert outcome.returncode == 75 and "SLURM_NTASKS" in outcome.stderr
