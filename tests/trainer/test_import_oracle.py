"""Models that diffusers made, read by perrin: the same outputs, and every trap of the format either followed or refused by name."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import oracle

DDPM = dict(flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_eps=1e-6, attention_head_dim=None)
SMALL = dict(sample_size=16, in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
# What differs from diffusers' own defaults, which are OpenAI's conventions: {} has all of those.
NETWORKS = {
    "openai": {},
    "ddpm-cifar10": dict(DDPM, sample_size=32, block_out_channels=(32, 64, 64, 64), layers_per_block=2, dropout=0.1,
                         down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
                         up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
    "classes": dict(DDPM, num_class_embeds=7),
    "padding": dict(DDPM, downsample_padding=1),
    "frequencies": dict(DDPM, freq_shift=0),
    "cosine first": dict(DDPM, flip_sin_to_cos=True),
    "heads": dict(DDPM, attention_head_dim=16),
    "epsilon of the norms": dict(DDPM, norm_eps=1e-3),
    "no attention below": dict(DDPM, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2),
    "oblong and gray": dict(DDPM, sample_size=(16, 24), in_channels=1, out_channels=1),
    "scale and shift": dict(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=8),
    "residual resampling": dict(downsample_type="resnet", upsample_type="resnet",
                                down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
                                up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D")),
}


def network(name):
    torch.manual_seed(len(name))
    unet = UNet2DModel(**{**SMALL, **NETWORKS[name]}).eval()
    with torch.no_grad():
        for value in unet.parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
    return unet


def save(unet, folder, **scheduler):
    DDPMPipeline(unet, DDPMScheduler(**scheduler)).save_pretrained(folder)
    return folder


def inputs_of(unet):
    size = unet.config.sample_size
    inputs = dict(x_t=torch.randn(3, unet.config.in_channels, *([size, size] if isinstance(size, int) else size)), t=torch.tensor([0, 500, 999]))
    return dict(inputs, labels=torch.tensor([6, 0, 3])) if unet.config.num_class_embeds else inputs


@torch.no_grad()
def largest_difference(perrin_oracle, unet, folder, tmp_path):
    inputs = inputs_of(unet)
    oracle.save(tmp_path / "in.safetensors", inputs, folder=str(folder))
    perrin_oracle("import", tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    theirs = unet(inputs["x_t"], inputs["t"], class_labels=inputs.get("labels")).sample
    return (safetensors.torch.load_file(tmp_path / "out.safetensors")["epsilon"] - theirs).abs().max().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_imported_network_computes_what_diffusers_does(perrin_oracle, tmp_path, name):
    unet = network(name)
    assert largest_difference(perrin_oracle, unet, save(unet, tmp_path / "model"), tmp_path) < 1e-5


def test_the_old_names_of_attention_are_read(perrin_oracle, tmp_path):
    unet = network("ddpm-cifar10")
    file = save(unet, tmp_path / "model") / "unet" / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in safetensors.torch.load_file(file).items():
        for new, before in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
            name = name.replace(new, before)
        old[name] = tensor
    assert sum("proj_attn" in name for name in old) == 12
    safetensors.torch.save_file(old, file, metadata={"format": "pt"})
    assert largest_difference(perrin_oracle, unet, tmp_path / "model", tmp_path) < 1e-5


def test_keys_that_are_absent_have_diffusers_defaults_not_ddpms(perrin_oracle, tmp_path):
    unet = network("openai")
    file = save(unet, tmp_path / "model") / "unet" / "config.json"
    config = json.loads(file.read_text())
    for key in ("flip_sin_to_cos", "freq_shift", "downsample_padding", "norm_eps", "attention_head_dim", "act_fn", "dropout"):
        del config[key]
    file.write_text(json.dumps(config))
    assert largest_difference(perrin_oracle, unet, tmp_path / "model", tmp_path) < 1e-5


def test_keys_named_as_defaults_are_passed_over_as_diffusers_does(perrin_oracle, tmp_path):
    unet = network("openai")
    file = save(unet, tmp_path / "model") / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "freq_shift": 1, "_use_default_values": ["freq_shift"]}))
    assert largest_difference(perrin_oracle, unet, tmp_path / "model", tmp_path) < 1e-5


def test_the_files_may_lie_side_by_side(perrin_oracle, tmp_path):
    """As in google/ddpm-cifar10-32."""
    unet, flat = network("classes"), tmp_path / "flat"
    folder = save(unet, tmp_path / "model")
    flat.mkdir()
    for file in [*folder.glob("*.json"), *folder.glob("*/*")]:
        shutil.copy(file, flat)
    assert largest_difference(perrin_oracle, unet, flat, tmp_path) < 1e-5


def test_half_precision_is_read_as_the_numbers_it_holds(perrin_oracle, tmp_path):
    unet = network("openai").half()
    unet.save_pretrained(tmp_path / "model" / "unet", variant="fp16")
    DDPMScheduler().save_pretrained(tmp_path / "model" / "scheduler")
    assert largest_difference(perrin_oracle, unet.float(), tmp_path / "model", tmp_path) < 1e-5


# --- What perrin cannot follow -------------------------------------------------------------------------------------------------


@pytest.fixture
def refusal(perrin, tmp_path):
    """refusal(folder): what `perrin import` says, which must fail with the code of data and leave nothing."""

    def call(folder):
        outcome = perrin("import", folder, "--output", tmp_path / "run", check=False)
        assert outcome.returncode == 65, outcome.stdout + outcome.stderr
        assert not (tmp_path / "run").exists()
        return outcome.stderr

    return call


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return save(network("openai"), tmp_path_factory.mktemp("pristine") / "model")


@pytest.fixture
def model(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "model")


@pytest.mark.parametrize("part, key, value", [
    ("unet", "_class_name", "UNet2DConditionModel"), ("unet", "center_input_sample", True), ("unet", "time_embedding_type", "fourier"),
    ("unet", "time_embedding_dim", 64), ("unet", "mid_block_type", None), ("unet", "mid_block_scale_factor", 1.41), ("unet", "act_fn", "gelu"),
    ("unet", "add_attention", False), ("unet", "class_embed_type", "timestep"), ("unet", "downsample_padding", 2), ("unet", "freq_shift", 2),
    ("unet", "down_block_types", ["SkipDownBlock2D", "AttnDownBlock2D"]), ("unet", "up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
    ("unet", "down_block_types", ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]), ("unet", "attn_norm_num_groups", 16),
    ("unet", "resnet_time_scale_shift", "scale_shift"), ("unet", "resnet_time_scale_shift", "spatial"), ("unet", "sample_size", None),
    ("unet", "sample_size", 1e9), ("unet", "sample_size", -1), ("unet", "in_channels", 4), ("unet", "out_channels", 6),
    ("unet", "block_out_channels", [32, 2**62]), ("unet", "block_out_channels", []), ("unet", "block_out_channels", "many"),
    ("unet", "layers_per_block", 1e6), ("unet", "norm_num_groups", 0), ("unet", "num_class_embeds", 2**40), ("unet", "a_new_key", 1),
    ("scheduler", "_class_name", "EulerDiscreteScheduler"), ("scheduler", "beta_schedule", "laplace"), ("scheduler", "variance_type", "fixed_large_log"),
    ("scheduler", "variance_type", "learned"), ("scheduler", "prediction_type", "flow"), ("scheduler", "clip_sample_range", 2.0),
    ("scheduler", "trained_betas", [0.1]), ("scheduler", "num_train_timesteps", 0), ("scheduler", "num_train_timesteps", 10**12)])
def test_a_key_that_perrin_cannot_follow_is_refused_by_name(model, refusal, part, key, value):
    file = model / part / ("config.json" if part == "unet" else "scheduler_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    said = refusal(model)
    assert key in said and str(file if key != "out_channels" else "config.json") in said


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": ' * 10_000])
def test_a_configuration_that_is_none_is_refused(model, refusal, text):
    (model / "unet" / "config.json").write_text(text)
    assert "no JSON object" in refusal(model)


def test_a_pickle_is_never_opened(model, refusal):
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    said = refusal(model)
    assert "pickle" in said and "use_safetensors=False" in said


def test_weights_in_several_files_are_refused(model, refusal):
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    assert "max_shard_size" in refusal(model)


def test_a_folder_without_its_scheduler_is_refused(model, refusal):
    shutil.rmtree(model / "scheduler")
    assert "save_pretrained" in refusal(model)


def with_tensors(model, change):
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file)


@pytest.mark.parametrize("change, said", [
    (lambda tensors: tensors.pop("conv_in.bias"), "'conv_in.bias' is missing"),
    (lambda tensors: tensors.update(extra=torch.zeros(1)), "'extra'"),
    (lambda tensors: tensors.update({"conv_in.bias": torch.zeros(31)}), "'conv_in.bias' has shape [31]"),
    (lambda tensors: tensors.update({"conv_in.bias": torch.zeros(32, dtype=torch.int32)}), "'conv_in.bias' is of type"),
    (lambda tensors: tensors["conv_in.bias"].fill_(float("nan")), "'conv_in.bias' holds values that are not finite"),
    (lambda tensors: tensors.update({"mid_block.attentions.0.query.weight": tensors["mid_block.attentions.0.to_q.weight"].clone()}), "old name"),
])
def test_tensors_that_are_not_the_networks_are_named(model, refusal, change, said):
    with_tensors(model, change)
    assert said in refusal(model)


def header_of(tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


F32 = dict(dtype="F32", shape=[2])
HOSTILE = {
    "empty": b"",
    "a header longer than the file": (2**62).to_bytes(8, "little") + b"{}",
    "a size that overflows": header_of({"a": dict(dtype="F32", shape=[2**62, 4], data_offsets=[0, 0])}),
    "tensors that overlap": header_of({"a": dict(F32, data_offsets=[0, 8]), "b": dict(F32, data_offsets=[4, 12])}) + bytes(12),
    "a tensor beyond the end": header_of({"a": dict(F32, data_offsets=[0, 8])}),
    "bytes that nobody owns": header_of({"a": dict(F32, data_offsets=[0, 8])}) + bytes(64),
    "an unknown type": header_of({"a": dict(dtype="F8_E4M3", shape=[8], data_offsets=[0, 8])}) + bytes(8),
    "offsets that are negative": header_of({"a": dict(F32, data_offsets=[-8, 0])}),
    "a pickle": b"\x80\x04\x95" + bytes(64),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["import", "sample"])
def test_a_hostile_file_of_tensors_is_a_clear_error(perrin, model, tmp_path, command, name):
    inside, alone = model / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "alone.safetensors"
    for file, source in ((inside, model), (alone, alone)):
        file.write_bytes(HOSTILE[name])
        outcome = perrin(command, source, "--output", tmp_path / "out", check=False)
        assert outcome.returncode == 65, outcome.stderr
        assert file.name in outcome.stderr and "terminate" not in outcome.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheduler, expected", [
    (DDPMScheduler(variance_type="fixed_large"), {"diffusion.variance_type": "fixed_large"}),
    (DDPMScheduler(), {"diffusion.variance_type": "fixed_small"}),  # the default, which is not DDPM's choice
    (DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True), {"diffusion.prediction": "v"}),
    (DDPMScheduler(prediction_type="sample", beta_schedule="squaredcos_cap_v2", num_train_timesteps=400), {"diffusion.prediction": "x0", "diffusion.timesteps": 400}),
    (DDIMScheduler(beta_schedule="scaled_linear"), {"diffusion.prediction": "epsilon"}),
])
def test_the_process_is_the_schedulers(perrin, model, tmp_path, scheduler, expected):
    scheduler.save_pretrained(model / "scheduler")
    perrin("import", model, "--output", tmp_path / "run")
    found = json.loads(perrin("inspect", tmp_path / "run", "--json").stdout)
    assert {key: found[key] for key in expected} == expected
