"""data.resident and data.verify: the same training by another way to the images, and what checksums are worth."""

import shutil

import h5py
import pytest
from small_world import checkpoint, inspect, losses


@pytest.mark.parametrize("ranks", [1, 2])
def test_resident_images_train_to_the_same_bits(perrin, write_config, ranks):
    found = []
    for resident in (False, True):
        config, run = write_config(f"resident-{resident}", **{"data.resident": resident, "train.steps": 10})
        perrin("train", config, ranks=ranks)
        found.append((inspect(perrin, checkpoint(run, 10))["sha256"], losses(run)))
    assert found[0] == found[1]


@pytest.fixture
def damaged(datasets, tmp_path):
    """A copy of the training dataset with one pixel of each image of its first shard changed."""
    folder = tmp_path / "damaged"
    shutil.copytree(datasets / "train", folder)
    shard = folder / "shard-00000.h5"
    with h5py.File(shard, "r") as file:
        offset, (count, *shape) = file["images"].id.get_offset(), file["images"].shape
    contents = bytearray(shard.read_bytes())
    for image in range(count):
        contents[offset + image * shape[0] * shape[1] * shape[2]] ^= 1
    shard.write_bytes(contents)
    return folder


@pytest.mark.parametrize("resident", [False, True])
def test_a_changed_pixel_ends_the_training_unless_checksums_are_off(perrin, write_config, damaged, resident):
    changes = {"data.train": str(damaged), "data.resident": resident, "train.steps": 5}
    config, run = write_config("verified", **changes)
    refused = perrin("train", config, check=False)
    assert refused.returncode == 65 and "shard-00000.h5" in refused.stderr and "checksum" in refused.stderr
    assert not list((run / "checkpoints").glob("step-*"))

    config, run = write_config("trusting", **changes, **{"data.verify": "never"})
    perrin("train", config)
    assert checkpoint(run, 5).is_dir()
