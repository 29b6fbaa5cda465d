"""optimizer.shard (ZeRO-1): the bits of plain training, a part of its state on each rank, checkpoints for any number of ranks."""

import collections
import re
import struct

import pytest
from small_world import checkpoint, inspect, losses, relative_distance, rows, state
from test_reproducible import CHANGES
from test_resume import kill_when_published

BUFFERS = {"weights", "adam_m", "adam_v", "ema-0", "ema-1", "ema-2"}
# Buckets of one norm block a rank, several a step; the clip acts in most steps.
FAST = {**CHANGES, "distributed.reduction": "fast", "train.micro_batch": 3, "optimizer.clip_norm": 0.5, "ema.snapshot_every": 20}
REPRODUCIBLE = {**CHANGES, "optimizer.clip_norm": 0.5}


def hashes(perrin, run):
    found = inspect(perrin, checkpoint(run, 50))["sha256"]
    assert BUFFERS <= set(found)
    return found


def snapshots(run):
    return {str(path.relative_to(run)): path.read_bytes() for path in (run / "snapshots").rglob("*.safetensors")}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_fast_reduction_gives_the_bits_of_plain_training_on_as_many_ranks(perrin, write_config, ranks):
    runs = {}
    for shard in (False, True):
        config, runs[shard] = write_config(f"shard-{shard}", **FAST, **{"optimizer.shard": shard})
        perrin("train", config, ranks=ranks, timeout=120)
    plain, sharded = runs[False], runs[True]
    assert hashes(perrin, sharded) == hashes(perrin, plain)
    assert snapshots(sharded) == snapshots(plain) and len(snapshots(plain)) == 2 * ranks
    assert losses(sharded) == losses(plain)
    assert losses(sharded, "heldout") == losses(plain, "heldout")
    norms = [row["gradient_norm"] for row in rows(sharded)]
    assert norms == [row["gradient_norm"] for row in rows(plain)]
    assert max(norms) > 0.5, "the clip never acted"
    assert (sharded / "samples" / "step-00000050.png").read_bytes() == (plain / "samples" / "step-00000050.png").read_bytes()


@pytest.fixture
def reference(perrin, write_config):
    config, run = write_config("plain", **REPRODUCIBLE)
    perrin("train", config, timeout=120)
    return hashes(perrin, run)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_reproducible_reduction_gives_the_bits_of_one_plain_rank(perrin, write_config, reference, ranks):
    config, run = write_config("sharded", **REPRODUCIBLE, **{"optimizer.shard": True})
    perrin("train", config, ranks=ranks, timeout=120)
    assert hashes(perrin, run) == reference


def test_four_sharded_ranks_then_two_plain_then_one_then_two_sharded_give_the_same_bits(perrin, mpirun, program_environment, write_config,
                                                                                        reference):
    config, run = write_config("elastic", **{**REPRODUCIBLE, "checkpoint.every": 10, "checkpoint.keep": 10})
    for ranks, shard, step in ((4, "true", 10), (2, "false", 20), (1, "true", 30)):
        kill_when_published(mpirun(ranks, "train", config, f"--optimizer.shard={shard}"), program_environment(), run, step)
    perrin("train", config, "--optimizer.shard=true", ranks=2, timeout=120)
    assert hashes(perrin, run) == reference


def gradient_bytes(run):
    """Bytes by collective that rank 1 sent as gradients and weights in its last steps, from the ring of comm/flight_recorder.hpp."""
    header, slot = 576, struct.Struct("<QQQqqqqIBBBBB7x")
    file = (run / "flight" / "rank-0001.bin").read_bytes()
    tracks = [file[header - 16 - 4 * 40 + 40 * i:][:16].rstrip(b"\0") for i in range(4)]
    kinds = ["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "barrier"]
    step = 1
    found = collections.Counter()
    for values in slot.iter_unpack(file[header:]):
        ticket, _, size, *_, track, kind, _, phase, _ = values
        if ticket and tracks[track] == b"gradients" and phase == step:
            found[kinds[kind]] += size
    return dict(found)


def test_what_is_sent_is_scattered_and_gathered_and_half_as_much_in_bf16(perrin, write_config):
    sent = {}
    for name, changes in {
        "plain": {},
        "sharded": {"optimizer.shard": True},
        "plain bf16": {"distributed.wire": "bf16"},
        "sharded bf16": {"optimizer.shard": True, "distributed.wire": "bf16"},
    }.items():
        config, run = write_config(name, **{"train.steps": 3, "distributed.bucket_mib": 4}, **changes)
        perrin("train", config, ranks=2)
        sent[name] = gradient_bytes(run)
    whole = sent["plain"]["all_reduce"]  # three steps of one buffer
    assert whole >= 3 * 4 * inspect(perrin, checkpoint(run, 3))["parameters"]
    assert sent["plain"] == {"all_reduce": whole}
    assert sent["sharded"] == {"reduce_scatter": whole, "all_gather": whole}
    assert sent["plain bf16"] == {"all_to_all": whole // 2, "all_gather": whole // 2}
    assert sent["sharded bf16"] == {"all_to_all": whole // 2, "all_gather": whole}


def test_the_memory_of_a_rank_is_said_before_the_run(perrin, write_config):
    config, _ = write_config(**{"optimizer.shard": True})

    def adam(ranks):
        report = perrin("train", config, "--dry-run", ranks=ranks).stdout
        return float(re.search(r"# memory of each rank: .*Adam ([\d.]+) MiB", report).group(1))

    assert adam(4) < 0.35 * adam(1)


@pytest.mark.parametrize("shard", [False, True])
def test_gradients_in_bf16_train_nearly_the_same_network(perrin, write_config, shard):
    found = {}
    for wire in ("fp32", "bf16"):
        config, run = write_config(wire, **{"distributed.wire": wire, "optimizer.shard": shard, "train.steps": 100})
        perrin("train", config, ranks=2, timeout=120)
        found[wire] = state(run, 100)["weights"], [loss for _, loss in losses(run)]
    distance = relative_distance(found["bf16"][0], found["fp32"][0])
    assert 0 < distance < 0.05
    assert sum(found["bf16"][1][-20:]) == pytest.approx(sum(found["fp32"][1][-20:]), rel=0.05)
    assert sum(found["bf16"][1][-20:]) < 0.7 * sum(found["bf16"][1][:20])
