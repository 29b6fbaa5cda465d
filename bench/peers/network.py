"""The peers' networks: diffusers' UNet2DModel over perrin's initial weights, and the same stripped of all but its products."""

import contextlib

import torch
from torch import nn

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(folder):
    """As `perrin bench step --output` wrote it."""
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(folder, subfolder="unet").train()


def parameters_of(module):
    return sum(p.numel() for p in module.parameters())


def strip(model):
    """Leaves convolutions, linear layers and attention: no norm, activation or dropout does anything any more."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, (nn.GroupNorm, nn.SiLU, nn.Dropout)):
                setattr(module, name, nn.Identity())
        if hasattr(module, "group_norm") and module.group_norm is not None:
            module.group_norm = None
    return model


def predictor(module, precision, compiled=False):
    """x_t, t -> the predicted noise, in this precision."""
    network = torch.compile(module) if compiled else module
    context = contextlib.nullcontext if precision == "fp32" else lambda: torch.autocast("cpu", torch.bfloat16)

    def predict(x_t, t):
        with context():
            return network(x_t, t).sample

    return predict


def run_in_bfloat16(unet):
    """Weights converted once; its input and output stay float32, as the pipeline's scheduler and pictures need them."""
    forward = unet.to(torch.bfloat16).forward

    def converted(sample, timestep, **options):
        output = forward(sample.to(torch.bfloat16), timestep, **options)
        output.sample = output.sample.float()
        return output

    unet.forward = converted
