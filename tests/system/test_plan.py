"""perrin plan: the table of a prediction, from a step that is given or measured."""

import json

import pytest

GIVEN = ("--image", "3x32x32", "--step-time", 13.75, "--optimizer-time", 0.45, "--step-images", 128)


def rows(outcome):
    return [json.loads(line) for line in outcome.stdout.splitlines()]


def test_a_given_step_is_scaled_to_more_nodes(perrin, source_dir):
    config = source_dir / "configs" / "ddpm-cifar10.toml"
    table = rows(perrin("plan", config, *GIVEN, "--weak", "--train.batch_size=1024", "--nodes", "1,8", "--json"))
    assert [(row["nodes"], row["communication"]) for row in table] == [
        (nodes, way) for nodes in (1, 8) for way in ("after backward", "overlapped", "sharded (ZeRO-1)")]
    for row in table:
        assert row["ranks"] == 8 * row["nodes"] and row["images_per_rank"] == 128
        assert row["images_per_second"] == pytest.approx(1024 * row["nodes"] / row["step_seconds"])
        assert 0.5 < row["efficiency"] < 1.01
    one_node, sharded = table[0], table[2]
    # One all-reduce of 35.7M gradients over NVLink: 25 us + 2 * 7/8 * 143 MB / 450 GB/s, after 13.75 ms.
    assert one_node["step_seconds"] == pytest.approx(13.75e-3 + 25e-6 + 1.75 * 4 * 35_746_307 / 450e9, rel=1e-3)
    assert sharded["memory_bytes"] < 0.8 * one_node["memory_bytes"]


def test_a_step_is_measured_where_none_is_given(perrin, source_dir):
    config = source_dir / "configs" / "quickstart.toml"
    outcome = perrin("plan", config, "--image", "1x28x28", "--step-images", 4, "--nodes", 1, "--ranks-per-node", 2, "--busbw", 2,
                     "--latency", 50, "--device", "cpu")
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("one rank, 4 images: ") and lines[0].endswith("(measured here)")
    assert len(lines) == 5 and all("16" in line for line in lines[2:])


@pytest.mark.parametrize("options, code, said", [
    ((*GIVEN, "--nodes", 64), 64, "512 ranks, more than the batch has images (128)"),
    (("--image", "3x32", "--step-time", 1), 64, "channels x height x width"),
    (("--image", "3x32x32", "--step-time", 1, "--optimizer-time", 2), 64, "a part of --step-time"),
    (("--image", "3x32x32", "--optimizer-time", 2), 64, "--step-time"),
    (("--image", "3x30x30", "--step-time", 1), 78, "ddpm-cifar10.toml"),
])
def test_what_cannot_be_planned_is_said(perrin, source_dir, options, code, said):
    outcome = perrin("plan", source_dir / "configs" / "ddpm-cifar10.toml", *options, check=False)
    assert outcome.returncode == code and said in outcome.stderr
