"""Networks that compute in bfloat16, beside the same ones in float32."""

import subprocess

import numpy as np
from PIL import Image
from safetensors.numpy import load_file
from small_world import buffers, checkpoint, losses, relative_distance, state


def test_bf16_learns_like_fp32_and_stores_fp32(perrin, write_config):
    runs = {}
    for precision in ("fp32", "bf16"):
        config, runs[precision] = write_config(precision, **{"train.precision": precision})
        said = perrin("train", config)
        assert f"on cpu in {precision}" in said.stdout + said.stderr
    ours, theirs = (np.array([loss for _, loss in losses(runs[precision])]) for precision in ("bf16", "fp32"))
    assert not np.array_equal(ours, theirs)
    assert np.abs(ours - theirs).max() < 0.02 * theirs.max()
    assert relative_distance(state(runs["bf16"], 20)["weights"], state(runs["fp32"], 20)["weights"]) < 0.02

    weights = buffers(checkpoint(runs["bf16"], 20))["weights"]
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}
    bits = np.concatenate([tensor.ravel().view(np.uint32) for tensor in weights.values()])
    assert (bits & 0xFFFF != 0).mean() > 0.5, "the stored weights are not those that bfloat16 rounded"
    perrin("export", runs["bf16"], "--output", runs["bf16"] / "export")
    exported = load_file(runs["bf16"] / "export/unet/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {np.dtype(np.float32)}


def test_sharding_does_not_change_what_bf16_learns(perrin, write_config):
    ends = []
    for shard in (False, True):
        config, run = write_config(f"shard-{shard}", **{"train.precision": "bf16", "optimizer.shard": shard})
        perrin("train", config, ranks=2, timeout=120)
        ends.append(state(run, 20))
    for name, values in ends[0].items():
        assert relative_distance(ends[1][name], values) < 1e-5, name


def test_reproducible_sums_of_bf16_have_the_same_bits_on_1_and_2_ranks(perrin, write_config):
    ends = []
    for ranks in (1, 2):
        config, run = write_config(f"ranks-{ranks}", **{"train.precision": "bf16", "distributed.reduction": "reproducible", "distributed.shards": 4})
        perrin("train", config, ranks=ranks, timeout=120)
        ends.append(state(run, 20))
    for name, values in ends[0].items():
        assert np.array_equal(ends[1][name], values), name


def test_a_run_may_change_its_precision(perrin, write_config):
    config, run = write_config(**{"train.steps": 10, "train.precision": "fp32"})
    perrin("train", config)
    perrin("train", config, "--train.steps=20", "--train.precision=bf16")
    assert [step for step, _ in losses(run)] == list(range(1, 21))


def has_bfloat16_instructions():
    return "avx512_bf16" in subprocess.run(["grep", "-m1", "^flags", "/proc/cpuinfo"], capture_output=True, text=True).stdout.split()


def test_auto_goes_by_the_processor_and_says_so(perrin, write_config):
    config, _ = write_config(**{"train.steps": 1, "train.precision": "auto"})
    said = perrin("train", config)
    assert f"on cpu in {'bf16 (auto: cpu has' if has_bfloat16_instructions() else 'fp32 (auto: cpu has no'} bfloat16 instructions)" in said.stdout
    assert "train.precision" not in said.stderr


def test_bf16_that_the_processor_lacks_is_warned_of(perrin, write_config):
    config, _ = write_config(**{"train.steps": 1, "train.precision": "bf16"})
    said = perrin("train", config)
    assert "on cpu in bf16" in said.stdout
    assert ("cpu has no instructions for it" in said.stderr) == (not has_bfloat16_instructions())


def test_a_picture_of_bf16_is_that_of_training_to_one_level(perrin, write_config):
    config, run = write_config(**{"train.precision": "bf16"})
    perrin("train", config)
    perrin("sample", run, "--threads", 1, "--output", run / "later.png")
    later, then = (np.asarray(Image.open(path)).astype(int) for path in (run / "later.png", run / "samples/step-00000020.png"))
    assert later.shape == then.shape and np.abs(later - then).max() <= 1
