"""What can go wrong from outside: a clear message, an exit of all ranks within 10 s, and nothing overwritten."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time

import h5py
import pytest
from made_datasets import noise_images, write_dataset
from small_world import checkpoint

RANKS = 2
DEADLINE = 10  # seconds from the start (or from the fault) until all ranks are gone


def contents(folder):
    """Every file below a folder with its SHA-256."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def refused(perrin, *arguments, ranks=RANKS, **options):
    """Runs a command that must fail in time; returns what it said."""
    begun = time.monotonic()
    outcome = perrin(*arguments, ranks=ranks, check=False, timeout=60, **options)
    seconds = time.monotonic() - begun
    said = outcome.stdout + outcome.stderr
    assert outcome.returncode != 0, said
    assert seconds < DEADLINE, f"{seconds:.1f} s: {said}"
    return said


def test_unknown_key_is_named_with_file_line_and_nearest_key(perrin, write_config):
    config, run = write_config()
    text = config.read_text()
    line = text.splitlines().index("lr = 0.002") + 1
    config.write_text(text.replace("\nlr = ", "\nlearning_rate = "))
    said = refused(perrin, "train", config)
    assert f"{config.name}:{line}" in said
    assert "optimizer.learning_rate" in said and "optimizer.lr" in said
    assert said.count("optimizer.learning_rate") == 1, "every rank repeated the message"
    assert not run.exists()


def test_missing_shard_is_named(perrin, write_config, datasets, tmp_path):
    broken = shutil.copytree(datasets / "train", tmp_path / "broken")
    (broken / "shard-00001.h5").unlink()
    config, _ = write_config(**{"data.train": str(broken)})
    assert "shard-00001.h5" in refused(perrin, "train", config)


def test_truncated_shard_is_named_with_both_sizes(perrin, write_config, datasets, tmp_path):
    broken = shutil.copytree(datasets / "train", tmp_path / "broken")
    shard = broken / "shard-00002.h5"
    size = shard.stat().st_size
    os.truncate(shard, size - 1000)
    config, _ = write_config(**{"data.train": str(broken)})
    said = refused(perrin, "train", config)
    assert "shard-00002.h5" in said
    digits = re.sub(r"(?<=\d)[,_](?=\d)", "", said)
    assert str(size) in digits and str(size - 1000) in digits


@pytest.fixture
def finished_run(perrin, write_config):
    config, run = write_config(**{"train.steps": 4, "checkpoint.every": 4})
    perrin("train", config)
    return config, run


@pytest.mark.parametrize("change", ["--model.block_out_channels=[8, 8]", "--ema.decays=[0.5]", "--run.seed=8"])
def test_a_run_of_another_kind_is_refused_and_stays_as_it_was(perrin, finished_run, change):
    config, run = finished_run
    before = contents(run / "checkpoints"), (run / "metrics.jsonl").read_bytes(), (run / "config.toml").read_bytes()
    said = refused(perrin, "train", config, change, "--train.steps=8")
    assert change.split("=")[0].removeprefix("--") in said
    assert (contents(run / "checkpoints"), (run / "metrics.jsonl").read_bytes(), (run / "config.toml").read_bytes()) == before


def test_a_checkpoint_of_another_architecture_is_refused_even_without_the_stored_configuration(perrin, finished_run):
    config, run = finished_run
    (run / "config.toml").unlink()
    before = contents(run / "checkpoints")
    said = refused(perrin, "train", config, "--model.block_out_channels=[8, 8]", "--train.steps=8")
    assert "model.block_out_channels" in said and "step-00000004" in said
    assert contents(run / "checkpoints") == before


def test_a_checkpoint_of_another_format_is_refused_and_not_taken_for_damaged(perrin, finished_run):
    config, run = finished_run
    path = checkpoint(run, 4) / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format_version": 99}
    del manifest["manifest_sha256"]
    compact = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False)
    path.write_text(json.dumps(manifest | {"manifest_sha256": hashlib.sha256(compact.encode()).hexdigest()}))
    before = contents(run)
    said = refused(perrin, "train", config, "--train.steps=8")
    assert "format version 99" in said
    assert contents(run / "checkpoints") == {name.removeprefix("checkpoints/"): sha for name, sha in before.items() if name.startswith("checkpoints/")}


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(perrin, finished_run):
    config, run = finished_run
    for path in (run / "checkpoints").rglob("weights*.safetensors"):
        os.truncate(path, path.stat().st_size - 1)
    metrics = (run / "metrics.jsonl").read_bytes()
    for _ in range(2):
        assert "damaged" in refused(perrin, "train", config, "--train.steps=8")
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_a_checkpoint_of_another_dataset_is_refused(perrin, finished_run, datasets, tmp_path):
    config, run = finished_run
    (run / "config.toml").unlink()
    said = refused(perrin, "train", config, f"--data.train={datasets / 'other'}", "--train.steps=8")
    assert "dataset" in said and "step-00000004" in said


def test_a_global_batch_smaller_than_the_ranks_is_refused(perrin, write_config):
    config, run = write_config(**{"train.batch_size": 1})
    said = refused(perrin, "train", config)
    assert "train.batch_size" in said
    assert not (run / "metrics.jsonl").exists()


def test_a_second_start_of_a_living_run_is_refused(perrin, mpirun, program_environment, write_config):
    config, run = write_config(**{"train.steps": 1_000_000, "checkpoint.every": 5})
    process = subprocess.Popen(mpirun(RANKS, "train", config), env=program_environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not any((run / "checkpoints").glob("step-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        said = refused(perrin, "train", config)
        assert str(run) in said and "process" in said
        assert process.poll() is None, "the first start did not survive the second"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"])
def test_one_rank_in_an_allocation_of_several_is_refused(perrin, write_config, variable):
    config, run = write_config()
    said = refused(perrin, "train", config, ranks=None, env={variable: "4"})
    assert variable in said and "mpirun" in said
    assert not run.exists()


def test_a_run_folder_that_cannot_be_made_is_refused(perrin, write_config):
    config, _ = write_config(**{"run.directory": "/proc/perrin-run"})
    assert "/proc/perrin-run" in refused(perrin, "train", config)


def test_a_missing_dataset_is_refused_with_the_command_that_makes_one(perrin, write_config, tmp_path):
    config, _ = write_config(**{"data.train": str(tmp_path / "nowhere")})
    said = refused(perrin, "train", config)
    assert "nowhere" in said and "perrin prepare" in said


def test_one_rank_that_throws_in_the_middle_of_a_step_takes_all_along(perrin, mpirun, program_environment, write_config, datasets, tmp_path):
    """Pixels that flip on the disk under a running training: the rank that reads it throws, the other waits for it in a collective."""
    broken = shutil.copytree(datasets / "train", tmp_path / "broken")
    config, run = write_config(**{"data.train": str(broken), "train.steps": 1_000_000, "checkpoint.every": 5})
    process = subprocess.Popen(mpirun(RANKS, "train", config), env=program_environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not any((run / "checkpoints").glob("step-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        with h5py.File(broken / "shard-00000.h5") as file:
            images, offset = file["images"].shape[0], file["images"].id.get_offset()
        every = 16 * 64  # bytes: one image in 16 of this shard, so that some step soon meets one, most often on one rank alone
        with open(broken / "shard-00000.h5", "r+b") as shard:
            shard.seek(offset)
            pixels = bytearray(shard.read(64 * images))
            pixels[::every] = bytes(pixel ^ 0xFF for pixel in pixels[::every])
            shard.seek(offset)
            shard.write(pixels)
        begun = time.monotonic()
        said, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < DEADLINE, said
        left_behind = subprocess.run(["pgrep", "-f", str(config)], capture_output=True).returncode
    finally:
        subprocess.run(["pkill", "-KILL", "-f", str(config)])
    assert process.returncode != 0
    assert "shard-00000.h5" in said and "rank" in said
    assert left_behind == 1, "a rank is left behind"


@pytest.mark.parametrize("command", [("inspect",), ("export", "--output", "export"), ("sample", "--output", "picture.png")])
def test_a_path_that_is_no_checkpoint_is_refused(perrin, tmp_path, command):
    said = refused(perrin, command[0], tmp_path / "nothing", *command[1:], ranks=None, cwd=tmp_path)
    assert "nothing" in said
    assert not (tmp_path / "export").exists() and not (tmp_path / "picture.png").exists()


def test_an_export_never_overwrites(perrin, finished_run, tmp_path):
    _, run = finished_run
    perrin("export", run, "--output", tmp_path / "export")
    before = contents(tmp_path / "export")
    said = refused(perrin, "export", run, "--output", tmp_path / "export", ranks=None)
    assert "exists" in said
    assert contents(tmp_path / "export") == before


def test_a_damaged_checkpoint_is_not_exported(perrin, finished_run, tmp_path):
    _, run = finished_run
    path = checkpoint(run, 4) / "ema-0.safetensors"
    os.truncate(path, path.stat().st_size - 4)
    said = refused(perrin, "export", run, "--output", tmp_path / "export", ranks=None)
    assert "ema-0.safetensors" in said
    assert not (tmp_path / "export").exists()


def made_dataset(tmp_path, source_dir, monkeypatch, labels):
    folder = tmp_path / "made"
    write_dataset(source_dir, monkeypatch, folder, noise_images(len(labels), (1, 8, 8)), labels, max(labels) + 1)
    return folder


@pytest.mark.parametrize("labels, said", [
    ([-1] * 16, "has no labels; prepare it with labels, or set model.num_classes = 0"),
    ([-1] + [0, 1, 2] * 5, "1 images of"),
    ([0, 1, 2, 5] * 4, "has 6 classes; set model.num_classes = 6"),
])
def test_classes_that_the_dataset_does_not_have_are_refused(perrin, write_config, source_dir, monkeypatch, tmp_path, labels, said):
    folder = made_dataset(tmp_path, source_dir, monkeypatch, labels)
    config, run = write_config(**{"data.train": str(folder), "data.heldout": "", "model.num_classes": 4})
    message = refused(perrin, "train", config)
    assert said in message and "model.num_classes" in message
    assert not run.exists()


def test_a_held_out_set_without_labels_is_refused_where_they_are_needed(perrin, write_config, source_dir, monkeypatch, tmp_path):
    config, run = write_config(**{"model.num_classes": 4, "train.steps": 1})
    perrin("train", config)
    folder = made_dataset(tmp_path, source_dir, monkeypatch, [-1] * 16)
    assert "16 images without a label" in refused(perrin, "evaluate", run, "--heldout", folder)


def test_a_learned_variance_in_as_many_channels_as_the_image_is_refused(perrin, write_config):
    config, run = write_config(**{"diffusion.variance_type": "learned_range", "objective.loss": "hybrid", "model.out_channels": 1})
    said = refused(perrin, "train", config)
    assert "model.out_channels" in said and "0 or 2" in said
    assert not run.exists()


def test_a_schedule_that_leaves_signal_is_said(perrin, write_config):
    config, _ = write_config(**{"diffusion.timesteps": 20})
    said = perrin("train", config, "--dry-run").stdout
    assert "# warning: x_T keeps 0.82 of the image's variance" in said and "zero_terminal_snr" in said
    assert "warning" not in perrin("train", config, "--dry-run", "--diffusion.beta_schedule=cosine").stdout


def test_a_schedule_that_leaves_too_little_is_refused_as_one(perrin, write_config):
    config, _ = write_config(**{"diffusion.timesteps": 10_000})
    said = refused(perrin, "train", config)
    assert "alphas_cumprod falls to" in said and "diffusion.beta_end" in said and "0.000000" not in said
