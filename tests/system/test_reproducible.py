"""distributed.reduction = "reproducible": the same bits on any number of ranks, and across kills and changes of their number."""

import pytest
from small_world import checkpoint, inspect
from test_resume import kill_when_published

CHANGES = {
    "distributed.reduction": "reproducible", "distributed.shards": 4, "train.steps": 50, "checkpoint.every": 15, "train.log_every": 10,
    "model.dropout": 0.2, "ema.power_sigmas": [0.1], "train.batch_size": 18,  # shards of 4 and 5 images
}


def hashes(perrin, run):
    return inspect(perrin, checkpoint(run, 50))["sha256"]


@pytest.fixture
def reference(perrin, write_config):
    config, run = write_config("one-rank", **CHANGES)
    perrin("train", config, timeout=120)
    return hashes(perrin, run)


def test_one_two_and_four_ranks_give_the_same_bits(perrin, write_config, reference):
    for ranks in (2, 4):
        config, run = write_config(f"ranks-{ranks}", **CHANGES)
        perrin("train", config, ranks=ranks, timeout=120)
        found = hashes(perrin, run)
        assert found == reference, ranks
    assert {"weights", "adam_m", "adam_v", "ema-0", "ema-1", "ema-2"} <= set(reference)


def test_the_threads_of_a_shard_do_not_depend_on_what_else_its_rank_has(perrin, write_config):
    """Shards of 11 and 12 images are two and three parts, so the ranks of four differ in the largest that they hold."""
    found = set()
    for ranks in (1, 2, 4):
        config, run = write_config(f"threads-{ranks}", **{**CHANGES, "train.batch_size": 46, "train.steps": 5, "distributed.threads": 4})
        perrin("train", config, ranks=ranks, timeout=120)
        found.add(inspect(perrin, checkpoint(run, 5))["sha256"]["weights"])
    assert len(found) == 1


def test_four_ranks_then_two_then_one_then_four_give_the_same_bits(perrin, mpirun, program_environment, write_config, reference):
    config, run = write_config("elastic", **CHANGES)
    kill_when_published(mpirun(4, "train", config), program_environment(), run, 15)
    kill_when_published(mpirun(2, "train", config), program_environment(), run, 30)
    kill_when_published(mpirun(1, "train", config), program_environment(), run, 45)
    perrin("train", config, ranks=4, timeout=120)
    assert hashes(perrin, run) == reference


def test_fast_reduction_gives_nearly_the_same(perrin, write_config, reference):
    """And not the same: otherwise this page would show nothing."""
    config, run = write_config("fast", **{**CHANGES, "distributed.reduction": "fast"})
    perrin("train", config, ranks=2, timeout=120)
    assert hashes(perrin, run) != reference


def test_a_number_of_ranks_that_has_no_place_in_the_tree_is_refused(perrin, write_config):
    config, run = write_config(**CHANGES)
    outcome = perrin("train", config, ranks=3, check=False)
    assert outcome.returncode != 0
    assert "power of two and at most distributed.shards = 4, not 3" in outcome.stderr
    assert not run.exists()


def test_another_number_of_threads_is_said_when_a_run_goes_on(perrin, write_config):
    config, run = write_config(**{**CHANGES, "train.steps": 2})
    perrin("train", config, "--train.steps=1")
    said = perrin("train", config, "--distributed.threads=2")
    assert "made with 1 thread a rank" in said.stdout + said.stderr and "not the same bits" in said.stdout + said.stderr
