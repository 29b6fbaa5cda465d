"""perrin's samplers against diffusers' schedulers, float32: single steps on random tensors, and whole runs over a random network.

Each trap of the schedulers is a case: learned variance, v and x_0 prediction, zero terminal SNR, clipping and dynamic thresholds.
"""

import itertools
import json

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler, UNet2DModel

import oracle

SCHEDULES = dict(linear="linear", cosine="squaredcos_cap_v2", scaled_linear="scaled_linear", sigmoid="sigmoid")
PREDICTIONS = dict(epsilon="epsilon", x0="sample", v="v_prediction")


def toml(**sections):
    return "\n".join(f"[{section}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
                     for section, values in sections.items())


def step(sampler, t, schedule="linear", variance="fixed_small", prediction="epsilon", clip="static", eta=0.0, zero=False, **more):
    """One step of a sampler: its configuration as TOML for perrin, and what diffusers needs to know."""
    objective = dict(loss="hybrid") if variance == "learned_range" else {}
    config = toml(diffusion=dict(beta_schedule=schedule, variance_type=variance, prediction=prediction, zero_terminal_snr=zero),
                  objective=objective, sample=dict(sampler=sampler, clip=clip, clip_percentile=0.9, eta=eta))
    return dict(config=config, sampler=sampler, t=t, schedule=schedule, variance=variance, prediction=prediction, clip=clip, eta=eta,
                zero=zero, **more)


ANCESTRAL = [step("ancestral", t, schedule, variance, clip=clip)
             for schedule, variance, t, clip in itertools.product(["linear", "cosine"], ["fixed_small", "fixed_large"], [0, 1, 500, 998],
                                                                  ["static", "none"])]
ANCESTRAL += [step("ancestral", t, schedule, "learned_range", prediction)
              for schedule, prediction, t in itertools.product(SCHEDULES, PREDICTIONS, [0, 1, 500, 998])]
ANCESTRAL += [step("ancestral", t, "linear", "fixed_small", "v", "dynamic") for t in (0, 400, 998)]
ANCESTRAL += [step("ancestral", 999, schedule, variance, prediction)
              for schedule, variance, prediction in itertools.product(["linear", "cosine"], ["fixed_small", "learned_range"], PREDICTIONS)]
ANCESTRAL += [step("ancestral", t, variance="fixed_large", prediction=prediction, zero=True)
              for prediction, t in itertools.product(["x0", "v"], [0, 400, 998, 999])]
DDIM = [step("ddim", t, schedule, eta=eta, clip=clip, t_prev=t - 10)
        for schedule, t, eta, clip in itertools.product(["linear", "cosine"], [9, 499, 899], [0.0, 0.6, 1.0], ["static", "none"])]
DDIM += [step("ddim", t, schedule, prediction=prediction, eta=0.5, clip="none", t_prev=t - 10)
         for schedule, prediction, t in itertools.product(["scaled_linear", "sigmoid"], PREDICTIONS, [9, 499, 999])]
DDIM += [step("ddim", t, prediction=prediction, zero=True, t_prev=t - 10) for prediction, t in itertools.product(["x0", "v"], [9, 499, 999])]
DPM = [step("dpm++2m", t, prediction=prediction, clip=clip, t_prev=t - 50, t_before=before)
       for prediction, clip, (t, before) in itertools.product(PREDICTIONS, ["none", "dynamic"], [(999, -1), (949, 999), (499, 549), (49, 99)])]
STEPS = ANCESTRAL + DDIM + DPM


def describe(case):
    return "-".join(str(value) for key, value in case.items() if key != "config")


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(1)
    tensors = {key: torch.randn(2, 3, 8, 8) for key in ("x_t", "output", "z", "previous_x0")}
    return dict(**tensors, output_6=torch.cat([tensors["output"], torch.rand(2, 3, 8, 8) * 2 - 1], 1))


@pytest.fixture(scope="module")
def perrin_step(perrin_oracle, tensors, tmp_path_factory):
    """perrin's x_prev of each step; all are computed by one call of the tool."""
    folder = tmp_path_factory.mktemp("steps")
    oracle.save(folder / "in.safetensors", tensors, steps=STEPS)
    perrin_oracle("steps", folder / "in.safetensors", folder / "out.safetensors")
    results = safetensors.torch.load_file(folder / "out.safetensors")
    return lambda case: results[f"x_prev.{STEPS.index(case)}"]


def with_double_tables(scheduler):
    """diffusers' tables in double: in float32, 1 - alphas_cumprod at t = 1 loses four digits, which is its error and not perrin's."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        scheduler.alpha_t, scheduler.sigma_t = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()
        scheduler.lambda_t = torch.log(scheduler.alpha_t) - torch.log(scheduler.sigma_t)
        scheduler.sigmas = scheduler.sigma_t / scheduler.alpha_t
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.double)
    return scheduler


def clipping(clip):
    """dynamic: diffusers keeps sample_max_value as its ceiling; perrin has none."""
    return dict(clip_sample=clip == "static", thresholding=clip == "dynamic", dynamic_thresholding_ratio=0.9, sample_max_value=1e9)


def scheduler_of(kind, case, **more):
    # Not every scheduler knows every schedule; DDPMScheduler does.
    betas = DDPMScheduler(1000, beta_schedule=SCHEDULES[case["schedule"]]).betas.numpy()
    scheduler = kind(1000, trained_betas=betas, prediction_type=PREDICTIONS[case["prediction"]],
                     rescale_betas_zero_snr=case["zero"], **more)
    return with_double_tables(scheduler)


def assert_close(actual, expected):
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max().item() < 1e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("case", ANCESTRAL, ids=describe)
def test_ancestral_steps_agree(perrin_step, tensors, monkeypatch, case):
    # The scheduler draws its own noise: give it ours.
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: tensors["z"])
    scheduler = scheduler_of(DDPMScheduler, case, variance_type=case["variance"], **clipping(case["clip"]))
    output = tensors["output_6" if case["variance"] == "learned_range" else "output"]
    assert_close(perrin_step(case), scheduler.step(output, case["t"], tensors["x_t"]).prev_sample)


@pytest.mark.parametrize("case", DDIM, ids=describe)
def test_ddim_steps_agree(perrin_step, tensors, case):
    scheduler = scheduler_of(DDIMScheduler, case, timestep_spacing="trailing", **clipping(case["clip"]))
    scheduler.set_timesteps(100)
    expected = scheduler.step(tensors["output"], case["t"], tensors["x_t"], eta=case["eta"],
                              use_clipped_model_output=case["clip"] == "static", variance_noise=tensors["z"]).prev_sample
    assert_close(perrin_step(case), expected)


@pytest.mark.parametrize("case", DPM, ids=describe)
def test_dpm_solver_steps_agree(perrin_step, tensors, case):
    scheduler = scheduler_of(DPMSolverMultistepScheduler, case, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
                             timestep_spacing="trailing", final_sigmas_type="zero", thresholding=case["clip"] == "dynamic",
                             dynamic_thresholding_ratio=0.9, sample_max_value=1e9)
    scheduler.set_timesteps(20)
    scheduler.sigmas = torch.cat([(1 / scheduler.alphas_cumprod[scheduler.timesteps] - 1).sqrt(), torch.zeros(1)]).double()
    if case["t_before"] >= 0:
        scheduler.model_outputs = [None, tensors["previous_x0"]]
        scheduler.lower_order_nums = 1
    scheduler._step_index = scheduler.timesteps.tolist().index(case["t"])
    assert_close(perrin_step(case), scheduler.step(tensors["output"], case["t"], tensors["x_t"]).prev_sample)


# --- Whole runs over a random network -----------------------------------------------------------------------------------------

MODEL = dict(block_out_channels=[16, 32], layers_per_block=1, attention_resolutions=[4], norm_num_groups=8)
COUNT = 12  # evaluations or steps of a run


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return UNet2DModel(sample_size=8, in_channels=3, out_channels=3, block_out_channels=[16, 32], layers_per_block=1,
                       down_block_types=["DownBlock2D", "AttnDownBlock2D"], up_block_types=["AttnUpBlock2D", "UpBlock2D"],
                       attention_head_dim=None, norm_num_groups=8, norm_eps=1e-6, flip_sin_to_cos=False, freq_shift=1,
                       downsample_padding=0).eval()


@pytest.fixture
def perrin_run(perrin_oracle, network, tmp_path):
    """perrin_run(diffusion, sample, x_T) -> (states, noises): the state before every evaluation and the result."""

    def call(diffusion, sample, x_T):
        torch.manual_seed(4)
        noises = [torch.randn_like(x_T) for _ in range(COUNT)]
        config = toml(model=MODEL, diffusion=diffusion, sample=dict(clip="none", **sample))
        oracle.save(tmp_path / "in.safetensors", {"x_T": x_T, **{f"z.{i}": z for i, z in enumerate(noises)}, 
                                                   **{f"weights.{name}": weight.contiguous() for name, weight in network.state_dict().items()}},
                    run=dict(config=config), shape=(3, 8, 8))
        perrin_oracle("trajectory", tmp_path / "in.safetensors", tmp_path / "out.safetensors")
        states = safetensors.torch.load_file(tmp_path / "out.safetensors")
        return [states[f"x.{i}"] for i in range(len(states))], noises

    return call


@torch.no_grad()
def diffusers_run(scheduler, network, x, step):
    states = [x]
    for i, t in enumerate(scheduler.timesteps):
        x = step(scheduler, network(scheduler.scale_model_input(x, t).float(), t).sample, t, x, i).float()
        states.append(x)
    return states


def assert_same_run(ours, theirs):
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs)):
        assert (a - b).abs().max().item() < 1e-5 * max(1.0, b.abs().max().item()), f"state {i}"


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_run_of_ddim_agrees(perrin_run, network, prediction):
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    ours, noises = perrin_run(dict(prediction=prediction), dict(sampler="ddim", steps=10, spacing="trailing", eta=0.3), x_T)
    scheduler = with_double_tables(DDIMScheduler(1000, prediction_type=PREDICTIONS[prediction], clip_sample=False, timestep_spacing="trailing"))
    scheduler.set_timesteps(10)
    theirs = diffusers_run(scheduler, network, x_T, lambda s, out, t, x, i: s.step(out, t, x, eta=0.3, variance_noise=noises[i] if i < 9 else
                                                                                   torch.zeros_like(x)).prev_sample)
    assert_same_run(ours, theirs)


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_a_run_of_few_ancestral_steps_agrees(perrin_run, network, monkeypatch, spacing):
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    ours, noises = perrin_run(dict(variance_type="fixed_large"), dict(sampler="ancestral", steps=10, spacing=spacing), x_T)
    # Where the last step leaves a t > 0, diffusers adds noise to the finished image; perrin does not, as Nichol & Dhariwal's code.
    drawn = iter([*noises[:9], torch.zeros_like(x_T)])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(drawn))
    scheduler = with_double_tables(DDPMScheduler(1000, variance_type="fixed_large", clip_sample=False, timestep_spacing=spacing))
    scheduler.set_timesteps(10)
    theirs = diffusers_run(scheduler, network, x_T, lambda s, out, t, x, i: s.step(out, t, x).prev_sample)
    assert_same_run(ours, theirs)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_run_of_dpm_solver_agrees(perrin_run, network, prediction):
    x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    ours, _ = perrin_run(dict(prediction=prediction), dict(sampler="dpm++2m", steps=10, spacing="trailing"), x_T)
    scheduler = with_double_tables(DPMSolverMultistepScheduler(1000, prediction_type=PREDICTIONS[prediction], algorithm_type="dpmsolver++",
                                                               solver_order=2, timestep_spacing="trailing", lower_order_final=False,
                                                               final_sigmas_type="zero"))
    scheduler.set_timesteps(10)
    scheduler.sigmas = torch.cat([(1 / scheduler.alphas_cumprod[scheduler.timesteps] - 1).sqrt(), torch.zeros(1)]).double()
    theirs = diffusers_run(scheduler, network, x_T, lambda s, out, t, x, i: s.step(out, t, x).prev_sample)
    assert_same_run(ours, theirs)


@torch.no_grad()
def test_a_run_of_heun_agrees(perrin_run, network):
    steps, sigma_min, sigma_max, rho = 6, 0.05, 20.0, 7.0
    normals = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    ours, _ = perrin_run({}, dict(sampler="heun", steps=steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho), normals)

    scheduler = HeunDiscreteScheduler(1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    ramp = torch.linspace(0, 1, steps, dtype=torch.double)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    table = (1 / torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.double), 0) - 1).sqrt()
    nearest = [int((table - sigma).abs().argmin()) for sigma in sigmas]
    # The scheduler repeats every inner level, once for each of Heun's two evaluations.
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:].repeat_interleave(2), torch.zeros(1, dtype=torch.double)])
    scheduler.timesteps = torch.tensor([nearest[0]] + [t for t in nearest[1:] for _ in range(2)])
    scheduler.num_inference_steps, scheduler._step_index = steps, 0
    scheduler.prev_derivative = scheduler.dt = None

    x = normals.double() * sigmas[0]
    states = []
    for i, t in enumerate(scheduler.timesteps):
        states.append(x)
        sigma = scheduler.sigmas[i]
        output = network((x / (sigma**2 + 1) ** 0.5).float(), t).sample
        x = scheduler.step(output.double(), t, x).prev_sample
    assert_same_run(ours, [*states, x])
