"""The metrics of samples against torch-fidelity, NumPy and SciPy, on the same features, subsets and order."""

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.numpy import load_file

import oracle

fidelity_fid = pytest.importorskip("torch_fidelity.metric_fid")
fidelity_isc = pytest.importorskip("torch_fidelity.metric_isc")
fidelity_kid = pytest.importorskip("torch_fidelity.metric_kid")
fidelity_prc = pytest.importorskip("torch_fidelity.metric_prc")

N, M, D, K = 2000, 1500, 48, 10
SUBSETS, SUBSET_SIZE, POINTS = 20, 300, [200, 500, 1000, 1500, 2000]


@pytest.fixture(scope="module")
def inputs():
    """Features with a decaying spectrum and a mean far from 0, as a network's are."""
    random = np.random.default_rng(3)
    mixing = random.normal(size=(D, D)) * np.exp(-np.arange(D) / 12)
    samples = 3 + np.maximum(random.normal(size=(N, D)) @ mixing.T, -1)
    reference = 3.1 + np.maximum(random.normal(size=(M, D)) @ mixing.T * 1.1, -1)
    return dict(samples=torch.tensor(samples, dtype=torch.float32), reference=torch.tensor(reference, dtype=torch.float32),
                logits=torch.tensor(random.normal(size=(N, K)) * 3))


@pytest.fixture(scope="module")
def perrins(inputs, perrin_oracle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    oracle.save(folder / "in.safetensors", dict(samples=inputs["samples"], reference=inputs["reference"],
                                                probabilities=inputs["logits"].softmax(1)),
                subsets=SUBSETS, subset_size=SUBSET_SIZE, points=POINTS)
    perrin_oracle("metrics", folder / "in.safetensors", folder / "out.safetensors")
    return load_file(folder / "out.safetensors")


def statistics(features):
    features = np.asarray(features, dtype=np.float64)
    return dict(mu=features.mean(0), sigma=np.cov(features, rowvar=False))


def scipy_frechet(a, b):
    """With the general matrix root: another algorithm than perrin's."""
    root = scipy.linalg.sqrtm(a["sigma"] @ b["sigma"])
    assert np.abs(root.imag).max() < 1e-6
    difference = a["mu"] - b["mu"]
    return difference @ difference + np.trace(a["sigma"] + b["sigma"] - 2 * root.real)


def test_mean_and_covariance_are_numpys(perrins, inputs):
    expected = statistics(inputs["samples"])
    for name in ("mu", "sigma"):
        assert perrins[name].dtype == np.float64
        np.testing.assert_allclose(perrins[name], expected[name], rtol=1e-9, atol=1e-9 * np.abs(expected[name]).max())


def test_frechet_distance_is_torch_fidelitys_and_scipys(perrins, inputs):
    a, b = statistics(inputs["samples"]), statistics(inputs["reference"])
    published = fidelity_fid.fid_statistics_to_metric(a, b, False)["frechet_inception_distance"]
    assert perrins["fid"][0] == pytest.approx(published, rel=1e-7)
    assert perrins["fid"][0] == pytest.approx(scipy_frechet(a, b), rel=1e-7)


def test_extrapolation_is_the_intercept_of_numpys_line(perrins, inputs):
    b = statistics(inputs["reference"])
    distances = [scipy_frechet(statistics(inputs["samples"][perrins[f"points.{i}"]]), b) for i in range(len(POINTS))]
    np.testing.assert_allclose(perrins["fid_points"], distances, rtol=1e-6)
    _, intercept = np.polyfit(1 / np.array(POINTS), distances, 1)
    assert perrins["fid_infinity"][0] == pytest.approx(intercept, rel=1e-5)


def test_kernel_distance_is_torch_fidelitys_on_the_same_subsets(perrins, inputs):
    samples, reference = (inputs[name].double().numpy() for name in ("samples", "reference"))
    kernel = dict(kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    mmds = [fidelity_kid.kernel_mmd(samples[perrins[f"samples.{i}"]], reference[perrins[f"reference.{i}"]], **kernel)
            for i in range(SUBSETS)]
    np.testing.assert_allclose(perrins["kid"], [np.mean(mmds), np.std(mmds)], rtol=1e-9)


def test_inception_score_is_torch_fidelitys(perrins, inputs):
    published = fidelity_isc.isc_features_to_metric(inputs["logits"], 10, False, 0)
    expected = [published["inception_score_mean"], published["inception_score_std"]]
    np.testing.assert_allclose(perrins["is"], expected, rtol=1e-9)


def test_precision_and_recall_are_torch_fidelitys(perrins, inputs):
    published = fidelity_prc.calculate_precision_recall_full(inputs["samples"].double(), inputs["reference"].double(), 3)
    assert 0 < min(published) < max(published) < 1
    np.testing.assert_allclose(perrins["precision_recall"], published, rtol=1e-6)  # theirs is a mean in float32
