"""1, 2 and 4 ranks with the same global batch train the same network."""

import json

import numpy as np
import pytest
from small_world import losses, relative_distance, rows, state

TOLERANCE = 1e-5  # relative L2 norm of whole vectors, fp32


@pytest.mark.parametrize("changes", [{}, {"train.micro_batch": 3}], ids=["plain", "micro-batches"])
def test_one_two_and_four_ranks_agree_after_20_steps(perrin, write_config, changes):
    reference = None
    for ranks in (1, 2, 4):
        config, run = write_config(f"ranks-{ranks}", **changes)
        perrin("train", config, ranks=ranks, timeout=120)
        found = state(run, 20), losses(run), losses(run, "heldout")
        if reference is None:
            reference = found
            assert np.linalg.norm(found[0]["weights"]) > 1
            continue
        for buffer in ("weights", "ema-0", "ema-1"):
            assert relative_distance(found[0][buffer], reference[0][buffer]) < TOLERANCE, (ranks, buffer)
        for ours, theirs in zip(found[1:], reference[1:]):
            assert [step for step, _ in ours] == [step for step, _ in theirs]
            assert relative_distance([loss for _, loss in ours], [loss for _, loss in theirs]) < TOLERANCE, ranks


def test_comparing_what_the_ranks_submit_changes_nothing_else(perrin, write_config):
    config, run = write_config("checked", **{"train.steps": 4, "distributed.check_collectives": True})
    perrin("train", config, ranks=2, timeout=120)
    config, plain = write_config("plain", **{"train.steps": 4})
    perrin("train", config, ranks=2, timeout=120)
    assert np.array_equal(state(run, 4)["weights"], state(plain, 4)["weights"])


def test_a_batch_that_the_ranks_do_not_divide_gives_the_same_network(perrin, write_config):
    found = []
    for ranks in (1, 3):
        config, run = write_config(f"uneven-{ranks}", **{"train.batch_size": 16, "train.steps": 10})
        perrin("train", config, ranks=ranks, timeout=120)
        found.append(state(run, 10)["weights"])
    assert relative_distance(found[1], found[0]) < TOLERANCE


def test_the_loss_falls(perrin, write_config):
    config, run = write_config(**{"train.steps": 200, "train.log_every": 20, "checkpoint.every": 200})
    perrin("train", config, ranks=2, timeout=120)
    recorded = [loss for _, loss in losses(run)]
    assert recorded[-1] < 0.5 * recorded[0]
    assert rows(run)[-1]["skipped"] == 0


def test_samples_do_not_depend_on_the_ranks(perrin, write_config, tmp_path):
    config, run = write_config(**{"train.steps": 2})
    perrin("train", config)
    pictures = []
    for ranks in (None, 2, 4):
        picture = tmp_path / f"{ranks}.png"
        perrin("sample", run, "--grid", "5x7", "--output", picture, ranks=ranks)
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1] == pictures[2]


def test_the_held_out_loss_does_not_depend_on_the_ranks(perrin, write_config):
    config, run = write_config(**{"train.steps": 2})
    perrin("train", config)
    found = [json.loads(perrin("evaluate", run, "--json", ranks=ranks).stdout)["loss"] for ranks in (None, 2, 4)]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-6)
