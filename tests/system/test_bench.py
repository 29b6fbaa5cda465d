"""perrin bench comm: a row for each collective and size, by the formulas of nccl-tests."""

import json
import subprocess
import sys

import pytest

FACTORS = {"all_reduce": lambda n: 2 * (n - 1) / n, "reduce_scatter": lambda n: (n - 1) / n, "all_gather": lambda n: (n - 1) / n,
           "all_to_all": lambda n: (n - 1) / n, "broadcast": lambda n: 1}


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_collective_is_measured_by_its_formulas(perrin, ranks):
    report = json.loads(perrin("bench", "comm", "--sizes", "4B,1000B,1.5MB", "--repeat", 3, "--device", "cpu", "--json", ranks=ranks).stdout)
    assert report["ranks"] == ranks and report["backend"] == "mpi" and len(report["results"]) == 15
    for row in report["results"]:
        assert 0 < row["seconds"] < 10
        assert row["bytes"] % (4 * ranks) == 0 and row["bytes"] <= 1_500_000
        assert row["algbw_gb_per_second"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert row["busbw_gb_per_second"] == pytest.approx(row["algbw_gb_per_second"] * FACTORS[row["collective"]](ranks))


def test_the_table_has_a_line_for_each(perrin):
    lines = perrin("bench", "comm", "--sizes", "1kB", "--repeat", 2, "--device", "cpu", ranks=2).stdout.splitlines()
    assert lines[0].startswith("2 ranks over mpi") and [line.split()[0] for line in lines[2:]] == list(FACTORS)


@pytest.mark.parametrize("options, ranks, said", [
    (["--sizes", "many"], 2, "--sizes are like 100kB,1MB"),
    (["--ops", "all_reduce,gossip"], 2, "'gossip' is no collective"),
    ([], None, "mpirun -np 2 perrin bench comm"),
])
def test_what_cannot_be_measured_is_said(perrin, options, ranks, said):
    outcome = perrin("bench", "comm", *options, ranks=ranks, check=False)
    assert outcome.returncode == 64 and said in outcome.stderr


def test_peers_are_measured_in_the_same_run(source_dir, build_dir):
    command = [sys.executable, source_dir / "bench/allreduce.py", "--build", build_dir, "--rounds", "1", "--repeat", "1", "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["size"] for row in rows] == ["0.1MB", "1MB", "10MB", "143MB"]
    peers = ["mpi"] if "skipped: gloo" in outcome.stderr else ["mpi", "gloo"]
    for row in rows:
        for peer in peers:
            assert row[f"ratio_allreduce_{row['size']}_vs_{peer}"] == pytest.approx(row[f"{peer}_ms"] / row["perrin_ms"])
            assert 0 < row["perrin_ms"] < 60_000 and 0 < row[f"{peer}_ms"] < 60_000
