"""The real diffusers loads what perrin exports, and predicts the same noise."""

import json

import diffusers
import numpy as np
import torch
from safetensors.numpy import load_file
from small_world import checkpoint




def test_diffusers_loads_the_export_with_the_ema_weights_of_the_checkpoint(perrin, write_config, tmp_path):
    config, run = write_config()
    perrin("train", config)
    perrin("export", run, "--output", tmp_path / "export")

    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "export")
    ema = load_file(checkpoint(run, 20) / "ema-0.safetensors")
    loaded = pipeline.unet.state_dict()
    assert set(loaded) == set(ema)
    for name, tensor in ema.items():
        np.testing.assert_array_equal(loaded[name].numpy(), tensor)
    assert pipeline.scheduler.config.num_train_timesteps == 100

    images = pipeline(batch_size=2, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()


def test_raw_weights_are_exported_on_request(perrin, write_config, tmp_path):
    config, run = write_config(**{"train.steps": 3})
    perrin("train", config)
    perrin("export", run, "--output", tmp_path / "export", "--weights", "raw")
    weights = load_file(checkpoint(run, 3) / "weights.safetensors")
    exported = load_file(tmp_path / "export" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, tensor in weights.items():
        np.testing.assert_array_equal(exported[name], tensor)
    assert json.loads((tmp_path / "export" / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
