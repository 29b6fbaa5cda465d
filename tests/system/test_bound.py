"""perrin evaluate --metric vlb: the variational bound, against the formulas of its papers and a network of diffusers."""

import json
import re
import xml.etree.ElementTree as ElementTree
import zipfile

import diffusers
import h5py
import numpy as np
import pytest
import torch
from small_world import write_idx

USAGE, DATA, RUN, CONFIG = 64, 65, 73, 78
T = 100
IMAGES = 40  # of 64: with batches of 16 the last one is short


@pytest.fixture
def trained(perrin, write_config):
    """trained(**changes): the folder of a run of a few steps."""

    def train(**changes):
        config, run = write_config(**{"train.steps": 30, "checkpoint.every": 30, "diffusion.timesteps": T, "evaluate.batch_size": 16, **changes})
        perrin("train", config)
        return run

    return train


@pytest.fixture
def evaluate(perrin):
    """evaluate(run, output, *options, ranks=None): the text printed, and every array of vlb.npz."""

    def call(run, output, *options, ranks=None):
        text = perrin("evaluate", run, "--metric", "vlb", "--images", IMAGES, "--output", output, *options, ranks=ranks).stdout
        with np.load(output / "vlb.npz", allow_pickle=False) as arrays:
            return text, {name: arrays[name] for name in arrays.files}

    return call


# --- An independent bound: Ho et al. 2020, eq. 5, 7, 8 and 13, Nichol & Dhariwal 2021, section 4, in numpy -----------


def philox(counter, rounds=10):
    """Philox4x32-10 of key 0. counter: [n, 4] uint32 as uint64."""
    c0, c1, c2, c3 = (counter[:, i].copy() for i in range(4))
    k0 = k1 = 0
    low = np.uint64(0xFFFFFFFF)
    for _ in range(rounds):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def bound_noise(image, t, count):
    """[count] standard normals: Box-Muller on the words of (purpose 9, timestep t, position image)."""
    counter = np.zeros((count // 4, 4), dtype=np.uint64)
    counter[:, 0] = np.arange(count // 4)
    counter[:, 1] = image
    counter[:, 3] = t | 9 << 24
    words = philox(counter).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log((words[:, 0] >> np.uint64(1)) * 2.0**-31 + 2.0**-32))
    angle = words[:, 1] * (2 * np.pi / 2**32)
    # The low 30 bits are signed: a quarter turn is counted from its middle.
    angle -= np.where(words[:, 1] & np.uint64(1 << 29), np.pi / 2, 0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def respaced_tables(steps):
    """Timesteps of the linear schedule, and abar, its predecessor, beta and the posterior variance at each."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, T))
    timesteps = np.arange(T) if steps == 0 else np.linspace(0, T - 1, steps).round().astype(int)
    abar = abar[timesteps]
    previous = np.append(1.0, abar[:-1])
    beta = 1 - abar / previous
    return timesteps, abar, previous, beta, beta * (1 - previous) / (1 - abar)


def numpy_bound(predict, x_0, variance, steps, clip):
    """vb, x0_mse and eps_mse of every timestep, and the prior. predict(x_t, t): what the network says eps is, and the
    fraction of its learned variance or None."""
    timesteps, abar, previous, beta, posterior = respaced_tables(steps)
    least = np.append(posterior[1], posterior[1:])
    large = np.append(posterior[1], beta[1:])
    mean_over = lambda values: values.reshape(len(x_0), -1).mean()
    vb, x0_mse, eps_mse = [], [], []
    for i, t in enumerate(timesteps):
        eps = np.stack([bound_noise(image, t, x_0[0].size).reshape(x_0[0].shape) for image in range(len(x_0))])
        x_t = np.sqrt(abar[i]) * x_0 + np.sqrt(1 - abar[i]) * eps
        eps_hat, fraction = predict(x_t, int(t))
        x0_hat = (x_t - np.sqrt(1 - abar[i]) * eps_hat) / np.sqrt(abar[i])
        if clip:
            x0_hat = np.clip(x0_hat, -1, 1)
            eps_hat = (x_t - np.sqrt(abar[i]) * x0_hat) / np.sqrt(1 - abar[i])
        x0_mse.append(mean_over((x0_hat - x_0) ** 2))
        eps_mse.append(mean_over((eps_hat - eps) ** 2))
        if variance == "learned_range":
            v = np.exp(fraction * np.log(beta[i]) + (1 - fraction) * np.log(least[i]))
        else:
            v = (least if variance == "fixed_small" else large)[i] * np.ones_like(x_0)
        if i == 0:
            cdf = lambda z: 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
            upper, lower = cdf((x_0 - x0_hat + 1 / 255) / np.sqrt(v)), cdf((x_0 - x0_hat - 1 / 255) / np.sqrt(v))
            p = np.where(x_0 < -0.999, upper, np.where(x_0 > 0.999, 1 - lower, upper - lower))
            nats = -np.log(np.maximum(p, 1e-12))
        else:
            weight = beta[i] * np.sqrt(previous[i]) / (1 - abar[i])
            nats = 0.5 * (np.log(v / posterior[i]) + (posterior[i] + (weight * (x_0 - x0_hat)) ** 2) / v - 1)
        vb.append(mean_over(nats) / np.log(2))
    prior = mean_over(0.5 * (abar[-1] * x_0**2 - abar[-1] - np.log1p(-abar[-1]))) / np.log(2)
    return {"timesteps": timesteps, "vb": vb, "x0_mse": x0_mse, "eps_mse": eps_mse, "prior": prior}


@pytest.mark.parametrize("variance, steps, clip", [
    ("fixed_large", 0, "static"),
    ("fixed_small", 0, "none"),
    ("fixed_large", 7, "static"),
    ("learned_range", 0, "static"),
])
def test_every_term_is_that_of_the_formulas_for_diffusers_network(perrin, datasets, trained, evaluate, tmp_path, variance, steps, clip):
    learned = variance == "learned_range"
    run = trained(**{"diffusion.variance_type": variance, **({"objective.loss": "hybrid"} if learned else {})})
    _, found = evaluate(run, tmp_path / "bound", "--steps", steps, "--clip", clip)
    perrin("export", run, "--output", tmp_path / "export")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "export", subfolder="unet").eval()

    @torch.no_grad()
    def predict(x_t, t):
        output = unet(torch.from_numpy(x_t).float(), t).sample.double().numpy()
        return output[:, :1], (output[:, 1:] + 1) / 2 if learned else None

    with h5py.File(datasets / "heldout" / "shard-00000.h5") as shard:
        x_0 = shard["images"][:IMAGES] / 127.5 - 1
    expected = numpy_bound(predict, x_0, variance, steps, clip == "static")
    np.testing.assert_array_equal(found["timesteps"], expected["timesteps"])
    for name in ("vb", "x0_mse", "eps_mse", "prior"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=1e-9, err_msg=name)
    assert found["images"] == IMAGES


# --- What holds for any network -----------------------------------------------------------------------------------------


def test_the_bound_is_the_same_to_the_bit_on_one_two_and_four_ranks(trained, evaluate, tmp_path):
    run = trained()
    files = []
    for ranks in (None, 2, 4):
        evaluate(run, tmp_path / f"{ranks}", "--threads", 1, ranks=ranks)
        files.append([(tmp_path / f"{ranks}" / name).read_bytes() for name in ("vlb.npz", "vlb.json", "vlb.svg")])
    assert files[0] == files[1] == files[2]


def test_the_terms_add_up_to_what_is_printed(trained, evaluate, tmp_path):
    text, arrays = evaluate(trained(), tmp_path / "bound")
    assert arrays["vb"].shape == arrays["x0_mse"].shape == arrays["eps_mse"].shape == arrays["timesteps"].shape == (T,)
    assert arrays["vb"].dtype == np.float64 and arrays["timesteps"].dtype == np.int64
    total = arrays["vb"].sum() + arrays["prior"]
    assert arrays["total"] == pytest.approx(total, rel=1e-14)
    # The table: L_T, the ten parts of L_t-1, L_0, total.
    printed = {name: float(vb) for name, vb in re.findall(r"^ *(L_T|L_t-1|L_0|total|\d+ \.\. \d+)(?: +t = \d+(?: \.\. \d+)?)? +(\d+\.\d{6})", text, re.MULTILINE)}
    assert printed["total"] == pytest.approx(total, abs=6e-7)
    assert printed["L_T"] == pytest.approx(arrays["prior"], abs=6e-7)
    assert printed["L_0"] == pytest.approx(arrays["vb"][0], abs=6e-7)
    assert printed["L_t-1"] == pytest.approx(arrays["vb"][1:].sum(), abs=6e-7)
    parts = [value for name, value in printed.items() if ".." in name]
    assert len(parts) == 10 and sum(parts) == pytest.approx(printed["L_t-1"], abs=6e-6)

    report = json.loads((tmp_path / "bound" / "vlb.json").read_text())
    assert report["bits_per_dim"] == arrays["total"] and report["images"] == IMAGES and report["timesteps"] == T
    assert sum(part["vb"] for part in report["L_t-1_ranges"]) == pytest.approx(report["L_t-1"], rel=1e-12)
    assert [report["L_t-1_ranges"][i][key] for i, key in ((0, "first_t"), (9, "last_t"))] == [1, T - 1]


def test_files_are_what_their_names_say(trained, evaluate, tmp_path):
    evaluate(trained(), tmp_path / "deep" / "bound")
    with zipfile.ZipFile(tmp_path / "deep" / "bound" / "vlb.npz") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    root = ElementTree.parse(tmp_path / "deep" / "bound" / "vlb.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    lines = [path.get("d") for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("class") == "line" and path.get("d").count("L") == T]
    assert len(lines) == 3  # vb, x0 and eps


def test_json_alone_is_on_stdout_and_the_cost_is_said_beside(perrin, trained):
    outcome = perrin("evaluate", trained(), "--metric", "vlb", "--images", IMAGES, "--json", ranks=2)
    assert json.loads(outcome.stdout)["images"] == IMAGES
    assert f"variational bound: {IMAGES} images at {T} timesteps, 300 forward passes of up to 16 images on 2 ranks" in outcome.stderr


@pytest.mark.parametrize("changes", [
    {"diffusion.prediction": "v", "diffusion.zero_terminal_snr": True},
    {"diffusion.prediction": "x0"},
    {"diffusion.prediction": "edm"},
    {"diffusion.variance_type": "learned_range", "objective.loss": "hybrid"},
    {"model.num_classes": 4, "model.label_dropout": 0.1},
], ids=lambda changes: "-".join(str(value) for value in changes.values()))
def test_every_kind_of_network_has_a_bound(trained, evaluate, tmp_path, changes):
    _, arrays = evaluate(trained(**changes), tmp_path / "bound")
    assert np.isfinite(arrays["vb"]).all() and (arrays["vb"] > 0).all()
    assert arrays["total"] > 0.5
    assert (arrays["prior"] == 0) == ("diffusion.zero_terminal_snr" in changes)


def test_what_cannot_be_evaluated_is_said(perrin, trained):
    run = trained(**{"train.steps": 1})
    for options, code, said in [
        (["--metric", "fid"], USAGE, "--metric"),
        (["--output", "x"], USAGE, "--output is an option of --metric vlb"),
        (["--steps", "5"], USAGE, "--steps is an option of --metric vlb"),
        (["--metric", "vlb", "--steps", T + 1], USAGE, f"--steps {T + 1} is more than the {T} timesteps of the model"),
        (["--metric", "vlb", "--steps", "-1"], USAGE, "--steps"),
        (["--metric", "vlb", "--clip", "dynamic"], USAGE, "--clip"),
        (["--metric", "vlb", "--images", "0"], CONFIG, "evaluate.images"),
        (["--metric", "vlb", "--output", "/dev/null/x"], RUN, "cannot write in /dev/null/x"),
    ]:
        outcome = perrin("evaluate", run, *options, check=False)
        assert outcome.returncode == code, (options, outcome.stdout + outcome.stderr)
        assert outcome.stderr.startswith("error: ") and said in outcome.stderr, outcome.stderr


def test_labels_that_the_model_does_not_know_are_refused(perrin, trained, tmp_path):
    run = trained(**{"train.steps": 1, "model.num_classes": 4})
    images = np.zeros((6, 8, 8))
    write_idx(tmp_path / "images.gz", images)
    write_idx(tmp_path / "labels.gz", np.arange(6))
    perrin("prepare", "--images", tmp_path / "images.gz", "--labels", tmp_path / "labels.gz", "--output", tmp_path / "six")
    outcome = perrin("evaluate", run, "--metric", "vlb", "--heldout", tmp_path / "six", check=False)
    assert outcome.returncode == DATA and "has labels of 6 classes, and the model knows 4" in outcome.stderr, outcome.stderr
