"""perrin's U-Net against diffusers' UNet2DModel: same weights, same input; epsilon, loss and all gradients."""

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
    network = oracle.NETWORKS[name]
    unet = oracle.diffusers_network(name)
    shape = (network["batch"], *network["shape"])
    x_t, eps = torch.randn(shape), torch.randn(shape)
    t = torch.linspace(0, 999, network["batch"]).round().long()
    epsilon = unet(x_t, t).sample
    loss = torch.nn.functional.mse_loss(epsilon, eps)
    loss.backward()
    return dict(network=network, unet=unet, inputs=dict(x_t=x_t, t=t, eps=eps), epsilon=epsilon.detach(), loss=loss.item(),
                gradients={key: value.grad for key, value in unet.named_parameters()})


@pytest.fixture(scope="module", params=[True, False], ids=["channels_last", "contiguous"])
def result(request, reference, perrin_oracle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet")
    oracle.save(folder / "in.safetensors", {**reference["inputs"], **oracle.weights_of(reference["unet"])},
                model=reference["network"]["model"], shape=reference["network"]["shape"], channels_last=request.param)
    perrin_oracle("unet", folder / "in.safetensors", folder / "out.safetensors")
    return safetensors.torch.load_file(folder / "out.safetensors")


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
