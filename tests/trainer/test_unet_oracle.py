"""perrin's U-Net against diffusers' UNet2DModel: same weights, same input; epsilon, loss and all gradients."""

import json

import pytest
import safetensors.torch
import torch

import oracle


def relative_l2(actual, expected):
    return (torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected)).item()


@pytest.fixture(scope="module", params=oracle.NETWORKS)
def reference(request):
    """The network, its input, and what diffusers makes of it."""
    torch.set_num_threads(2)
    name = request.param
    unet = oracle.diffusers_network(name)
    inputs = oracle.inputs_of(name)
    epsilon = oracle.run(unet, name, inputs)
    loss = torch.nn.functional.mse_loss(epsilon, inputs["eps"])
    loss.backward()
    gradients = oracle.as_perrins(name, {key: value.grad for key, value in unet.named_parameters()})
    return dict(name=name, weights=oracle.weights_of(unet, name), inputs=inputs, epsilon=epsilon.detach(), loss=loss.item(),
                gradients=gradients)


@pytest.fixture(scope="module", params=[True, False], ids=["channels_last", "contiguous"])
def result(request, reference, perrin_oracle, tmp_path_factory):
    folder, network = tmp_path_factory.mktemp("unet"), oracle.network_of(reference["name"])
    oracle.save(folder / "in.safetensors", {**reference["inputs"], **reference["weights"]},
                model=network["model"], shape=network["shape"], channels_last=request.param)
    perrin_oracle("unet", folder / "in.safetensors", folder / "out.safetensors")
    return safetensors.torch.load_file(folder / "out.safetensors")


@pytest.mark.parametrize("name", [*oracle.NETWORKS, *oracle.PUBLISHED])
def test_parameters_have_diffusers_names_and_shapes(name, perrin_oracle, tmp_path):
    network = oracle.network_of(name)
    oracle.save(tmp_path / "in.safetensors", {}, model=network["model"], shape=network["shape"])
    perrin_oracle("parameters", tmp_path / "in.safetensors", tmp_path / "out.json")
    with torch.device("meta"):
        expected = oracle.as_perrins(name, dict(oracle.construct(name).named_parameters()))
    assert json.loads((tmp_path / "out.json").read_text()) == {key: list(value.shape) for key, value in expected.items()}
    if name in oracle.PUBLISHED:
        assert sum(value.numel() for value in expected.values()) == network["parameters"]


def test_epsilon_and_loss_agree(reference, result):
    assert (result["epsilon"] - reference["epsilon"]).abs().max().item() < 1e-5
    assert result["loss"].item() == pytest.approx(reference["loss"], rel=1e-5)


def test_gradients_agree(reference, result):
    keys = sorted(reference["gradients"])
    assert keys == sorted(key.removeprefix("gradients.") for key in result if key.startswith("gradients."))
    expected = torch.cat([reference["gradients"][key].flatten() for key in keys])
    actual = torch.cat([result[f"gradients.{key}"].flatten() for key in keys])
    assert relative_l2(actual, expected) < 1e-5
    # A key bias shifts all scores of a query alike, so its true gradient is zero: what is computed there is rounding noise, and its
    # scale is that of the query's bias beside it.
    for key in keys:
        scale_key = key.replace("to_k.bias", "to_q.bias")
        difference = (result[f"gradients.{key}"] - reference["gradients"][key]).abs().max().item()
        assert difference < 1e-4 * reference["gradients"][scale_key].abs().max().item(), key
