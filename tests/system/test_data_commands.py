"""What users ask of a dataset: verify, inspect with a contact sheet, bench data, and the keys of its loader."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from made_datasets import noise_images, write_dataset
from safetensors.numpy import load_file
from small_world import checkpoint, losses

ORDERS = ["random", "block", "sequential"]


@pytest.fixture
def copied(datasets, tmp_path):
    """A copy of the training dataset that a test may damage."""
    return shutil.copytree(datasets / "train", tmp_path / "copy")


def flip_byte(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ 1]))


def images_offset(shard):
    with h5py.File(shard) as file:
        return file["images"].id.get_offset()


def test_a_sound_dataset_is_verified(perrin, datasets):
    outcome = perrin("verify", datasets / "train", "--threads", 2)
    assert "300 images" in outcome.stdout and "every checksum is right" in outcome.stdout and outcome.stderr == ""


def test_every_damaged_image_and_file_is_named(perrin, copied):
    flip_byte(copied / "shard-00000.h5", images_offset(copied / "shard-00000.h5") + 64 * 5 + 3)
    flip_byte(copied / "shard-00000.h5", images_offset(copied / "shard-00000.h5") + 64 * 100)
    (copied / "shard-00001.h5").unlink()
    outcome = perrin("verify", copied, check=False)
    assert outcome.returncode == 65
    lines = outcome.stderr.splitlines()
    for file, what in [("shard-00000.h5", "image 5 fails its checksum"), ("shard-00000.h5", "image 100 fails its checksum"),
                       ("shard-00000.h5", "has the SHA-256"), ("shard-00001.h5", "No such file")]:
        assert sum(file in line and what in line for line in lines) == 1, outcome.stderr
    assert len(lines) == 4


def test_checkpoints_are_verified_too(perrin, mpirun, write_config):
    config, run = write_config(**{"train.steps": 4, "checkpoint.every": 2})
    perrin("train", config)
    outcome = perrin("verify", run)
    assert [checkpoint(run, step).name in outcome.stdout for step in (2, 4)] == [True, True]
    flip_byte(checkpoint(run, 2) / "weights.safetensors", 2000)
    outcome = perrin("verify", run, check=False)
    assert outcome.returncode == 66 and checkpoint(run, 2).name in outcome.stderr and checkpoint(run, 4).name in outcome.stdout
    assert perrin("verify", checkpoint(run, 4)).returncode == 0


def test_the_contact_sheet_shows_the_first_images(perrin, datasets, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the PNG, is not installed")
    perrin("inspect", datasets / "train", "--contact-sheet", tmp_path / "sheet.png")
    sheet = np.asarray(image.open(tmp_path / "sheet.png"))
    with h5py.File(datasets / "train/shard-00000.h5") as file:
        images = file["images"][:64, 0]
    assert sheet.shape == (82, 82)  # eight images of eight pixels, two between and around them
    for i, expected in enumerate(images):
        top, left = 2 + 10 * (i // 8), 2 + 10 * (i % 8)
        assert (sheet[top:top + 8, left:left + 8] == expected).all(), i


def test_no_contact_sheet_of_what_is_no_picture(perrin, source_dir, monkeypatch, tmp_path):
    write_dataset(source_dir, monkeypatch, tmp_path / "two", noise_images(3, (2, 4, 4)), [0, 0, 0], classes=1)
    for path, said in [(tmp_path / "two", "1 or 3 channels"), (tmp_path, "is none")]:
        outcome = perrin("inspect", path, "--contact-sheet", tmp_path / "sheet.png", check=False)
        assert outcome.returncode == 64 and said in outcome.stderr
    assert not (tmp_path / "sheet.png").exists()


def test_a_shard_alone_says_what_it_holds(perrin, datasets):
    whole = json.loads(perrin("inspect", datasets / "train", "--json").stdout)
    parts = [json.loads(perrin("inspect", datasets / f"train/shard-0000{i}.h5", "--json").stdout) for i in range(3)]
    assert [part["shard_index"] for part in parts] == [0, 1, 2]
    assert [part["images"] for part in parts] == [shard["images"] for shard in whole["shards"]] == [128, 128, 44]
    histograms = [part["class_histogram"] + [0] * (4 - len(part["class_histogram"])) for part in parts]
    assert np.sum(histograms, axis=0).tolist() == whole["class_histogram"]


def test_how_images_are_read_changes_no_loss(perrin, write_config):
    seen = []
    for name, keys in [("plain", {}), ("other", {"data.read": "pread", "data.threads": 3, "data.warm_up": True})]:
        config, run = write_config(name, **{"train.steps": 6, "checkpoint.every": 6}, **keys)
        perrin("train", config)
        seen.append(losses(run))
    assert seen[0] == seen[1]


def test_bench_data_has_a_row_for_each_order_and_number_of_threads(perrin, datasets):
    for read in ("mmap", "pread"):
        lines = perrin("bench", "data", datasets / "train", "--threads", "1,2", "--batch", 32, "--rounds", 3, "--seconds", 0.01, "--read", read,
                       "--json").stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        assert [(row["order"], row["threads"]) for row in rows] == [(order, threads) for order in ORDERS for threads in (1, 2)]
        for row in rows:
            assert row["images"] == 300 and row["image_bytes"] == 64
            for peer in ("h5dread", "memcpy"):
                assert 0 < row[f"{peer}_per_second_slowest"] <= row[f"{peer}_per_second"] <= row[f"{peer}_per_second_fastest"]
                assert row[f"ratio_{row['order']}_vs_{peer}"] == pytest.approx(row["perrin_per_second"] / row[f"{peer}_per_second"])


def test_bench_data_makes_noise_of_its_own_and_leaves_nothing(perrin, tmp_path):
    perrin("bench", "data", "--images", 500, "--rounds", 1, "--seconds", 0.01, env={"TMPDIR": tmp_path})
    assert list(tmp_path.iterdir()) == []
    perrin("bench", "data", "--make", tmp_path / "noise", "--image", "1x5x7", "--images", 300, "--rounds", 1, "--seconds", 0.01)
    found = json.loads(perrin("inspect", tmp_path / "noise", "--json").stdout)
    assert found["images"] == 300 and found["image_shape"] == [1, 5, 7]


@pytest.mark.parametrize("options, said", [
    (["--batch", "301"], "no batch of 301"),
    (["--image", "3x32x32"], "excludes"),
    (["--read", "dma"], "--read"),
])
def test_what_bench_data_cannot_measure_is_said(perrin, datasets, options, said):
    outcome = perrin("bench", "data", datasets / "train", *options, check=False)
    assert outcome.returncode == 64 and said in outcome.stderr


def test_the_dataloader_is_measured_in_the_same_run(source_dir, build_dir):
    command = [sys.executable, source_dir / "bench/data.py", "--build", build_dir, "--images", "6000", "--batch", "32", "--rounds", "1",
               "--seconds", "0.01", "--loader-seconds", "0.2", "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert {row["order"] for row in rows} == set(ORDERS)
    for row in rows:
        measured = row["order"] == "random" and "skipped: the DataLoader" not in outcome.stderr
        assert ("dataloader_per_second" in row) == measured
        if measured:
            assert row["ratio_random_vs_dataloader"] == pytest.approx(row["perrin_per_second"] / row["dataloader_per_second"])


# --- inspect what other programs read ---------------------------------------------------------------------------------


def test_an_exported_model_says_what_it_is(perrin, write_config, tmp_path):
    config, run = write_config(**{"train.steps": 2, "checkpoint.every": 2})
    perrin("train", config)
    perrin("export", run, "--output", tmp_path / "export")
    found = json.loads(perrin("inspect", tmp_path / "export", "--json").stdout)
    network = json.loads((tmp_path / "export/unet/config.json").read_text())
    scheduler = json.loads((tmp_path / "export/scheduler/scheduler_config.json").read_text())
    assert found["kind"] == "model" and found["pipeline"] == "DDPMPipeline"
    for key in ("sample_size", "in_channels", "block_out_channels", "layers_per_block"):
        assert found["unet"][key] == network[key]
    for key in ("prediction_type", "beta_schedule", "num_train_timesteps"):
        assert found["scheduler"][key] == scheduler[key]
    file = tmp_path / "export/unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    [weights] = found["weights"]
    assert weights["parameters"] == sum(tensor.size for tensor in tensors.values()) and weights["dtypes"] == ["float32"]
    assert {entry["name"]: entry["shape"] for entry in weights["tensors"]} == {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert weights["metadata"]["perrin_step"] == "2"
    alone = json.loads(perrin("inspect", file, "--json").stdout)
    assert alone["kind"] == "safetensors" and alone["sha256"] == weights["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert json.loads(perrin("inspect", tmp_path / "export/unet", "--json").stdout)["network"] == found["unet"]
    assert "conv_in.weight" in perrin("inspect", tmp_path / "export").stdout


def test_samples_in_npz_say_what_they_hold(perrin, tmp_path):
    np.savez(tmp_path / "samples.npz", noise_images(5, (4, 4, 3)), np.arange(5))
    found = json.loads(perrin("inspect", tmp_path / "samples.npz", "--json").stdout)
    assert found["kind"] == "npz" and found["arrays"] == [{"name": "arr_0", "dtype": "|u1", "shape": [5, 4, 4, 3]},
                                                          {"name": "arr_1", "dtype": "<i8", "shape": [5]}]


def test_pickles_are_not_inspected(perrin, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x80\x02}q\x00.")
    np.savez(tmp_path / "b.npz", np.array([{}], object))
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
    for name in ("a.bin", "b.npz", "c.pt"):
        outcome = perrin("inspect", tmp_path / name, check=False)
        assert outcome.returncode == 65 and "pickle" in outcome.stderr and "refused" in outcome.stderr, outcome.stderr


# --- prepare by several ranks -----------------------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def pictures(tmp_path):
    """A folder of 60 PNG files of noise."""
    image = pytest.importorskip("PIL.Image", reason="Pillow, which writes the PNG files, is not installed")
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(noise_images(60, (9, 7, 3))):
        image.fromarray(pixels).save(tmp_path / f"pictures/{i:02}.png")
    return tmp_path / "pictures"


def test_a_dataset_has_the_same_bytes_whatever_number_of_ranks_prepares_it(perrin, pictures, tmp_path):
    (tmp_path / "pictures/07.png").write_bytes(b"no image")
    options = ["--shard-images", 11, "--seed", 4, "--held-out", 9, "--on-error", "skip"]
    for ranks in (None, 1, 2, 4):
        outcome = perrin("prepare", pictures, "--output", tmp_path / f"by-{ranks}", *options, ranks=ranks)
        assert outcome.stdout.count("50 images") == 1 and outcome.stderr.count("1 of 60 images were skipped") == 1
        for part in ("train", "heldout"):
            assert contents(tmp_path / f"by-{ranks}" / part) == contents(tmp_path / "by-None" / part)
    assert len(contents(tmp_path / "by-4/train")) == 6
    again = perrin("prepare", pictures, "--output", tmp_path / "by-None", *options, ranks=2)
    assert again.stdout.count("was there already") == 2


def test_one_rank_that_fails_ends_all_with_its_error_and_publishes_nothing(perrin, pictures, tmp_path):
    stored = np.concatenate([np.full(6, i) for i in range(10)])  # which shard holds which image, in their order
    perrin("prepare", pictures, "--output", tmp_path / "whole", "--shard-images", 6)
    ids = []
    for path in sorted((tmp_path / "whole").glob("*.h5")):
        with h5py.File(path) as file:
            ids.extend(file["source_id"][:])
    on_rank_3 = next(int(i) for i, shard in zip(ids, stored) if shard % 4 == 3)
    whole = (pictures / f"{on_rank_3:02}.png").read_bytes()
    (pictures / f"{on_rank_3:02}.png").write_bytes(b"no image")
    outcome = perrin("prepare", pictures, "--output", tmp_path / "set", "--shard-images", 6, ranks=4, check=False)
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert outcome.returncode == 65 and len(errors) == 1, outcome.stderr
    assert "rank 3 (" in errors[0] and f"{on_rank_3:02}.png: is neither PNG nor JPEG" in errors[0]
    assert not (tmp_path / "set").exists() and not (tmp_path / ".set.lock").exists()

    # Put right, it is another source, of which no shard is there; the same one goes on with other ranks in C++ tests.
    (pictures / f"{on_rank_3:02}.png").write_bytes(whole)
    perrin("prepare", pictures, "--output", tmp_path / "set", "--shard-images", 6, ranks=2)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_ranks_that_cannot_all_read_the_images_say_so(perrin, tmp_path):
    outcome = perrin("prepare", tmp_path / "nowhere", "--output", tmp_path / "set", ranks=2, check=False)
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert outcome.returncode == 65 and len(errors) == 1 and "nowhere: cannot open" in errors[0]
