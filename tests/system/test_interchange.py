"""Models leave perrin and come back: folders of diffusers, single files, runs that begin with them, and pictures from any of them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from small_world import buffers, checkpoint, make_config

MODELS = {
    "plain": {},
    "classes": {"model.num_classes": 4, "model.label_dropout": 0.2, "model.dropout": 0.0},
    "learned": {"diffusion.variance_type": "learned_range", "objective.loss": "hybrid"},
}


@pytest.fixture(scope="module", params=MODELS)
def trained(request, datasets, perrin, tmp_path_factory):
    """A run of three steps, and its name."""
    config, run = make_config(datasets, tmp_path_factory.mktemp("trained"), "run", **{"train.steps": 3, **MODELS[request.param]})
    perrin("train", config)
    return request.param, run


@pytest.fixture(scope="module")
def run(datasets, perrin, tmp_path_factory):
    config, run = make_config(datasets, tmp_path_factory.mktemp("run"), "run", **{"train.steps": 3})
    perrin("train", config)
    return run


def weights_of(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        np.testing.assert_array_equal(tensor, other[name], err_msg=name)


def pixels(path):
    return np.asarray(Image.open(path))


def snippet_of(folder):
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL).group(1)


def test_the_model_cards_five_lines_run_as_they_are(perrin, trained, tmp_path):
    _, run = trained
    perrin("export", run, "--output", tmp_path / "export")
    snippet = snippet_of(tmp_path / "export")
    assert len(snippet.splitlines()) == 5
    outcome = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path / "export", capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    assert Image.open(tmp_path / "export" / "sample.png").size == (8, 8)


def test_the_model_card_says_the_runs_facts_and_none_of_the_machine(perrin, run, tmp_path):
    perrin("export", run, "--output", tmp_path / "export", "--weights", "ema-1")
    card, facts = (tmp_path / "export" / "README.md").read_text(), json.loads(perrin("inspect", run, "--json").stdout)
    for fact in ("EMA 0.99, fp32", "| Steps of training | 3 |", facts["dataset_fingerprint"], str(facts["parameters"]), "lr = 0.002", "# license:"):
        assert fact in card
    assert str(run) not in card and "datasets0" not in card


def test_export_import_export_keeps_every_bit(perrin, trained, tmp_path):
    """By way of a folder, and by way of a single file."""
    _, run = trained
    perrin("export", run, "--output", tmp_path / "first")
    perrin("import", tmp_path / "first", "--output", tmp_path / "again")
    perrin("export", tmp_path / "again", "--output", tmp_path / "second")
    perrin("export", run, "--single-file", tmp_path / "model.safetensors")
    perrin("import", tmp_path / "model.safetensors", "--output", tmp_path / "third-run")
    perrin("export", tmp_path / "third-run", "--output", tmp_path / "third")
    for other in ("second", "third"):
        assert_same_tensors(weights_of(tmp_path / "first"), weights_of(tmp_path / other))
        for file in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
            ours, theirs = (json.loads((tmp_path / folder / file).read_text()) for folder in ("first", other))
            if other == "second":
                ours.pop("attention_head_dim", None), theirs.pop("attention_head_dim", None)  # a count of heads is a width here
            assert ours == theirs
    assert_same_tensors(buffers(checkpoint(run, 3))["ema-0"], buffers(checkpoint(tmp_path / "again", 0))["weights"])


@pytest.mark.parametrize("name, dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_precision_rounds_the_weights_once(perrin, run, tmp_path, name, dtype):
    perrin("export", run, "--output", tmp_path / "half", "--dtype", name)
    perrin("export", tmp_path / "half", "--output", tmp_path / "again", "--dtype", name)
    ema = buffers(checkpoint(run, 3))["ema-0"]
    for folder in ("half", "again"):
        with safe_open(tmp_path / folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
            for key, tensor in ema.items():
                assert file.get_tensor(key).equal(torch.from_numpy(tensor).to(dtype)), key


def test_every_form_of_a_model_draws_the_same_pictures(perrin, trained, tmp_path):
    name, run = trained
    perrin("export", run, "--output", tmp_path / "folder")
    perrin("export", run, "--single-file", tmp_path / "model.safetensors")
    perrin("import", tmp_path / "folder", "--output", tmp_path / "imported")
    guided = ["--class", "3", "--guidance", "2"] if name == "classes" else []
    for i, source in enumerate((run, tmp_path / "folder", tmp_path / "model.safetensors", tmp_path / "imported")):
        perrin("sample", source, "--grid", "2x2", "--steps", "4", "--sampler", "ddim", *guided, "--output", tmp_path / f"{i}.png")
    for i in (1, 2, 3):
        np.testing.assert_array_equal(pixels(tmp_path / "0.png"), pixels(tmp_path / f"{i}.png"))


def test_a_run_begins_with_an_imported_model_and_trains_it_on(perrin, run, datasets, tmp_path):
    perrin("export", run, "--output", tmp_path / "export")
    perrin("import", tmp_path / "export", "--output", tmp_path / "on", f"--data.train={datasets / 'other'}", "--train.steps=2",
           "--train.batch_size=16", "--optimizer.lr=1e-4", "--distributed.threads=1")
    begun = buffers(checkpoint(tmp_path / "on", 0))
    assert not any(moments.any() for moments in begun["adam_m"].values())
    assert_same_tensors(begun["weights"], begun["ema-0"])
    perrin("train", tmp_path / "on" / "config.toml")
    ended = buffers(checkpoint(tmp_path / "on", 2))
    moved = max(np.abs(ended["weights"][name] - begun["weights"][name]).max() for name in begun["weights"])
    assert 0 < moved < 1e-3


def test_an_imported_model_is_measured_like_its_run(perrin, run, datasets, tmp_path):
    perrin("export", run, "--output", tmp_path / "export")
    arguments = ["--heldout", datasets / "heldout", "--images", "64", "--json"]
    losses = [json.loads(perrin("evaluate", source, *arguments).stdout)["loss"] for source in (run, tmp_path / "export")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("arguments, said", [
    (["export", "RUN", "--output", "HERE"], "exists already; nothing was overwritten"),
    (["export", "RUN", "--single-file", "FILE"], "exists already; nothing was overwritten"),
    (["export", "RUN"], "--single-file"),
    (["export", "RUN", "--output", "a", "--single-file", "b"], "name one of them"),
    (["export", "RUN", "--output", "a", "--dtype", "fp8"], "--dtype"),
    (["import", "RUN", "--output", "HERE"], "exists already; nothing was overwritten"),
    (["import", "RUN", "--output", "a", "--data.train=nowhere"], "nowhere"),
    (["sample", "FILE", "--output", "a.png"], "perrin export --single-file"),
    (["sample", "RUN", "--output", "HERE"], "not empty"),
    (["sample", "RUN", "--output", "a.png", "--class", "3"], "the model has none"),
])
def test_what_cannot_be_done_says_what_to_do(perrin, run, tmp_path, arguments, said):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "kept").write_text("kept")
    tensors = tmp_path / "tensors.safetensors"
    tensors.write_bytes((checkpoint(run, 3) / "weights.safetensors").read_bytes())
    places = {"RUN": run, "HERE": tmp_path / "here", "FILE": tensors}
    outcome = perrin(*[places.get(argument, argument) for argument in arguments], check=False, cwd=tmp_path)
    assert outcome.returncode in (64, 65, 78) and said in outcome.stderr, outcome.stderr
    assert (tmp_path / "here" / "kept").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "tensors.safetensors"]


@pytest.mark.parametrize("label", ["4", "0,7", "-1"])
def test_a_class_that_the_model_does_not_know_is_refused(perrin, trained, tmp_path, label):
    name, run = trained
    outcome = perrin("sample", run, f"--class={label}", "--output", tmp_path / "a.png", check=False)
    assert outcome.returncode == 78 and "sample.classes" in outcome.stderr, outcome.stderr
    if name == "classes" and label != "-1":
        assert "the classes are 0 to 3" in outcome.stderr
    assert not (tmp_path / "a.png").exists()


def test_weights_are_chosen_among_those_of_a_run_only(perrin, run, tmp_path):
    perrin("export", run, "--output", tmp_path / "export")
    outcome = perrin("sample", tmp_path / "export", "--weights", "raw", "--output", tmp_path / "a.png", check=False)
    assert outcome.returncode == 64 and "one set of weights" in outcome.stderr


# --- Pictures ------------------------------------------------------------------------------------------------------------------


def images_of(grid, rows, columns):
    """[rows * columns, 8, 8] of a grid with two pixels between."""
    return np.stack([grid[2 + 10 * (i // columns):10 + 10 * (i // columns), 2 + 10 * (i % columns):10 + 10 * (i % columns)]
                     for i in range(rows * columns)])


@pytest.fixture(scope="module")
def drawn(perrin, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    perrin("sample", run, "--grid", "3x4", "--steps", "5", "--progression", "--output", folder / "grid.png")
    return images_of(pixels(folder / "grid.png"), 3, 4), folder


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "dpm++2m", "heun"])
def test_image_i_is_the_same_bits_on_any_number_of_ranks_and_in_any_batch(perrin, run, tmp_path, sampler):
    def draw(name, *options, **how):
        perrin("sample", run, "--grid", "3x7", "--steps", "5", "--sampler", sampler, "--threads", 1, "--output", tmp_path / name, *options, **how)
        return pixels(tmp_path / name)

    expected = draw("expected.png")
    for ranks, batch in ((None, 1), (2, 3), (3, 8), (4, 64)):
        np.testing.assert_array_equal(draw(f"{batch}.png", f"--sample.batch_size={batch}", ranks=ranks), expected, err_msg=f"batches of {batch}")


def test_threads_draw_tiles_of_their_own_and_the_same_images(perrin, run, tmp_path):
    def draw(threads, batch):
        perrin("sample", run, "--grid", "3x7", "--steps", "5", "--progression", "--threads", threads, f"--sample.batch_size={batch}", "--output",
               tmp_path / f"{threads}-{batch}.png")
        return [pixels(tmp_path / f"{threads}-{batch}{suffix}") for suffix in (".png", "-progression.png")]

    expected = draw(1, 64)
    for threads, batch in ((2, 64), (3, 64), (2, 16), (2, 1)):
        for found, wanted in zip(draw(threads, batch), expected, strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=f"{threads} threads, batches of {batch}")


def test_guided_images_and_how_they_came_to_be_are_the_same_bits_in_any_batch(perrin, trained, tmp_path):
    name, run = trained
    options = ["--class", "3,1", "--guidance", "2"] if name == "classes" else []
    for batch in (16, 3):
        perrin("sample", run, "--grid", "2x5", "--steps", "4", "--progression", *options, f"--sample.batch_size={batch}", "--threads", 1,
               "--output", tmp_path / f"{batch}.png")
    for suffix in (".png", "-progression.png"):
        np.testing.assert_array_equal(pixels(tmp_path / f"16{suffix}"), pixels(tmp_path / f"3{suffix}"))


def test_an_image_is_the_same_in_a_grid_of_any_size(perrin, run, drawn, tmp_path):
    perrin("sample", run, "--grid", "1x3", "--steps", "5", "--output", tmp_path / "few.png")
    np.testing.assert_array_equal(images_of(pixels(tmp_path / "few.png"), 1, 3), drawn[0][:3])


def test_a_folder_of_pictures_holds_those_of_the_grid(perrin, run, drawn, tmp_path):
    perrin("sample", run, "--grid", "3x4", "--steps", "5", "--output", tmp_path / "many")
    names = [path.name for path in sorted((tmp_path / "many").iterdir())]
    assert names == [f"{i:06}.png" for i in range(12)]
    np.testing.assert_array_equal(np.stack([pixels(tmp_path / "many" / name) for name in names]), drawn[0])


def test_a_progression_ends_with_the_images_of_the_grid(drawn):
    strip = images_of(pixels(drawn[1] / "grid-progression.png"), 8, 10).reshape(8, 10, 8, 8)
    np.testing.assert_array_equal(strip[:, -1], drawn[0][:8])
    assert (strip[:, 0] != strip[:, -1]).any(), "nothing came to be"
