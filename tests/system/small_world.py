"""A small world for tests of the whole program: a few hundred images of 8x8 and a network that trains in a second."""

import gzip
import json
import pathlib
import re
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file


def write_idx(path, array):
    """An IDX file as of the MNIST family, compressed."""
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def blobs(count, seed):
    """[count, 8, 8] uint8: one soft blob an image, the label says in which quarter."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    y, x = np.mgrid[0:8, 0:8]
    centre_y, centre_x = 2 + 4 * (labels // 2), 2 + 4 * (labels % 2)
    distance = (y - centre_y[:, None, None]) ** 2 + (x - centre_x[:, None, None]) ** 2
    images = 255 * np.exp(-distance / 4) + random.normal(0, 8, (count, 8, 8))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8), labels.astype(np.uint8)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory, perrin):
    """A folder with the datasets train (300 images, 3 shards), heldout (64) and other (300 other images)."""
    root = tmp_path_factory.mktemp("datasets")
    for name, count, seed in (("train", 300, 1), ("heldout", 64, 2), ("other", 300, 3)):
        images, labels = blobs(count, seed)
        write_idx(root / f"{name}-images.gz", images)
        write_idx(root / f"{name}-labels.gz", labels)
        perrin("prepare", "--images", root / f"{name}-images.gz", "--labels", root / f"{name}-labels.gz", "--output", root / name,
               "--shard-images", 128)
    return root


def make_config(datasets, folder, name, **changes):
    """A configuration of `name` in a folder, whose run goes there too; changes by key. @return its path, that of the run folder"""
    values = {
        "run.directory": str(folder / name),
        "run.seed": 7,
        "data.train": str(datasets / "train"),
        "data.heldout": str(datasets / "heldout"),
        "data.horizontal_flip": True,
        "model.block_out_channels": [8, 16],
        "model.layers_per_block": 1,
        "model.attention_resolutions": [4],
        "model.norm_num_groups": 4,
        "model.dropout": 0.1,
        "diffusion.timesteps": 100,
        "train.steps": 20,
        "train.batch_size": 16,
        "train.log_every": 1,
        "optimizer.lr": 2e-3,
        "optimizer.warmup_steps": 5,
        "ema.decays": [0.9, 0.99],
        "checkpoint.every": 10,
        "evaluate.images": 64,
        "sample.rows": 2,
        "sample.columns": 2,
        "sample.steps": 5,
        "distributed.device": "cpu",
        "distributed.threads": 1,
        "distributed.bucket_mib": 0.01,
        "distributed.timeout_seconds": 60,
    }
    values.update(changes)
    sections = {}
    for key, value in values.items():
        section, leaf = key.split(".")
        sections.setdefault(section, []).append(f"{leaf} = {json.dumps(value)}")
    text = "\n\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items())
    path = folder / f"{name}.toml"
    path.write_text(text + "\n")
    return path, pathlib.Path(values["run.directory"])


@pytest.fixture
def write_config(datasets, tmp_path):
    """write_config(name="run", **{"train.steps": 20, ...}) -> (path of the configuration, path of its run folder)."""

    def write(name="run", **changes):
        return make_config(datasets, tmp_path, name, **changes)

    return write


def checkpoint(run, step):
    """The folder of a step's checkpoint, of the newest incarnation that made one."""
    found = sorted((run / "checkpoints").glob(f"step-{step:08}-i[0-9]*[0-9]"))
    assert found, f"no checkpoint of step {step} in {run}: {sorted(path.name for path in (run / 'checkpoints').iterdir())}"
    return found[-1]


def buffers(folder):
    """{"weights": {parameter: array}, ...} of a checkpoint, whatever number of ranks wrote it."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        name = re.sub(r"-\d{5}-of-\d{5}$", "", file.stem)
        found.setdefault(name, {}).update(load_file(file))
    return found


def inspect(perrin, path):
    return json.loads(perrin("inspect", path, "--json").stdout)


def state(run, step):
    """Every buffer of a checkpoint as one vector each: {"weights": [n], "ema-0": [n], ...}."""
    return {name: np.concatenate([tensors[parameter].ravel().astype(np.float64) for parameter in sorted(tensors)])
            for name, tensors in buffers(checkpoint(run, step)).items()}


def rows(run, kind="train"):
    """The rows of metrics.jsonl of one kind."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    every = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half there while a run writes it
    return [row for row in every if row["kind"] == kind]


def losses(run, kind="train"):
    return [(row["step"], row["loss"]) for row in rows(run, kind)]


def relative_distance(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(b)
