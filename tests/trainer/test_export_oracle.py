"""perrin's exports loaded by the real diffusers: the same epsilon, a scheduler that works, and each trap of the format."""

import json

import pytest
import safetensors
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import oracle

DIFFUSION = dict(timesteps=1000, beta_schedule="linear", variance_type="fixed_large")


@pytest.fixture(scope="module")
def export(perrin_oracle, tmp_path_factory):
    """Exports a network by perrin: export(name, unet, diffusion) -> the folder."""

    def call(name, unet, diffusion=DIFFUSION):
        folder, network = tmp_path_factory.mktemp("export"), oracle.NETWORKS[name]
        oracle.save(folder / "in.safetensors", oracle.weights_of(unet), model=network["model"], shape=network["shape"], diffusion=diffusion)
        perrin_oracle("export", folder / "in.safetensors", folder / "exported")
        return folder / "exported"

    return call


def unet_config(folder):
    return json.loads((folder / "unet" / "config.json").read_text())


@pytest.fixture(scope="module", params=oracle.NETWORKS)
def exported(request, export):
    unet = oracle.diffusers_network(request.param)
    return dict(name=request.param, unet=unet, folder=export(request.param, unet))


@pytest.fixture(scope="module")
def quickstart(export):
    return export("quickstart", oracle.diffusers_network("quickstart"))


@torch.no_grad()
def test_diffusers_computes_perrins_epsilon(exported, perrin_oracle, tmp_path):
    network = oracle.NETWORKS[exported["name"]]
    x_t, t = torch.randn(2, *network["shape"]), torch.tensor([0, 999])
    oracle.save(tmp_path / "in.safetensors", dict(x_t=x_t, t=t, eps=x_t.clone(), **oracle.weights_of(exported["unet"])),
                model=network["model"], shape=network["shape"], channels_last=True)
    perrin_oracle("unet", tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    with safetensors.safe_open(tmp_path / "out.safetensors", "pt") as file:
        perrin = file.get_tensor("epsilon")
    loaded, report = UNet2DModel.from_pretrained(exported["folder"], subfolder="unet", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert (loaded(x_t, t).sample - perrin).abs().max().item() < 1e-5


def test_the_pipeline_makes_images(quickstart):
    pipeline = DDPMPipeline.from_pretrained(quickstart)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 28, 28, 1)


def test_every_argument_of_the_network_is_written(exported):
    """A key left out takes diffusers' default, which is not DDPM's, and loads without a word."""
    loaded = UNet2DModel.from_pretrained(exported["folder"], subfolder="unet")
    arguments = {key for key in loaded.config if not key.startswith("_")}
    assert arguments == {key for key in unet_config(exported["folder"]) if not key.startswith("_")}
    assert "_use_default_values" not in unet_config(exported["folder"])


def test_every_argument_of_the_scheduler_is_written(quickstart):
    config = json.loads((quickstart / "scheduler" / "scheduler_config.json").read_text())
    loaded = DDPMScheduler.from_pretrained(quickstart, subfolder="scheduler")
    assert {key for key in loaded.config if not key.startswith("_")} == {key for key in config if not key.startswith("_")}
    assert "_use_default_values" not in config


@pytest.mark.parametrize("key, value", [("flip_sin_to_cos", False), ("freq_shift", 1), ("downsample_padding", 0), ("norm_eps", 1e-6),
                                        ("attention_head_dim", None), ("time_embedding_type", "positional"), ("act_fn", "silu"),
                                        ("center_input_sample", False)])
def test_the_networks_conventions_are_ddpms(quickstart, key, value):
    config = unet_config(quickstart)
    assert key in config and config[key] == value


@pytest.mark.parametrize("key, wrong", [("flip_sin_to_cos", True), ("freq_shift", 0), ("downsample_padding", 1),
                                        ("attention_head_dim", 8)])
@torch.no_grad()
def test_each_wrong_convention_would_change_the_output(quickstart, key, wrong):
    """Shows that the comparison of epsilon above would catch the trap."""
    x_t, t = torch.randn(2, 1, 28, 28), torch.tensor([7, 800])
    right = UNet2DModel.from_pretrained(quickstart, subfolder="unet")
    trapped = UNet2DModel.from_config({**right.config, key: wrong})
    trapped.load_state_dict(right.state_dict())
    assert (right(x_t, t).sample - trapped.eval()(x_t, t).sample).abs().max().item() > 1e-4


def test_heads_and_block_types_are_written_as_diffusers_counts_them(export):
    config = unet_config(export("heads", oracle.diffusers_network("heads")))
    assert config["attention_head_dim"] == 8
    assert config["sample_size"] == [16, 24]
    assert config["down_block_types"] == ["AttnDownBlock2D", "AttnDownBlock2D"]


def test_attention_stands_at_its_level_on_the_way_up_too(quickstart):
    config = unet_config(quickstart)
    assert config["down_block_types"] == ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]
    assert config["up_block_types"] == ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]


def test_attention_uses_the_names_that_need_no_renaming_on_load(quickstart):
    with safetensors.safe_open(quickstart / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {"mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.to_out.0.weight"} <= names
    assert not any(old in name for name in names for old in (".query.", ".key.", ".value.", ".proj_attn."))
    assert metadata["format"] == "pt" and metadata["perrin_weights"] == "raw"


@pytest.mark.parametrize("beta_schedule, variance_type", [("linear", "fixed_large"), ("cosine", "fixed_small")])
def test_the_scheduler_has_perrins_schedule_and_variance(export, beta_schedule, variance_type):
    folder = export("quickstart", oracle.diffusers_network("quickstart"),
                    dict(timesteps=500, beta_schedule=beta_schedule, variance_type=variance_type))
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    assert scheduler.config.num_train_timesteps == 500
    assert scheduler.config.beta_schedule == dict(linear="linear", cosine="squaredcos_cap_v2")[beta_schedule]
    assert scheduler.config.variance_type == variance_type
    assert scheduler.config.prediction_type == "epsilon"
    assert scheduler.config.clip_sample is True
    # Neither trap of the variance: fixed_large_log yields NaN.
    assert torch.isfinite(scheduler.step(torch.randn(1, 1, 4, 4), 499, torch.randn(1, 1, 4, 4)).prev_sample).all()


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_few_steps_begin_at_the_last_timestep(quickstart, kind):
    """The default spacing "leading" would never see t = 999."""
    scheduler = kind.from_pretrained(quickstart, subfolder="scheduler")
    scheduler.set_timesteps(100)
    assert scheduler.timesteps[0] == 999
