"""Every kind of training through the whole program: 1 and 2 ranks train the same network and log the same figures."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_world import checkpoint, losses, relative_distance, rows, state

TOLERANCE = 1e-5  # relative L2 norm, fp32

KINDS = {
    "hybrid-importance": {"diffusion.variance_type": "learned_range", "objective.loss": "hybrid", "objective.timesteps": "importance",
                          "diffusion.beta_schedule": "cosine", "diffusion.timesteps": 8},
    "vlb-learned-stratified": {"diffusion.variance_type": "learned_range", "objective.loss": "vlb", "objective.timesteps": "stratified"},
    "v-zero-terminal": {"diffusion.prediction": "v", "diffusion.zero_terminal_snr": True},
    "v-min-snr": {"diffusion.prediction": "v", "objective.min_snr_gamma": 5.0, "diffusion.beta_schedule": "scaled_linear"},
    "x0-sigmoid": {"diffusion.prediction": "x0", "diffusion.beta_schedule": "sigmoid", "sample.sampler": "dpm++2m"},
    "edm-heun": {"diffusion.prediction": "edm", "objective.timesteps": "stratified", "sample.sampler": "heun", "sample.churn": 10.0},
    "adm-classes-guided": {"model.scale_shift_norm": True, "model.resample": "resnet", "model.num_classes": 4, "model.label_dropout": 0.3,
                           "model.flip_sin_to_cos": True, "model.freq_shift": 0, "model.initialization": "adm", "sample.guidance": 2.0,
                           "sample.clip": "dynamic", "model.attention_heads": 2},
}
FIGURES = ["loss", "loss_simple", "loss_vlb", "loss_q0", "loss_q1", "loss_q2", "loss_q3", "gradient_norm", "lr", "ema_decay"]


def figures(run):
    """Every logged figure that is no time: [rows, figures], NaN where a quartile was empty."""
    return np.array([[np.nan if row.get(name) is None else row[name] for name in FIGURES if name in row] for row in rows(run)])


@pytest.mark.parametrize("kind", KINDS)
def test_one_two_and_three_ranks_agree(perrin, write_config, kind):
    """A batch of 16 in one forward pass, in two of 8, and in shares of 5, 5 and 6 cut into micro-batches of 3 at most."""
    found = []
    for ranks, micro_batch in ((1, 0), (2, 0), (3, 3)):
        config, run = write_config(f"{kind}-{ranks}", **{"train.micro_batch": micro_batch, **KINDS[kind]})
        perrin("train", config, ranks=ranks, timeout=120)
        found.append((state(run, 20), figures(run), rows(run, "heldout")))
    for other in found[1:]:
        assert_same_training(found[0], other)
    assert ("vlb_estimate" in found[0][2][0]) == (kind != "edm-heun")
    if kind == "hybrid-importance":  # long enough that its losses have replaced the uniform start
        history = load_file(checkpoint(run, 20) / "loss_history.safetensors")
        assert (history["counts"] == 10).all()


def assert_same_training(one, two):
    (one, one_rows, one_heldout), (two, two_rows, two_heldout) = one, two
    for buffer in ("weights", "ema-0", "ema-1"):
        assert relative_distance(two[buffer], one[buffer]) < TOLERANCE, buffer
    assert one_rows.shape == two_rows.shape and (np.isnan(one_rows) == np.isnan(two_rows)).all()
    for column in range(one_rows.shape[1]):
        a, b = one_rows[:, column], two_rows[:, column]
        assert relative_distance(b[~np.isnan(b)], a[~np.isnan(a)]) < TOLERANCE, column
        np.testing.assert_allclose(b, a, rtol=20 * TOLERANCE)
    for name in ("loss", "vlb_estimate"):
        if name in one_heldout[0]:
            assert two_heldout[0][name] == pytest.approx(one_heldout[0][name], rel=TOLERANCE)


@pytest.mark.parametrize("timesteps, images", [(20, 64), (64, 64), (200, 64)])
def test_the_estimate_in_training_is_near_the_bound(perrin, write_config, timesteps, images):
    """More images than timesteps, as many, and fewer: one forward pass for an image against one for every timestep."""
    config, run = write_config(**{"diffusion.timesteps": timesteps, "diffusion.beta_schedule": "cosine", "train.steps": 100,
                                  "checkpoint.every": 100, "train.log_every": 50, "evaluate.images": images, "run.seed": 3})
    perrin("train", config)
    estimate = json.loads(perrin("evaluate", run, "--json").stdout)["vlb_estimate"]
    assert estimate == pytest.approx(rows(run, "heldout")[-1]["vlb_estimate"], rel=1e-6)
    total = json.loads(perrin("evaluate", run, "--metric", "vlb", "--json").stdout)["bits_per_dim"]
    assert estimate == pytest.approx(total, rel=0.08), (estimate, total)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_to_the_same_bits(perrin, write_config, kind):
    """Importance sampling's history and the quartiles of the losses are part of a checkpoint."""
    changes = {**KINDS[kind], "train.log_every": 4, "checkpoint.every": 10}
    config, whole = write_config(f"{kind}-whole", **changes)
    perrin("train", config)
    config, stopped = write_config(f"{kind}-stopped", **changes)
    perrin("train", config, "--train.steps=10")
    perrin("train", config)
    for buffer, values in state(whole, 20).items():
        assert (state(stopped, 20)[buffer] == values).all(), buffer
    # A run of 10 steps reports at its end; the rows of the others are the same.
    rows_of = lambda run: {row["step"]: [row.get(name) for name in FIGURES] for row in rows(run) if row["step"] in (4, 8, 16, 20)}
    assert rows_of(whole) == rows_of(stopped)


def test_guidance_and_classes_change_the_samples_and_the_ranks_do_not(perrin, write_config, tmp_path):
    config, run = write_config(**KINDS["adm-classes-guided"], **{"model.block_out_channels": [8, 16]})
    perrin("train", config)

    def picture(*options, ranks=None):
        path = tmp_path / f"{len(list(tmp_path.glob('*.png')))}.png"
        perrin("sample", run, "--grid", "2x3", "--output", path, *options, ranks=ranks)
        return path.read_bytes()

    guided = picture("--class", "1,2", "--guidance", "3")
    assert picture("--class", "1,2", "--guidance", "3", ranks=2) == guided
    assert picture("--class", "2,1", "--guidance", "3") != guided
    assert picture("--class", "1,2", "--guidance", "1") != guided
    # Outside its interval guidance is none.
    assert picture("--class", "1,2", "--guidance", "3", "--sample.guidance_sigma_min=1e6") == picture("--class", "1,2", "--guidance", "1")


def test_sampling_and_evaluating_leave_the_training_alone(perrin, write_config):
    """The weights after training with evaluation and samples in every step are those of a training without."""
    found = []
    for name, every in (("never", 0), ("often", 1)):
        config, run = write_config(name, **{"train.steps": 5, "train.evaluate_every": every, "train.sample_every": every})
        perrin("train", config)
        found.append(state(run, 5))
    for buffer, values in found[0].items():
        assert (found[1][buffer] == values).all(), buffer


def test_every_sampler_draws_from_every_prediction(perrin, write_config, tmp_path):
    for prediction in ("epsilon", "x0", "v", "edm"):
        config, run = write_config(prediction, **{"diffusion.prediction": prediction, "sample.clip": "none"})
        perrin("train", config)
        pictures = set()
        for sampler in ("ancestral", "ddim", "dpm++2m", "heun"):
            for weights in ("ema", "raw"):
                path = tmp_path / f"{prediction}-{sampler}-{weights}.png"
                perrin("sample", run, "--sampler", sampler, "--steps", 6, "--weights", weights, "--output", path)
                pictures.add(path.read_bytes())
        assert len(pictures) == 8, prediction


def test_the_quartiles_are_those_of_the_timesteps(perrin, write_config):
    config, run = write_config(**{"train.steps": 60, "train.log_every": 60, "checkpoint.every": 60})
    perrin("train", config)
    row = rows(run)[-1]
    quartiles = [row[f"loss_q{q}"] for q in range(4)]
    # The noise is easiest to see where there is most of it.
    assert quartiles[0] > quartiles[3]
    assert min(quartiles) < row["loss"] < max(quartiles)
    assert json.dumps(row)
    assert losses(run)[-1][1] == row["loss"] == row["loss_simple"]
