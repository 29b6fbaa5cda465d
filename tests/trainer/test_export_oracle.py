"""perrin's exports loaded by the real diffusers: the same epsilon, a scheduler that works, and each trap of the format."""

import json

import pytest
import safetensors
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, UNet2DModel

import oracle

EXPORTABLE = [name for name in oracle.NETWORKS if oracle.exportable(name)]


@pytest.fixture(scope="module")
def export(perrin_oracle, tmp_path_factory):
    """Exports a network by perrin: export(name, unet, model={...}, diffusion={...}) -> the folder."""

    def call(name, unet, model={}, diffusion={}):
        folder, network = tmp_path_factory.mktemp("export"), oracle.network_of(name)
        oracle.save(folder / "in.safetensors", oracle.weights_of(unet, name), shape=network["shape"],
                    model={**network["model"], **model}, diffusion={**network["diffusion"], **diffusion})
        perrin_oracle("export", folder / "in.safetensors", folder / "exported")
        return folder / "exported"

    return call


def unet_config(folder):
    return json.loads((folder / "unet" / "config.json").read_text())


def model_index(folder):
    return json.loads((folder / "model_index.json").read_text())


def metadata(folder):
    with safetensors.safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        return file.metadata()


@pytest.fixture(scope="module", params=EXPORTABLE)
def exported(request, export):
    unet = oracle.diffusers_network(request.param)
    return dict(name=request.param, unet=unet, folder=export(request.param, unet))


@pytest.fixture(scope="module")
def quickstart(export):
    return export("quickstart", oracle.diffusers_network("quickstart"))


@torch.no_grad()
def test_diffusers_computes_perrins_epsilon(exported, perrin_oracle, tmp_path):
    name, network, inputs = exported["name"], oracle.network_of(exported["name"]), oracle.inputs_of(exported["name"])
    oracle.save(tmp_path / "in.safetensors", {**inputs, **oracle.weights_of(exported["unet"], name)},
                model=network["model"], shape=network["shape"], channels_last=True)
    perrin_oracle("unet", tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    with safetensors.safe_open(tmp_path / "out.safetensors", "pt") as file:
        perrin = file.get_tensor("epsilon")
    loaded, report = UNet2DModel.from_pretrained(exported["folder"], subfolder="unet", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert (oracle.run(loaded, name, inputs) - perrin).abs().max().item() < 1e-5


@pytest.mark.parametrize("name", ["quickstart", "improved"])
def test_the_pipeline_makes_images(export, name):
    pipeline = DDPMPipeline.from_pretrained(export(name, oracle.diffusers_network(name)))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    channels, height, width = oracle.network_of(name)["shape"]
    assert images.shape == (2, height, width, channels)


def test_the_plain_pipeline_refuses_a_network_with_classes(export):
    """It passes no labels; diffusers asks for the folder's own pipeline instead."""
    folder = export("adm", oracle.diffusers_network("adm"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        DDPMPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def classes_folder(export):
    return export("adm", oracle.diffusers_network("adm"))


def own_pipeline(folder, scheduler=None):
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    return pipeline


@torch.no_grad()
def test_the_folders_pipeline_guides_as_ho_and_salimans(classes_folder):
    """Against the formula written out: eps = uncond + 2.5 (cond - uncond), the conditional variance, diffusers' own scheduler."""
    pipeline, labels = own_pipeline(classes_folder), torch.tensor([3, 1])
    latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images = pipeline(class_labels=labels, guidance_scale=2.5, num_inference_steps=4, latents=latents.clone(), output_type="pt",
                      generator=torch.Generator().manual_seed(2)).images

    scheduler, generator, x = DDPMScheduler.from_config(pipeline.scheduler.config), torch.Generator().manual_seed(2), latents
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        conditional = pipeline.unet(x, t, class_labels=labels).sample
        unconditional = pipeline.unet(x, t, class_labels=torch.full_like(labels, 5)).sample
        eps = unconditional[:, :3] + 2.5 * (conditional[:, :3] - unconditional[:, :3])
        x = scheduler.step(torch.cat([eps, conditional[:, 3:]], 1), t, x, generator=generator).prev_sample
    assert (images - (x / 2 + 0.5).clamp(0, 1)).abs().max().item() < 1e-5


@pytest.mark.parametrize("scheduler", [None, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("name", ["adm", "improved"])
def test_the_folders_pipeline_samples_with_any_scheduler(export, name, scheduler):
    """A learned variance doubles the channels, which only DDPMScheduler understands."""
    pipeline = own_pipeline(export(name, oracle.diffusers_network(name)), scheduler)
    labels = dict(class_labels=[0, 4]) if name == "adm" else dict(batch_size=2)
    images = pipeline(**labels, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    assert torch.isfinite(torch.as_tensor(images)).all()


def test_the_folders_pipeline_refuses_labels_out_of_range(classes_folder):
    pipeline = own_pipeline(classes_folder)
    with pytest.raises(ValueError, match="0 to 5"):
        pipeline(class_labels=[6])
    with pytest.raises(ValueError, match="class_labels"):
        pipeline(batch_size=2)


def test_label_dropout_adds_a_null_class_of_zero(export):
    unet = oracle.diffusers_network("adm")
    with_null, without = export("adm", unet), export("adm", unet, model=dict(label_dropout=0.0))
    assert unet_config(with_null)["num_class_embeds"] == 6 and model_index(with_null)["null_class"] == 5
    assert unet_config(without)["num_class_embeds"] == 5 and model_index(without)["null_class"] is None
    assert unet_config(without)["class_embed_type"] is None
    weight = UNet2DModel.from_pretrained(with_null, subfolder="unet").class_embedding.weight
    assert weight.shape[0] == 6 and not weight[5].any()
    assert weight[:5].equal(UNet2DModel.from_pretrained(without, subfolder="unet").class_embedding.weight)


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


@pytest.mark.parametrize("name, key, wrong", [
    ("quickstart", "flip_sin_to_cos", True), ("quickstart", "freq_shift", 0), ("quickstart", "downsample_padding", 1),
    ("quickstart", "attention_head_dim", 8), ("quickstart", "norm_eps", 1e-5), ("improved", "flip_sin_to_cos", False),
    ("improved", "freq_shift", 1), ("improved", "downsample_padding", 0), ("improved", "attention_head_dim", None),
    ("improved", "attn_norm_num_groups", None)])
@torch.no_grad()
def test_each_wrong_convention_would_change_the_output(export, name, key, wrong):
    """Shows that the comparison of epsilon above would catch the trap: by more than twice its tolerance."""
    inputs = oracle.inputs_of(name)
    right = UNet2DModel.from_pretrained(export(name, oracle.diffusers_network(name)), subfolder="unet")
    trapped = UNet2DModel.from_config({**right.config, key: wrong})
    missing, _ = trapped.load_state_dict(right.state_dict(), strict=False)
    assert not missing  # such a file loads, at most with a warning of tensors left over
    assert (oracle.run(right, name, inputs) - oracle.run(trapped.eval(), name, inputs)).abs().max().item() > 2e-5


def test_heads_and_block_types_are_written_as_diffusers_counts_them(export):
    config = unet_config(export("head_dim", oracle.diffusers_network("head_dim")))
    assert config["attention_head_dim"] == 8
    assert config["sample_size"] == [16, 24]
    assert config["down_block_types"] == ["AttnDownBlock2D", "AttnDownBlock2D"]
    # Four heads of 32 channels.
    assert unet_config(export("improved", oracle.diffusers_network("improved")))["attention_head_dim"] == 8


def test_adms_blocks_are_written_as_diffusers_calls_them(export):
    config = unet_config(export("adm", oracle.diffusers_network("adm")))
    assert config["down_block_types"] == ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
    assert config["up_block_types"] == ["AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
    assert config["downsample_type"] == config["upsample_type"] == "resnet"
    assert config["resnet_time_scale_shift"] == "scale_shift" and config["attn_norm_num_groups"] == 16
    assert config["out_channels"] == 6


def test_attention_stands_at_its_level_on_the_way_up_too(quickstart):
    config = unet_config(quickstart)
    assert config["down_block_types"] == ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]
    assert config["up_block_types"] == ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]


def test_attention_uses_the_names_that_need_no_renaming_on_load(quickstart):
    with safetensors.safe_open(quickstart / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"mid_block.attentions.0.to_q.weight", "mid_block.attentions.0.to_out.0.weight"} <= names
    assert not any(old in name for name in names for old in (".query.", ".key.", ".value.", ".proj_attn."))
    assert metadata(quickstart)["format"] == "pt" and metadata(quickstart)["perrin_weights"] == "raw"


SCHEDULES = dict(linear="linear", scaled_linear="scaled_linear", cosine="squaredcos_cap_v2", sigmoid="sigmoid")
PREDICTIONS = dict(epsilon="epsilon", x0="sample", v="v_prediction")


@pytest.fixture(scope="module")
def scheduler_of(export):
    unets = {name: oracle.diffusers_network(name) for name in ("quickstart", "improved")}

    def call(name="quickstart", **diffusion):
        return DDPMScheduler.from_pretrained(export(name, unets[name], diffusion=diffusion), subfolder="scheduler")

    return call


@pytest.mark.parametrize("beta_schedule", SCHEDULES)
def test_the_scheduler_has_perrins_schedule(scheduler_of, beta_schedule):
    config = scheduler_of(timesteps=500, beta_schedule=beta_schedule).config
    assert config.num_train_timesteps == 500
    assert config.beta_schedule == SCHEDULES[beta_schedule]
    assert (config.beta_start, config.beta_end, config.trained_betas) == (1e-4, 0.02, None)
    assert config.clip_sample is True and config.rescale_betas_zero_snr is False


def test_listed_betas_and_a_terminal_snr_of_zero_are_written(scheduler_of):
    listed = scheduler_of(timesteps=3, beta_schedule="list", betas=[0.1, 0.2, 0.4])
    assert listed.betas.tolist() == pytest.approx([0.1, 0.2, 0.4])
    rescaled = scheduler_of(timesteps=100, prediction="v", zero_terminal_snr=True)
    assert rescaled.config.rescale_betas_zero_snr is True
    assert rescaled.alphas_cumprod[-1].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_scheduler_reads_perrins_prediction(scheduler_of, prediction):
    assert scheduler_of(prediction=prediction).config.prediction_type == PREDICTIONS[prediction]


@pytest.mark.parametrize("name, variance_type", [("quickstart", "fixed_small"), ("quickstart", "fixed_large"), ("improved", "learned_range")])
def test_the_scheduler_has_perrins_variance(scheduler_of, name, variance_type):
    scheduler = scheduler_of(name, variance_type=variance_type)
    assert scheduler.config.variance_type == variance_type
    # fixed_large_log, the trap, yields NaN.
    channels = 2 if variance_type == "learned_range" else 1
    assert torch.isfinite(scheduler.step(torch.randn(1, channels, 4, 4), 499, torch.randn(1, 1, 4, 4)).prev_sample).all()


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_few_steps_begin_at_the_last_timestep(quickstart, kind):
    """The default spacing "leading" would never see t = 999."""
    scheduler = kind.from_pretrained(quickstart, subfolder="scheduler")
    scheduler.set_timesteps(100)
    assert scheduler.timesteps[0] == 999
