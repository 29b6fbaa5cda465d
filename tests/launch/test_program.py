"""The program as a user meets it: help that teaches, messages that say what to do, exit codes that scripts can read."""

import json
import re

import pytest
from small_world import checkpoint, datasets, write_config  # noqa: F401 (fixtures)

COMMANDS = ["prepare", "repack", "train", "evaluate", "sample", "stats", "export", "import", "inspect", "verify", "bench", "selftest", "plan", "submit"]
OK, USAGE, DATA, CHECKPOINT, WATCHDOG, RUN, COMMUNICATION, CONFIG, UNFINISHED = 0, 64, 65, 66, 69, 73, 75, 78, 85


@pytest.fixture
def fails(perrin):
    """fails(code, *arguments): the command leaves with this code; returns the lines on stderr. ranks=... starts it by mpirun."""

    def call(code, *arguments, **options):
        outcome = perrin(*arguments, check=False, **options)
        assert outcome.returncode == code, outcome.stdout + outcome.stderr
        return outcome.stderr

    return call


def test_help_lists_the_commands_that_exist_and_the_exit_codes(perrin):
    text = perrin("--help").stdout
    listed = re.search(r"Subcommands:\n((?:  .*\n)+)", text).group(1)
    assert [line.split()[0] for line in listed.splitlines() if not line.startswith("   ")] == COMMANDS
    codes = [int(number) for number in re.findall(r"^ +(\d+)  ", text.split("Exit codes:")[1], re.MULTILINE)]
    assert {OK, USAGE, DATA, CHECKPOINT, WATCHDOG, RUN, COMMUNICATION, CONFIG, UNFINISHED} < set(codes)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example(perrin, command):
    text = perrin(command, "--help").stdout
    assert re.search(rf"Examples?:\n(.*\n)*?.*perrin {command} ", text), text


def test_version_names_the_libraries(perrin):
    lines = perrin("--version").stdout.splitlines()
    for line, pattern in zip(lines, [r"perrin \d+\.\d+\.\d+", r"LibTorch \d+\.\d+", r"MPI .*\d+\.\d+", r"HDF5 1\.\d+"]):
        assert re.match(pattern, line), line


@pytest.mark.parametrize("arguments, said", [
    ((), "command"),
    (("trian", "a.toml"), "did you mean 'train'?"),
    (("train",), "CONFIG"),
    (("train", "a.toml", "b.toml"), "'b.toml'; it takes one configuration file"),
    (("train", "a.toml", "--lr=1"), "did you mean '--optimizer.lr'?"),
    (("train", "a.toml", "--dryrun"), "did you mean '--dry-run'?"),
    (("sample", "runs/x"), "--output"),
    (("sample", "runs/x", "--output", "a.png", "--stpes", "3"), "perrin sample --help"),
    (("inspect", "runs/x", "--weights", "raw"), "perrin inspect --help"),
    (("export", "runs/x", "--output", "a", "--weights", "best"), "--weights"),
])
def test_a_command_line_that_is_not_understood(fails, arguments, said):
    text = fails(USAGE, *arguments)
    assert text.startswith("error: ") and said in text, text


def test_an_unknown_key_is_an_error_with_line_and_nearest_name(fails, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[optimizer]\n\nlearning_rate = 1e-4\n")
    assert fails(CONFIG, "train", config) == f"error: {config}:3: unknown key 'optimizer.learning_rate'; did you mean 'optimizer.lr'?\n"


def test_overrides_are_as_strict_as_the_file(fails, write_config):
    config, run = write_config()
    assert "command line: 'train.steps' must be an integer" in fails(CONFIG, "train", config, "--train.steps=1.5")
    assert "command line: '--train.steps' needs a value" in fails(CONFIG, "train", config, "--train.steps")
    assert not run.exists()


def test_on_two_ranks_a_configuration_error_is_said_once_and_its_code_arrives(fails, write_config):
    config, run = write_config()
    text = fails(CONFIG, "train", config, "--model.norm_num_groups=3", ranks=2)
    assert text.count("error: ") == 1 and "norm_num_groups = 3 does not divide" in text
    assert not run.exists()


@pytest.mark.parametrize("ranks", [None, 2])
def test_a_dry_run_prints_the_configuration_and_the_estimates_and_makes_nothing(perrin, write_config, tmp_path, ranks):
    config, run = write_config()
    before = sorted(tmp_path.rglob("*"))
    text = perrin("train", config, "--dry-run", "--optimizer.lr", "1e-3", ranks=ranks).stdout
    assert text.count("[optimizer]\n") == 1 and "lr = 0.001\n" in text
    assert re.search(r"# \d+ parameters in \d+ tensors, for images of 1x8x8\n", text)
    assert re.search(r"# memory of each rank: [\d.]+ MiB", text)
    assert "# data: 300 images" in text and "18.8 steps an epoch" in text
    assert f"on {ranks or 1} rank" in text and f"at most {16 // (ranks or 1)} each" in text
    assert sorted(tmp_path.rglob("*")) == before and not run.exists()
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(text)
    assert perrin("train", resolved, "--dry-run", ranks=ranks).stdout == text, "the printed configuration is the configuration"


def test_a_model_that_the_images_do_not_suit_is_refused(fails, write_config):
    config, _ = write_config(**{"model.block_out_channels": [8, 8, 8, 8, 8]})
    assert "cannot be halved 4 times" in fails(CONFIG, "train", config)
    config, _ = write_config(**{"model.attention_resolutions": [5]})
    assert "holds 5, but the levels have the heights [8, 4]" in fails(CONFIG, "train", config)


def test_missing_inputs_have_their_own_codes(fails, write_config, tmp_path):
    config, run = write_config(**{"data.train": ""})
    assert "perrin prepare" in fails(CONFIG, "train", config)
    config, run = write_config(**{"data.train": str(tmp_path / "nowhere")})
    assert "nowhere" in fails(DATA, "train", config)
    assert "nowhere" in fails(DATA, "prepare", "--images", tmp_path / "nowhere", "--labels", tmp_path / "nowhere", "--output", tmp_path / "out")
    for command in ("inspect", "evaluate"):
        assert "nowhere" in fails(CHECKPOINT, command, tmp_path / "nowhere")
    assert not run.exists()


def test_a_run_folder_behind_a_file_is_refused(fails, write_config, tmp_path):
    (tmp_path / "file").write_text("x")
    config, _ = write_config(**{"run.directory": str(tmp_path / "file" / "run")})
    assert "is not a folder" in fails(RUN, "train", config)
    assert (tmp_path / "file").read_text() == "x"


def test_an_allocation_of_more_ranks_is_a_launch_that_went_wrong(fails, write_config):
    config, run = write_config()
    assert "SLURM_NTASKS" in fails(COMMUNICATION, "train", config, env={"SLURM_NTASKS": "2"})
    assert not run.exists()


def test_the_end_of_the_time_budget_has_its_own_code_and_the_same_command_goes_on(perrin, write_config):
    config, run = write_config(**{"train.steps": 40, "train.max_minutes": 1e-6})
    outcome = perrin("train", config, check=False)
    assert outcome.returncode == UNFINISHED, outcome.stderr
    assert "the same command goes on" in outcome.stdout
    assert perrin("train", config, "--train.max_minutes=0", "--train.steps=5").returncode == OK
    assert checkpoint(run, 5).is_dir()


@pytest.fixture(scope="module")
def trained(perrin, datasets, tmp_path_factory):  # noqa: F811
    """A small finished run of 5 steps: (configuration, run folder)."""
    folder = tmp_path_factory.mktemp("trained")
    config, run = folder / "run.toml", folder / "run"
    config.write_text(f"""
[run]
directory = "{run}"
[data]
train = "{datasets / 'train'}"
heldout = "{datasets / 'heldout'}"
[model]
block_out_channels = [8, 16]
layers_per_block = 1
attention_resolutions = [4]
norm_num_groups = 4
[diffusion]
timesteps = 100
[train]
steps = 5
batch_size = 16
[ema]
decays = [0.5]
[sample]
steps = 5
batch_size = 4
[distributed]
device = "cpu"
threads = 1
""")
    perrin("train", config)
    return config, run


def test_a_run_keeps_its_configuration_and_a_log_of_every_rank(trained, perrin):
    config, run = trained
    assert "lr = 2e-4\n" in (run / "config.toml").read_text()
    assert perrin("train", run / "config.toml", "--dry-run").stdout.startswith((run / "config.toml").read_text())
    log = (run / "logs" / "rank-0.log").read_text()
    assert "rank 0 of 1" in log and "LibTorch" in log and "finished at step 5 of 5" in log


def test_keys_that_make_another_run_are_refused_and_the_others_go_through(trained, fails, perrin):
    config, run = trained
    text = fails(CONFIG, "train", config, "--optimizer.lr=1e-3", "--train.log_every=7")
    assert "optimizer.lr: was 2e-4, now 0.001" in text
    assert "train.log_every" in text.split("These may change")[1], "what may change is listed"
    assert perrin("train", config, "--train.log_every=7", "--dry-run").returncode == OK


def test_inspect_says_the_same_as_text_and_as_json(trained, perrin, datasets):  # noqa: F811
    _, run = trained
    found = json.loads(perrin("inspect", run, "--json").stdout)
    assert found["step"] == 5 and found["image_shape"] == [1, 8, 8]
    assert set(found["sha256"]) == {"weights", "adam_m", "adam_v", "ema-0"}
    text = perrin("inspect", checkpoint(run, 5)).stdout
    assert all(sha256 in text for sha256 in found["sha256"].values()) and str(found["parameters"]) in text

    dataset = json.loads(perrin("inspect", datasets / "train", "--json").stdout)
    assert dataset["kind"] == "dataset" and dataset["images"] == 300 and len(dataset["shards"]) == 3
    assert dataset["fingerprint"] == found["dataset_fingerprint"]
    assert dataset["fingerprint"] in perrin("inspect", datasets / "train").stdout


def test_evaluate_gives_the_same_loss_on_any_number_of_ranks(trained, perrin, datasets):  # noqa: F811
    _, run = trained
    alone = json.loads(perrin("evaluate", run, "--json", "--threads", 1).stdout)
    together = json.loads(perrin("evaluate", run, "--json", "--threads", 1, ranks=2).stdout)
    assert alone["images"] == together["images"] == 64 and alone["step"] == 5
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    assert f"held-out loss {alone['loss']:.6f} over 64 images" in perrin("evaluate", run, "--threads", 1).stdout
    other = json.loads(perrin("evaluate", run, "--json", "--heldout", datasets / "train", "--weights", "raw").stdout)
    assert other["images"] == 300 and other["weights"] == "raw"


def test_sample_draws_the_same_picture_on_any_number_of_ranks(trained, perrin, tmp_path):
    _, run = trained
    pictures = []
    for ranks, name in ((None, "a.png"), (2, "new/b.png")):
        perrin("sample", run, "--grid", "2x4", "--steps", 3, "--seed", 5, "--threads", 1, "--output", tmp_path / name, ranks=ranks)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
    perrin("sample", run, "--grid", "2x4", "--steps", 3, "--seed", 6, "--threads", 1, "--output", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() != pictures[0]


@pytest.mark.parametrize("options, code, said", [
    (("--grid", "8"), USAGE, "ROWSxCOLUMNS"),
    (("--grid", "0x8"), CONFIG, "'sample.rows' must be at least 1"),
    (("--steps", "101"), CONFIG, "'sample.steps' = 101 is more than diffusion.timesteps = 100"),
    (("--sampler", "dim"), CONFIG, 'did you mean "ddim"?'),
    (("--device", "gpu"), CONFIG, "'distributed.device' must be one of"),
])
def test_sample_checks_its_options_like_the_configuration(trained, fails, tmp_path, options, code, said):
    assert said in fails(code, "sample", trained[1], "--output", tmp_path / "a.png", *options)
    assert not (tmp_path / "a.png").exists()


def test_sample_where_nothing_can_be_written_is_refused_first(trained, fails, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in fails(RUN, "sample", trained[1], "--output", tmp_path / "file" / "a.png")


def test_cuda_without_a_gpu_is_refused_with_the_way_out(trained, fails, tmp_path):
    text = fails(COMMUNICATION, "sample", trained[1], "--output", tmp_path / "a.png", "--device", "cuda", env={"CUDA_VISIBLE_DEVICES": ""})
    assert "cpu" in text
