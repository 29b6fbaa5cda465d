"""Power-function averages through the whole program: tracked, stored, reconstructed to another width, and named."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from small_world import checkpoint, inspect, losses, relative_distance, rows, state

TWO_WIDTHS = {"ema.power_sigmas": [0.05, 0.1], "ema.snapshot_every": 1}
USAGE, CHECKPOINT, CONFIG = 64, 66, 78


def exported(perrin, run, folder, weights):
    """(tensors by name, metadata) of what `perrin export --weights` writes."""
    perrin("export", run, "--output", folder, "--weights", weights)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    with safe_open(path, framework="numpy") as file:
        return load_file(path), file.metadata()


def vector(tensors):
    return np.concatenate([tensors[name].ravel().astype(np.float64) for name in sorted(tensors)])


def test_an_export_of_another_width_is_the_average_that_another_run_tracked(perrin, write_config, tmp_path):
    config, run = write_config("stored", **TWO_WIDTHS)
    perrin("train", config)
    config, direct = write_config("direct", **{"ema.power_sigmas": [0.13]})
    perrin("train", config)
    assert inspect(perrin, run)["sha256"]["weights"] == inspect(perrin, direct)["sha256"]["weights"]

    found, metadata = exported(perrin, run, tmp_path / "posthoc", "posthoc-0.13")
    expected, other = exported(perrin, direct, tmp_path / "ema-2", "ema-2")
    assert metadata["perrin_weights"].startswith("post-hoc EMA 0.13 (residual ") and other["perrin_weights"] == "power EMA 0.13"
    assert 0 < float(metadata["perrin_profile_residual"]) < 0.01
    moved = np.linalg.norm(vector(expected) - state(run, 20)["weights"])
    assert moved > 0.005 * np.linalg.norm(vector(expected))
    assert np.linalg.norm(vector(found) - vector(expected)) < 1e-3 * moved


def test_inspect_shows_the_averages_and_the_number_of_snapshots(perrin, write_config):
    config, run = write_config(**{**TWO_WIDTHS, "ema.snapshot_every": 5})
    perrin("train", config)
    found = inspect(perrin, run)
    assert found["averages"] == {"ema-0": "EMA 0.9", "ema-1": "EMA 0.99", "ema-2": "power EMA 0.05", "ema-3": "power EMA 0.1"}
    assert found["snapshots"] == 4
    assert found["sha256"].keys() == {"weights", "adam_m", "adam_v", *found["averages"]}
    said = [line.split(maxsplit=1) for line in perrin("inspect", run).stdout.splitlines()]
    assert ["ema-3", "power EMA 0.1"] in said and ["snapshots", "4"] in said
    assert sorted(path.name for path in (run / "snapshots").iterdir()) == [f"step-{step:08}" for step in (5, 10, 15, 20)]
    assert "# snapshots: " in perrin("train", config, "--dry-run").stdout


def test_weights_that_are_not_there_are_refused_with_what_there_is(perrin, write_config, tmp_path):
    config, run = write_config(**{**TWO_WIDTHS, "ema.snapshot_every": 10})
    perrin("train", config)
    _, plain = write_config("plain", **{"train.steps": 1})
    perrin("train", tmp_path / "plain.toml")
    for source, weights, code, said in [
        (run, "emma", USAGE, "ema (the first of ema.decays), raw, ema-N"),
        (run, "posthoc-0.3", USAGE, "lies between 0 and 0.2887"),
        (run, "ema-4", CHECKPOINT, "raw, ema-0 (EMA 0.9), ema-1 (EMA 0.99), ema-2 (power EMA 0.05), ema-3 (power EMA 0.1)"),
        (run, "posthoc-0.25", CHECKPOINT, "relative residual 0."),
        (plain, "posthoc-0.1", CHECKPOINT, "ema.power_sigmas"),
    ]:
        for command in ("sample", "export", "evaluate"):
            output = [] if command == "evaluate" else ["--output", tmp_path / "output"]
            outcome = perrin(command, source, *output, "--weights", weights, check=False)
            assert outcome.returncode == code, outcome.stderr
            assert said in outcome.stderr, outcome.stderr
            assert not (tmp_path / "output").exists()
    outcome = perrin("train", tmp_path / "run.toml", "--ema.power_sigmas=[0.05]", "--train.steps=30", check=False)
    assert outcome.returncode == CONFIG and "ema.power_sigmas: was [0.05, 0.1], now [0.05]" in outcome.stderr


def test_two_ranks_track_the_averages_of_one_and_evaluate_alike(perrin, write_config):
    found = []
    for ranks in (1, 2):
        config, run = write_config(f"ranks-{ranks}", **TWO_WIDTHS)
        perrin("train", config, ranks=ranks)
        evaluated = json.loads(perrin("evaluate", run, "--weights", "posthoc-0.13", "--json", ranks=ranks).stdout)
        assert evaluated["weights"].startswith("post-hoc EMA 0.13 (residual ")
        found.append((state(run, 20), evaluated["loss"]))
    for buffer in ("ema-2", "ema-3"):
        assert relative_distance(found[1][0][buffer], found[0][0][buffer]) < 1e-5
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)


def test_nothing_that_looks_at_the_weights_changes_them(perrin, write_config, tmp_path):
    config, quiet = write_config("quiet")
    perrin("train", config)
    config, busy = write_config("busy", **TWO_WIDTHS, **{"train.evaluate_every": 1, "train.sample_every": 3, "checkpoint.every": 4})
    perrin("train", config)
    assert len(rows(busy, "heldout")) == 20 and losses(busy) == losses(quiet)
    sha256 = inspect(perrin, checkpoint(busy, 20))["sha256"]
    assert inspect(perrin, checkpoint(quiet, 20))["sha256"] == {name: sha256[name] for name in ("adam_m", "adam_v", "ema-0", "ema-1", "weights")}

    before = {path: path.read_bytes() for path in busy.rglob("*") if path.is_file()}
    for weights in ("raw", "ema", "ema-2", "posthoc-0.13"):
        perrin("sample", busy, "--weights", weights, "--output", tmp_path / f"{weights}.png")
        perrin("evaluate", busy, "--weights", weights)
        perrin("export", busy, "--weights", weights, "--output", tmp_path / weights)
    assert {path: path.read_bytes() for path in busy.rglob("*") if path.is_file()} == before
    pictures = {(tmp_path / f"{weights}.png").read_bytes() for weights in ("raw", "ema", "ema-2", "posthoc-0.13")}
    assert len(pictures) == 4, "two kinds of weights draw the same picture"
