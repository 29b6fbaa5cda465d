"""The built-in extractor against the same network in PyTorch, on the images that it was made for and on others."""

import gzip
import hashlib
import importlib.util
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file

FOLDER = pathlib.Path(__file__).parents[2] / "trainer" / "evaluate" / "fashion"


@pytest.fixture(scope="module")
def network():
    spec = importlib.util.spec_from_file_location("fashion_train", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.FashionNetwork().eval()
    found.load_state_dict(safetensors.torch.load_file(FOLDER / "network.safetensors"))
    return found


@pytest.fixture
def perrins(perrin_oracle, tmp_path):
    def call(images):
        source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
        safetensors.torch.save_file(dict(images=images.contiguous()), source)
        target.unlink(missing_ok=True)
        perrin_oracle("features", source, target)
        return load_file(target)

    return call


@pytest.fixture(scope="module")
def test_set(fashion_mnist):
    images = np.frombuffer(gzip.open(fashion_mnist / "t10k-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
    labels = np.frombuffer(gzip.open(fashion_mnist / "t10k-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
    return torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()), labels


@torch.no_grad()
def test_features_and_classes_are_pytorchs(network, perrins, test_set):
    images = test_set[0][:200]
    found = perrins(images)
    features, logits = network(images)
    assert found["features"].shape == (200, 64)
    np.testing.assert_allclose(found["features"], features, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found["probabilities"], logits.softmax(1), atol=1e-5)


def test_it_tells_the_classes_of_fashion_mnist(perrins, test_set):
    images, labels = test_set
    found = perrins(images[:2000])
    assert (found["probabilities"].argmax(1) == labels[:2000]).mean() >= 0.9


@torch.no_grad()
def test_color_becomes_luma_and_other_sizes_are_resized(network, perrins, test_set):
    gray = test_set[0][:8]
    np.testing.assert_allclose(perrins(gray.repeat(1, 3, 1, 1))["features"], perrins(gray)["features"], atol=1e-3)
    large = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 1, 56, 40), dtype=np.uint8))
    small = torch.nn.functional.interpolate(large.float(), (28, 28), mode="bilinear", antialias=True)
    np.testing.assert_allclose(perrins(large)["features"], network(small)[0], atol=1e-4)


def test_the_weights_are_small_and_what_the_program_carries(perrin_binary):
    weights = (FOLDER / "network.safetensors").read_bytes()
    assert len(weights) < 1_000_000
    assert weights in perrin_binary.read_bytes(), hashlib.sha256(weights).hexdigest()
