"""What every peer computes: the images, schedule and step of `perrin bench`, in PyTorch."""

import os
import time

import torch
from torch.nn import functional

SYNTHETIC_IMAGES = 512
TIMESTEPS = 1000
LR, BETAS, EPS, CLIP_NORM, EMA_DECAY = 2e-4, (0.9, 0.999), 1e-8, 1.0, 0.9999


def synthetic_images(shape):
    """uint8 [512, C, H, W]: those of trainer/synthetic_steps.hpp."""
    channels, height, width = shape
    count = SYNTHETIC_IMAGES * channels * height * width
    bytes_of = ((torch.arange(count, dtype=torch.int64) * 2654435761) & 0xFFFFFFFF) >> 24
    return bytes_of.to(torch.uint8).view(SYNTHETIC_IMAGES, channels, height, width)


def rank_and_ranks():
    """Of this process, as torchrun says it."""
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def rows_of_rank(batch):
    """Of the global batch."""
    rank, ranks = rank_and_ranks()
    return range(rank * batch // ranks, (rank + 1) * batch // ranks)


def alphas_cumprod():
    """Ho et al. 2020, section 4: linear betas from 1e-4 to 0.02."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64), 0).float()


class Optimizer:
    """The fastest that PyTorch has: foreach norm and clip, fused Adam, foreach EMA."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.averages = [p.detach().clone() for p in self.parameters]
        self.adam = torch.optim.Adam(self.parameters, lr=LR, betas=BETAS, eps=EPS, fused=True)

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM, foreach=True)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - EMA_DECAY)
        self.adam.zero_grad(set_to_none=True)


class TrainingSteps:
    """Steps of a network over this rank's part of the batch: uint8 images, q_sample, network, loss, backward, clip, Adam, EMA; float32 weights.

    predict(x_t, t) is the network under the mode's autocast.
    """

    def __init__(self, module, predict, shape, batch, optimizer=True, memory_format=torch.contiguous_format):
        self.predict, self.batch, self.memory_format = predict, batch, memory_format
        self.rows = rows_of_rank(batch)
        self.images = synthetic_images(shape)
        cumprod = alphas_cumprod()
        self.signal, self.sigma = cumprod.sqrt().view(-1, 1, 1, 1), (1 - cumprod).sqrt().view(-1, 1, 1, 1)
        self.optimizer = Optimizer(module.parameters()) if optimizer else None
        self.module = module
        self.position = 0
        self.losses = []

    def step(self):
        rows = [(self.position + row) % SYNTHETIC_IMAGES for row in self.rows]
        self.position += self.batch
        x_0 = self.images[rows].float().div_(127.5).sub_(1)
        t = torch.randint(TIMESTEPS, (len(rows),))
        noise = torch.randn_like(x_0)
        x_t = (self.signal[t] * x_0 + self.sigma[t] * noise).contiguous(memory_format=self.memory_format)
        loss = functional.mse_loss(self.predict(x_t, t).float(), noise)
        loss.backward()
        if self.optimizer:
            self.optimizer.step()
        else:
            self.module.zero_grad(set_to_none=True)
        return loss

    def first_losses(self, count):
        """Those of the first steps ever made; makes what is missing."""
        while len(self.losses) < count:
            self.losses.append(self.step().item())
        return self.losses[:count]

    def images_per_second(self, steps):
        """Of this rank."""
        begun = time.monotonic()
        for _ in range(steps):
            self.losses.append(self.step().item())  # perrin too brings each loss to the host
        return steps * len(self.rows) / (time.monotonic() - begun)
