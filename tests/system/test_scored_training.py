"""Samples that a training scores itself: the scores that `perrin evaluate` gives, in a run that is otherwise the same."""

import json
import shutil
import signal

import pytest
from running import Running
from small_world import checkpoint, inspect, rows

SCORED = {"evaluate.samples": 100, "evaluate.samples_every": 10, "sample.batch_size": 16}
LONG = {**SCORED, "sample.steps": 100}
UNFINISHED = 85


def scores(row):
    """What two measurements of the same weights have in common."""
    return {key: value for key, value in row.items() if key not in ("kind", "seconds", "checkpoint")}


@pytest.fixture(scope="module")
def scored(perrin, datasets, tmp_path_factory):
    """A run folder of 20 steps, scored at steps 10 and 20."""
    from small_world import make_config

    config, run = make_config(datasets, tmp_path_factory.mktemp("scored"), "run", **SCORED)
    perrin("train", config)
    return config, run


def test_scores_are_those_of_perrin_evaluate(perrin, scored, tmp_path):
    _, run = scored
    assert [row["step"] for row in rows(run, "samples")] == [10, 20]
    for row in rows(run, "samples"):
        report = json.loads(perrin("evaluate", checkpoint(run, row["step"]), "--samples", 100, "--threads", 1,
                                   "--output", tmp_path, "--json").stdout)
        for key in ("fashion_precision", "fashion_recall", "fashion_fid_infinity"):  # of the thorough evaluation only
            report.pop(key, None)
        assert scores(report) == scores(row)
        kept = json.loads((run / "evaluation" / f"samples-step-{row['step']:08}.json").read_text())
        assert scores(kept) == scores(row)


def test_training_is_the_same_with_and_without_scores(perrin, scored, write_config):
    config, plain = write_config("plain")
    perrin("train", config)
    assert inspect(perrin, plain)["sha256"] == inspect(perrin, scored[1])["sha256"]
    assert rows(plain, "samples") == []


def test_a_run_that_goes_on_has_the_row_of_its_checkpoint_once(perrin, scored, tmp_path):
    config, run = scored
    longer = tmp_path / "longer"
    shutil.copytree(run, longer)
    said = perrin("train", config, f"--run.directory={longer}", "--train.steps=25")
    assert [row["step"] for row in rows(longer, "samples")] == [10, 20, 25]
    assert said.stderr.count("forward passes each") + said.stdout.count("forward passes each") == 1  # those of step 20 were there


@pytest.mark.parametrize("step", [10, 20])  # in the middle, and at the end
def test_scores_that_a_signal_interrupts_are_gone_on_with(perrin, write_config, mpirun, program_environment, tmp_path, step):
    change = {**LONG, "evaluate.samples_every": 10 if step == 10 else 0}
    config, run = write_config("interrupted", **change)
    with Running(mpirun(2, "train", config), program_environment(), tmp_path / "said") as process:
        process.wait_until(lambda: any(file.stat().st_size > 3000 for file in run.glob("evaluation/samples-*.part")))
        process.send(signal.SIGUSR1)
        assert process.end(30) == UNFINISHED
    assert inspect(perrin, run)["step"] == step and rows(run, "samples") == [] and not (run / "COMPLETED").exists()

    again = perrin("train", config, ranks=2)
    assert "batches are done already" in again.stdout + again.stderr
    straight_config, straight = write_config("straight", **change)
    perrin("train", straight_config, ranks=2)
    assert [scores(row) for row in rows(run, "samples")] == [scores(row) for row in rows(straight, "samples")]
    assert (run / "COMPLETED").exists() and not list(run.glob("evaluation/*.part"))


def test_what_cannot_be_scored_is_refused_before_the_first_step(perrin, write_config, tmp_path):
    for change, said in (({"evaluate.samples": 10}, "too few"),
                         ({"evaluate.extractor": "inception.pt", "evaluate.extractor_sha256": "00"}, "inception.pt"),
                         ({"evaluate.reference": str(tmp_path / "nowhere.npz")}, "nowhere.npz"),
                         ({"evaluate.samples": 0}, "evaluate.samples")):
        config, run = write_config("refused", **{**SCORED, **change})
        refused = perrin("train", config, check=False)
        assert refused.returncode not in (0, -signal.SIGSEGV) and said in refused.stderr + refused.stdout, change
        assert not list(run.glob("checkpoints/step-*"))


def test_a_disk_that_refuses_scores_does_not_end_the_training(perrin, write_config):
    config, run = write_config("refused", **SCORED)
    run.mkdir()
    (run / "evaluation").write_text("a file where the folder would be")
    said = perrin("train", config)
    assert (run / "COMPLETED").exists() and "an interruption would lose them" in said.stdout + said.stderr
    assert [row["step"] for row in rows(run, "samples")] == [10, 20]  # the row needs no folder
