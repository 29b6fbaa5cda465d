"""What the oracle tests of the trainer share: the networks of both sides, and the files that perrin_oracle reads."""

import json

import safetensors.torch
import torch
from diffusers import UNet2DModel

# perrin's [model] of each network, its image shape (C, H, W) and batch.
NETWORKS = {
    "cifar10": dict(
        model=dict(block_out_channels=[128, 256, 256, 256], layers_per_block=2, attention_resolutions=[16],
                   attention_head_dim=0, norm_num_groups=32, norm_eps=1e-6),
        shape=(3, 32, 32), batch=2),
    "quickstart": dict(
        model=dict(block_out_channels=[16, 32, 64], layers_per_block=1, attention_resolutions=[7],
                   attention_head_dim=0, norm_num_groups=8, norm_eps=1e-6),
        shape=(1, 28, 28), batch=4),
    "heads": dict(
        model=dict(block_out_channels=[32, 64], layers_per_block=2, attention_resolutions=[16, 8],
                   attention_head_dim=8, norm_num_groups=16, norm_eps=1e-5),
        shape=(3, 16, 24), batch=3),
}


def diffusers_network(name, seed=0):
    """diffusers' network of the same configuration in DDPM's conventions, with random weights of a size that keeps every path alive."""
    network = NETWORKS[name]
    model, (channels, height, width) = network["model"], network["shape"]
    levels = len(model["block_out_channels"])
    attends = [height >> level in model["attention_resolutions"] for level in range(levels)]
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=(height, width), in_channels=channels, out_channels=channels,
        block_out_channels=model["block_out_channels"], layers_per_block=model["layers_per_block"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=model["attention_head_dim"] or None, norm_num_groups=model["norm_num_groups"], norm_eps=model["norm_eps"],
        flip_sin_to_cos=False, freq_shift=1, downsample_padding=0)
    # Affine norms and biases other than 1 and 0, so that a forgotten one shows.
    with torch.no_grad():
        for key, value in unet.named_parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
    return unet.eval()


def weights_of(unet):
    return {f"weights.{key}": value.detach().contiguous() for key, value in unet.state_dict().items()}


def save(path, tensors, **settings):
    """Writes the input of perrin_oracle: tensors, and settings as JSON in the metadata."""
    safetensors.torch.save_file(tensors, path, metadata={key: json.dumps(value) for key, value in settings.items()})
