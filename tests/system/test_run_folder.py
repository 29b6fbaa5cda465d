"""What a run leaves in its folder."""

import json
import struct

from small_world import rows


def png_size(path):
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", header[16:24])


def test_a_run_leaves_grids_metrics_logs_and_its_configuration(perrin, write_config):
    config, run = write_config(**{"train.sample_every": 10, "train.evaluate_every": 10, "train.log_every": 5})
    perrin("train", config, ranks=2, timeout=120)

    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-00000010.png", "step-00000020.png"]
    assert png_size(run / "samples" / "step-00000020.png") == (2 * 8 + 3 * 2, 2 * 8 + 3 * 2)  # two images a side, 2 pixels around each
    assert [row["step"] for row in rows(run)] == [5, 10, 15, 20]
    assert [(row["step"], row["images"], row["weights"]) for row in rows(run, "heldout")] == [(10, 64, "EMA 0.9"), (20, 64, "EMA 0.9")]
    for row in rows(run):
        assert row["images_per_second"] > 0 and row["gradient_norm"] > 0 and row["skipped"] == 0
    for rank in (0, 1):
        assert (run / "logs" / f"rank-{rank}.log").read_text().strip(), f"rank {rank} logged nothing"
    resolved = (run / "config.toml").read_text()
    assert "[optimizer]" in resolved and "clip_norm = 1.0" in resolved  # a default that the configuration does not name


def test_the_stored_configuration_starts_the_same_run(perrin, write_config, tmp_path):
    config, run = write_config(**{"train.steps": 3})
    perrin("train", config)
    perrin("train", run / "config.toml", "--run.directory", tmp_path / "again")
    first, second = (json.loads(perrin("inspect", folder, "--json").stdout)["sha256"] for folder in (run, tmp_path / "again"))
    assert first == second


def test_plain_lines_where_no_person_watches(perrin, write_config):
    config, _ = write_config()
    said = perrin("train", config, ranks=2).stdout
    assert "\r" not in said
    line = next(line for line in said.splitlines() if line.startswith("step 20/20"))
    assert all(word in line for word in ("loss", "images/s", "EMA", "left"))
