"""What the oracle tests of the trainer share: the networks of both sides, and the files that perrin_oracle reads."""

import json

import safetensors.torch
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

# perrin's [diffusion] where a test says nothing else.
DIFFUSION = dict(timesteps=1000, beta_schedule="linear", variance_type="fixed_large", prediction="epsilon", zero_terminal_snr=False,
                 betas=[])

# perrin's [model] where it differs from DEFAULTS, [diffusion] of the export, image shape (C, H, W), batch. "published" ones are too large
# to run here: only their parameters are compared.
DEFAULTS = dict(attention_head_dim=0, attention_heads=0, norm_num_groups=32, norm_eps=1e-6, scale_shift_norm=False, resample="conv",
                flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, residual_scale=1.0, num_classes=0, label_dropout=0.0,
                out_channels=0)
LEARNED = dict(variance_type="learned_range")
NETWORKS = {
    "cifar10": dict(
        model=dict(block_out_channels=[128, 256, 256, 256], layers_per_block=2, attention_resolutions=[16]),
        shape=(3, 32, 32), batch=2),
    "quickstart": dict(
        model=dict(block_out_channels=[16, 32, 64], layers_per_block=1, attention_resolutions=[7], norm_num_groups=8),
        shape=(1, 28, 28), batch=4),
    "head_dim": dict(
        model=dict(block_out_channels=[32, 64], layers_per_block=2, attention_resolutions=[16, 8],
                   attention_head_dim=8, norm_num_groups=16, norm_eps=1e-5),
        shape=(3, 16, 24), batch=3),
    # Nichol & Dhariwal 2021.
    "improved": dict(
        model=dict(block_out_channels=[16, 32, 32], layers_per_block=1, attention_resolutions=[8, 4], attention_heads=4,
                   norm_num_groups=8, norm_eps=1e-5, scale_shift_norm=True, flip_sin_to_cos=True, freq_shift=0, downsample_padding=1,
                   out_channels=6),
        diffusion=LEARNED, shape=(3, 16, 16), batch=3),
    # Dhariwal & Nichol 2021, with classes; the null class is among the labels.
    "adm": dict(
        model=dict(block_out_channels=[32, 32, 64], layers_per_block=1, attention_resolutions=[8, 4], attention_head_dim=16,
                   norm_num_groups=16, norm_eps=1e-5, scale_shift_norm=True, resample="resnet", flip_sin_to_cos=True, freq_shift=0,
                   num_classes=5, label_dropout=0.1, out_channels=6),
        diffusion=LEARNED, shape=(3, 16, 16), batch=4, labels=[3, -1, 0, 4]),
    # What only perrin has keys for: scaled residual sums, heads of different sizes; and a continuous noise level.
    "scaled": dict(
        model=dict(block_out_channels=[32, 64], layers_per_block=1, attention_resolutions=[16, 8], attention_heads=4,
                   norm_num_groups=8, residual_scale=0.70710678, resample="resnet", num_classes=2),
        shape=(3, 16, 16), batch=3, labels=[1, 0, 1], t=[-1.5, 0.25, 1.1]),
}
PUBLISHED = {
    "improved_cifar10": dict(
        model=dict(NETWORKS["improved"]["model"], block_out_channels=[128, 256, 256, 256], layers_per_block=3,
                   attention_resolutions=[16, 8], norm_num_groups=32),
        shape=(3, 32, 32), parameters=52_546_438),
    "adm_imagenet64": dict(
        model=dict(NETWORKS["adm"]["model"], block_out_channels=[192, 384, 576, 768], layers_per_block=3,
                   attention_resolutions=[32, 16, 8], attention_head_dim=64, norm_num_groups=32, num_classes=1000, label_dropout=0.0),
        shape=(3, 64, 64), parameters=295_904_454),
}


def network_of(name):
    network = {**NETWORKS, **PUBLISHED}[name]
    return dict(network, model={**DEFAULTS, **network["model"]}, diffusion={**DIFFUSION, **network.get("diffusion", {})})


def exportable(name):
    return network_of(name)["model"]["residual_scale"] == 1


def has_null_class(model):
    return model["label_dropout"] > 0


def block_types(model, height, direction):
    plain = f"Resnet{direction}sampleBlock2D" if model["resample"] == "resnet" else f"{direction}Block2D"
    return [f"Attn{direction}Block2D" if height >> level in model["attention_resolutions"] else plain
            for level in range(len(model["block_out_channels"]))]


def construct(name):
    """diffusers' network of the same configuration; its last class is the null class where there is label dropout."""
    network = network_of(name)
    model, (channels, height, width) = network["model"], network["shape"]
    heads = model["attention_heads"]
    unet = UNet2DModel(
        sample_size=(height, width), in_channels=channels, out_channels=model["out_channels"] or channels,
        block_out_channels=model["block_out_channels"], layers_per_block=model["layers_per_block"],
        down_block_types=block_types(model, height, "Down"), up_block_types=block_types(model, height, "Up")[::-1],
        downsample_type=model["resample"], upsample_type=model["resample"], downsample_padding=model["downsample_padding"],
        attention_head_dim=model["attention_head_dim"] or (model["block_out_channels"][-1] // heads if heads else None),
        norm_num_groups=model["norm_num_groups"], attn_norm_num_groups=model["norm_num_groups"], norm_eps=model["norm_eps"],
        resnet_time_scale_shift="scale_shift" if model["scale_shift_norm"] else "default",
        flip_sin_to_cos=model["flip_sin_to_cos"], freq_shift=model["freq_shift"],
        num_class_embeds=model["num_classes"] + has_null_class(model) or None)
    # Its constructor passes neither of these on, but its layers know them.
    for layer in unet.modules():
        if isinstance(layer, ResnetBlock2D):
            layer.output_scale_factor = 1 / model["residual_scale"]
        elif isinstance(layer, Attention):
            layer.rescale_output_factor = 1 / model["residual_scale"]
            layer.heads = heads or layer.heads
    return unet.eval()


def diffusers_network(name, seed=0):
    """The same with random weights of a size that keeps every path alive."""
    torch.manual_seed(seed)
    unet = construct(name)
    with torch.no_grad():
        # Affine norms and biases other than 1 and 0, so that a forgotten one shows.
        for key, value in unet.named_parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
        if has_null_class(network_of(name)["model"]):
            unet.class_embedding.weight[-1] = 0
    return unet


def inputs_of(name):
    """A random batch: x_t, t, eps, and labels where the network has classes."""
    network = network_of(name)
    batch, (channels, *size) = network["batch"], network["shape"]
    t = torch.tensor(network["t"]) if "t" in network else torch.linspace(0, 999, batch).round().long()
    inputs = dict(x_t=torch.randn(batch, channels, *size), t=t,
                  eps=torch.randn(batch, network["model"]["out_channels"] or channels, *size))
    return dict(inputs, labels=torch.tensor(network["labels"])) if "labels" in network else inputs


def run(unet, name, inputs):
    """diffusers' output; its null class is the last one instead of -1."""
    labels = inputs.get("labels")
    if labels is not None:
        labels = torch.where(labels < 0, network_of(name)["model"]["num_classes"], labels)
    return unet(inputs["x_t"], inputs["t"], class_labels=labels).sample


def as_perrins(name, tensors):
    """Weights or gradients without the row of the null class, which perrin does not store."""
    model, key = network_of(name)["model"], "class_embedding.weight"
    return {**tensors, key: tensors[key][:model["num_classes"]].contiguous()} if key in tensors else tensors


def weights_of(unet, name):
    weights = {key: value.detach().contiguous() for key, value in unet.state_dict().items()}
    return {f"weights.{key}": value for key, value in as_perrins(name, weights).items()}


def save(path, tensors, **settings):
    """Writes the input of perrin_oracle: tensors, and settings as JSON in the metadata."""
    safetensors.torch.save_file(tensors, path, metadata={key: json.dumps(value) for key, value in settings.items()})
