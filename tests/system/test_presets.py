"""The papers' recipes in configs/: each is whole, and trains with only its widths, batch and timesteps made small."""

import re

import numpy as np
import pytest
from made_datasets import noise_images, write_dataset
from small_world import checkpoint

# Image shape, classes, parameters (published, or counted from the published network), and the small widths that keep every feature.
PRESETS = {
    "ddpm-cifar10": ((3, 32, 32), 0, 35_746_307, [32, 64, 64, 64]),
    "ddpm-256": ((3, 256, 256), 0, 113_673_219, [32, 32, 32, 32, 32, 32]),
    "iddpm-cifar10": ((3, 32, 32), 0, 52_546_438, [32, 64, 64, 64]),
    "iddpm-imagenet64": ((3, 64, 64), 0, 121_063_942, [32, 32, 64, 64]),
    "adm-imagenet64": ((3, 64, 64), 1000, 295_904_454, [64, 64, 64, 128]),
    "edm-cifar10": ((3, 32, 32), 0, 62_427_395, [32, 32, 32]),
}


# Where values decide about the mathematics; [run], [data] and [checkpoint] are the user's.
SOURCED = ("[model]", "[diffusion]", "[edm]", "[objective]", "[optimizer]", "[ema]")


@pytest.fixture(params=PRESETS)
def preset(request, source_dir, monkeypatch, tmp_path):
    """The configuration, its parameters, its small widths, and the overrides that name a dataset of its shape."""
    shape, classes, parameters, widths = PRESETS[request.param]
    for name, seed in (("train", 1), ("heldout", 2)):
        labels = np.arange(4) % classes if classes else np.full(4, -1)
        write_dataset(source_dir, monkeypatch, tmp_path / name, noise_images(4, shape, seed), labels, classes)
    overrides = [f"--data.train={tmp_path}/train", f"--data.heldout={tmp_path}/heldout", f"--run.directory={tmp_path}/run"]
    return dict(config=source_dir / "configs" / f"{request.param}.toml", parameters=parameters, widths=widths, overrides=overrides,
                run=tmp_path / "run")


def test_every_recipe_is_tested(source_dir):
    assert {path.stem for path in (source_dir / "configs").glob("*.toml")} == {*PRESETS, "quickstart"}


def test_the_recipe_is_whole(perrin, preset):
    said = perrin("train", preset["config"], "--dry-run", *preset["overrides"], timeout=60).stdout
    found = int(re.search(r"# (\d+) parameters", said).group(1))
    assert found == preset["parameters"]


def test_every_value_of_a_recipe_has_its_source(preset):
    """What decides about the mathematics carries where it is from, as do steps and batch."""
    section = None
    for line in preset["config"].read_text().splitlines():
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith("#") and section in SOURCED:
            assert "#" in line, line
        if line.startswith(("steps =", "batch_size =")) and section == "[train]":
            assert "#" in line, line


@pytest.mark.timeout(300)
def test_two_steps_of_the_small_recipe(perrin, preset):
    timesteps = [] if "edm" in preset["config"].name else ["--diffusion.timesteps=20"]
    perrin("train", preset["config"], *preset["overrides"], *timesteps, f"--model.block_out_channels={preset['widths']}",
           "--train.steps=2", "--train.batch_size=2", "--train.log_every=1", "--sample.rows=1", "--sample.columns=2", "--sample.steps=3",
           "--evaluate.batch_size=2", "--distributed.device=cpu", timeout=240)
    run = preset["run"]
    assert (checkpoint(run, 2) / "manifest.json").exists()
    rows = (run / "metrics.jsonl").read_text()
    assert rows.count('"kind":"train"') == 2 and rows.count('"kind":"heldout"') == 1
    assert '"loss":null' not in rows and '"skipped":0' in rows
    assert list((run / "samples").glob("*.png"))
