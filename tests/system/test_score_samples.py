"""perrin evaluate --samples and perrin stats: the same scores on any number of ranks, resumed, in the files of the field."""

import fcntl
import hashlib
import json
import signal

import numpy as np
import pytest
import torch
from running import Running
from small_world import make_config

SAMPLES = 100
DRAW = ["--samples", SAMPLES, "--sample.batch_size=16", "--threads", 1]


@pytest.fixture(scope="module")
def run(perrin, datasets, tmp_path_factory):
    """A run folder with a checkpoint at step 20."""
    config, folder = make_config(datasets, tmp_path_factory.mktemp("scored"), "run")
    perrin("train", config)
    return folder


def score(perrin, run, output, *options, **how):
    return json.loads(perrin("evaluate", run, *DRAW, "--output", output, "--json", *options, **how).stdout)


@pytest.fixture(scope="module")
def scored(perrin, run, tmp_path_factory):
    """What one rank says, and where it has put its samples."""
    folder = tmp_path_factory.mktemp("one-rank")
    return score(perrin, run, folder / "scores", "--save-samples", folder / "samples.npz"), folder / "samples.npz"


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_samples_and_scores_are_the_same_on_any_number_of_ranks(perrin, run, scored, tmp_path, ranks):
    assert score(perrin, run, tmp_path / "scores", ranks=ranks) == scored[0]


@pytest.mark.parametrize("ranks, batch", [(None, 1), (2, 3), (3, 64)])
def test_samples_and_scores_are_the_same_in_any_batch(perrin, run, scored, tmp_path, ranks, batch):
    said = perrin("evaluate", run, "--samples", SAMPLES, f"--sample.batch_size={batch}", "--threads", 1, "--output", tmp_path / "scores",
                  "--json", ranks=ranks)
    assert json.loads(said.stdout) == scored[0]


def test_a_result_says_what_it_was_measured_with(scored):
    report, samples = scored
    for key in ("fashion_fid", "fashion_kid", "fashion_is", "fashion_precision", "fashion_recall", "extractor_sha256",
                "reference_fingerprint", "weights_sha256", "quantisation", "preprocessing", "sampler", "steps"):
        assert key in report
    assert report["n"] == SAMPLES and report["reference_images"] == 300 and report["weights"] == "EMA 0.9"
    assert "fid" not in report  # the built-in network's distance is no FID


def test_saved_samples_are_those_that_were_scored(perrin, run, scored, tmp_path):
    report, path = scored
    images = np.load(path)["arr_0"]
    assert images.shape == (SAMPLES, 8, 8, 1) and images.dtype == np.uint8
    assert hashlib.sha256(images.transpose(0, 3, 1, 2).tobytes()).hexdigest() == report["samples_sha256"]


def test_pictures_are_a_file_each(perrin, run, scored, tmp_path):
    from PIL import Image

    score(perrin, run, tmp_path / "scores", "--save-samples", tmp_path / "pictures")
    files = sorted((tmp_path / "pictures").iterdir())
    assert len(files) == SAMPLES
    np.testing.assert_array_equal(np.array(Image.open(files[7])), np.load(scored[1])["arr_0"][7, :, :, 0])


def test_a_killed_evaluation_goes_on_where_it_was(perrin, run, scored, mpirun, program_environment, tmp_path):
    slow = ["evaluate", run, *DRAW, "--sample.steps=100", "--output", tmp_path / "scores", "--json"]
    with Running(mpirun(2, *slow), program_environment(), tmp_path / "said") as process:
        process.wait_until(lambda: any(file.stat().st_size > 3000 for file in tmp_path.glob("scores/samples-*.part")))
        process.send(signal.SIGTERM)
        assert process.end(30) != 0
    again = perrin(*slow)
    assert "batches are done already" in again.stderr
    undisturbed = perrin(*slow[:-3], "--output", tmp_path / "other", "--json")
    assert json.loads(again.stdout) == json.loads(undisturbed.stdout)
    assert not list(tmp_path.glob("scores/*.part"))


def test_what_nobody_goes_on_with_is_removed_by_a_newer_evaluation(perrin, run, tmp_path):
    folder = tmp_path / "scores"
    folder.mkdir()
    abandoned, running, later, foreign = (folder / name for name in (
        f"samples-step-00000010-{'a' * 16}.part", f"samples-step-00000010-{'b' * 16}.part", f"samples-step-00000030-{'c' * 16}.part",
        "samples-step-1.part"))
    for file in (abandoned, running, later, foreign):
        file.write_text("of other weights")
    with open(running) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        score(perrin, run, folder)
    assert not abandoned.exists() and running.exists() and later.exists() and foreign.exists()


def test_statistics_are_numpys_of_the_extractors_features(perrin, datasets, tmp_path, scripted):
    file, sha256 = scripted
    perrin("stats", datasets / "train", "--output", tmp_path / "stats.npz", "--extractor", file, "--extractor-sha256", sha256,
           ranks=3)
    perrin("stats", datasets / "train", "--output", tmp_path / "one.npz", "--extractor", file, "--extractor-sha256", sha256,
           "--threads", 1)
    stats = np.load(tmp_path / "stats.npz")
    assert (tmp_path / "stats.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
    assert stats["mu"].shape == (4,) and stats["sigma"].shape == (4, 4) and stats["mu"].dtype == np.float64
    features = stats["features"].astype(np.float64)  # all 300: fewer than are kept at most
    np.testing.assert_allclose(stats["mu"], features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats["sigma"], np.cov(features, rowvar=False), rtol=1e-9)
    assert json.loads(bytes(stats["perrin"]))["n"] == 300


class Quarters(torch.nn.Module):
    """Features of a gray image repeated to three channels: the mean of each quarter."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3 and images.dtype == torch.uint8
        return torch.nn.functional.adaptive_avg_pool2d(images[:, :1].float(), [2, 2]).flatten(1)


class AsInception(torch.nn.Module):
    """Called as the field's Inception file is."""

    def forward(self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False):
        features = torch.nn.functional.adaptive_avg_pool2d(img[:, 1:2].float(), [2, 2]).flatten(1)
        if return_features:
            return features
        return (features / 64 if no_output_bias else features * 0).softmax(1)


def script(module, path):
    torch.jit.script(module).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    return script(Quarters(), tmp_path_factory.mktemp("extractor") / "quarters.pt")


def test_a_torchscript_file_scores_under_its_own_name_and_without_classes(perrin, run, scripted, tmp_path):
    file, sha256 = scripted
    report = score(perrin, run, tmp_path / "scores", "--extractor", file, "--extractor-sha256", sha256)
    assert report["extractor_sha256"] == sha256 and report["quarters_fid"] >= 0
    assert "quarters_is" not in report


def test_a_file_that_is_called_as_inception_gives_features_and_classes(perrin, run, scripted, tmp_path):
    file, sha256 = script(AsInception(), tmp_path / "like-inception.pt")
    report = score(perrin, run, tmp_path / "a", "--extractor", file, "--extractor-sha256", sha256)
    other = score(perrin, run, tmp_path / "b", "--extractor", scripted[0], "--extractor-sha256", scripted[1])
    assert report["like_inception_fid"] == pytest.approx(other["quarters_fid"], rel=1e-9)
    assert 1 < report["like_inception_is"] <= 4


def test_bad_input_says_what_to_do(perrin, run, datasets, scripted, tmp_path):
    file, sha256 = scripted
    with_file = ["--extractor", file, "--extractor-sha256", sha256]
    perrin("stats", datasets / "train", "--output", tmp_path / "quarters.npz", *with_file)
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "empty.npz", other=np.zeros(3))
    resized = dict(np.load(tmp_path / "quarters.npz"))
    resized["perrin"] = np.frombuffer(bytes(resized["perrin"]).replace(b"in the file", b"in a folder"), np.uint8)
    np.savez(tmp_path / "resized.npz", **resized)
    (tmp_path / "there.npz").write_text("mine")
    (tmp_path / "no.pt").write_text("no module")
    no_module = hashlib.sha256(b"no module").hexdigest()
    for code, said, options in [
        (73, "64 samples are too few", ["--samples", 64]),
        (73, "give this hash", ["--samples", 80, "--extractor", file]),
        (73, "as given", ["--samples", 80, "--extractor", file, "--extractor-sha256", "0" * 64]),
        (73, "no TorchScript", ["--samples", 80, "--extractor", tmp_path / "no.pt", "--extractor-sha256", no_module]),
        (73, "make it again", ["--samples", 80, "--reference", tmp_path / "quarters.npz"]),
        (73, "another metric", ["--samples", 80, "--reference", tmp_path / "resized.npz", *with_file]),
        (73, "does not say which extractor", ["--samples", 80, "--reference", tmp_path / "foreign.npz"]),
        (65, "no mu and sigma", ["--samples", 80, "--reference", tmp_path / "empty.npz"]),
        (64, "exists already", ["--samples", 80, "--save-samples", tmp_path / "there.npz"]),
        (64, "choose one", ["--samples", 80, "--metric", "vlb"]),
        (64, "is an option of --samples", ["--reference", tmp_path]),
        (64, "draws none yet", ["--sample.steps=3"]),
    ]:
        outcome = perrin("evaluate", run, *options, check=False)
        assert (outcome.returncode, said in outcome.stderr) == (code, True), outcome.stderr
    assert (tmp_path / "there.npz").read_text() == "mine"
    outcome = perrin("stats", datasets / "train", "--output", tmp_path / "there.npz", check=False)
    assert outcome.returncode == 64 and "exists already" in outcome.stderr
