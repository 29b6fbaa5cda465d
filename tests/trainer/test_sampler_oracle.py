"""perrin's sampler steps against diffusers' schedulers, float32."""

import itertools

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, DDPMScheduler

import oracle

SCHEDULES = dict(linear="linear", cosine="squaredcos_cap_v2")


def diffusion(schedule, variance):
    return dict(timesteps=1000, beta_schedule=schedule, variance_type=variance)


ANCESTRAL = [dict(sampler="ancestral", diffusion=diffusion(schedule, variance), t=t, clip=clip)
             for schedule, variance, t, clip in itertools.product(SCHEDULES, ["fixed_small", "fixed_large"], [0, 1, 500, 998], [True, False])]
DDIM = [dict(sampler="ddim", diffusion=diffusion(schedule, "fixed_small"), t=t, t_prev=t - 10, eta=eta, clip=clip)
        for schedule, t, eta, clip in itertools.product(SCHEDULES, [9, 499, 899], [0.0, 0.6, 1.0], [True, False])]


def describe(step):
    return "-".join(str(value) for value in [*step["diffusion"].values(), *step.values()] if not isinstance(value, (dict, str)))


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(1)
    return {key: torch.randn(2, 3, 8, 8) for key in ("x_t", "eps", "z")}


@pytest.fixture(scope="module")
def perrin_step(perrin_oracle, tensors, tmp_path_factory):
    """perrin's x_prev of each step; all are computed by one call of the tool."""
    folder, steps = tmp_path_factory.mktemp("steps"), ANCESTRAL + DDIM
    oracle.save(folder / "in.safetensors", tensors, steps=steps)
    perrin_oracle("steps", folder / "in.safetensors", folder / "out.safetensors")
    results = safetensors.torch.load_file(folder / "out.safetensors")
    return lambda step: results[f"x_prev.{steps.index(step)}"]


def with_double_tables(scheduler):
    """diffusers' tables in double: in float32, 1 - alphas_cumprod at t = 1 loses four digits, which is its error and not perrin's."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.double)
    return scheduler


def assert_close(actual, expected):
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max().item() < 1e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("step", ANCESTRAL, ids=describe)
def test_ancestral_steps_agree(perrin_step, tensors, monkeypatch, step):
    # The scheduler draws its own noise: give it ours.
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: tensors["z"])
    scheduler = with_double_tables(DDPMScheduler(1000, beta_schedule=SCHEDULES[step["diffusion"]["beta_schedule"]],
                                                 variance_type=step["diffusion"]["variance_type"], clip_sample=step["clip"]))
    assert_close(perrin_step(step), scheduler.step(tensors["eps"], step["t"], tensors["x_t"]).prev_sample)


@pytest.mark.parametrize("step", DDIM, ids=describe)
def test_ddim_steps_agree(perrin_step, tensors, step):
    scheduler = with_double_tables(DDIMScheduler(1000, beta_schedule=SCHEDULES[step["diffusion"]["beta_schedule"]],
                                                 clip_sample=step["clip"], timestep_spacing="trailing"))
    scheduler.set_timesteps(100)
    expected = scheduler.step(tensors["eps"], step["t"], tensors["x_t"], eta=step["eta"], use_clipped_model_output=step["clip"],
                              variance_noise=tensors["z"]).prev_sample
    assert_close(perrin_step(step), expected)
