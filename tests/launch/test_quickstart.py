"""The order and the memory of launch/quickstart.sh, with stand-ins for the set-up, the build, mpirun and perrin.

The real thing, on a bare Debian, is tests/fresh/run.sh.
"""

import os
import shutil
import signal
import subprocess
import time

import pytest

STAND_INS = {
    "cmake": "exit 0",
    "ninja": "exit 0",
    # Drops mpirun's own options.
    "mpirun": 'while [ "${1%perrin}" = "$1" ]; do shift; done; exec "$@"',
}
PERRIN = """
case "$*" in *--dry-run) printf '[run]\\ndirectory = "runs/quickstart"\\n\\n[train]\\nsteps = 900\\n'; exit 0 ;; esac
echo "$*" >>calls
case "$1" in
  prepare) while [ "$1" != --output ]; do shift; done; mkdir -p "$2"; touch "$2/manifest.json" ;;
  train) mkdir -p runs/quickstart/checkpoints/step-00000900
         echo $$ >runs/quickstart/incarnation.json
         eval "${ON_TRAIN:-}"
         touch runs/quickstart/checkpoints/step-00000900/manifest.json; echo step-00000900 >runs/quickstart/checkpoints/latest
         [ "${TRAIN_STATUS:-0}" != 0 ] || echo step 900 >runs/quickstart/COMPLETED
         exit "${TRAIN_STATUS:-0}" ;;
  evaluate) case "$*" in
      *--samples*) printf '{\\n  "checkpoint": "c",\\n  "n": 500,\\n  "fashion_fid": 48.254321,\\n  "fashion_fid_infinity": 40.0,\\n  "reference_images": 60000\\n}\\n' ;;
      *) echo "held-out loss 0.05" ;;
    esac ;;
  sample) touch "$6" ;;
  export) mkdir -p "$4" ;;
esac
"""


@pytest.fixture
def quickstart(source_dir, tmp_path):
    """quickstart(ON_TRAIN="...", TRAIN_STATUS="85") -> (process, commands that perrin was given)."""
    (tmp_path / "launch").mkdir()
    for name in ("common.sh", "quickstart.sh"):
        shutil.copy(source_dir / "launch" / name, tmp_path / "launch" / name)
    programs = {tmp_path / "programs" / name: text for name, text in STAND_INS.items()}
    programs[tmp_path / "launch" / "setup.sh"] = "exit 0"
    programs[tmp_path / "build" / "cpu" / "launch" / "perrin"] = PERRIN
    for path, text in programs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copy(source_dir / "launch" / "supervise.sh", tmp_path / "build" / "cpu" / "launch" / "perrin-supervise")

    def start(**variables):
        env = {**os.environ, **variables, "PATH": f"{tmp_path / 'programs'}:{os.environ['PATH']}"}
        return subprocess.Popen(["bash", tmp_path / "launch" / "quickstart.sh", "--cuda", "off"], env=env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(**variables):
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        process = start(**variables)
        stdout, stderr = process.communicate(timeout=60)
        run = subprocess.CompletedProcess("quickstart", process.returncode, stdout, stderr)
        return run, [line.split()[0] for line in calls.read_text().splitlines()]

    call.start = start
    call.folder = tmp_path
    return call


def test_first_run_does_all_and_says_where_everything_is(quickstart):
    run, commands = quickstart()
    assert run.returncode == 0, run.stderr
    assert commands == ["prepare", "prepare", "train", "evaluate", "sample", "export", "evaluate"]
    for place in ("grid-step-00000900.png", "metrics.jsonl", "checkpoints/step-00000900", "export-step-00000900", "held-out loss 0.05",
                  "fashion_fid 48.3 of 500 samples: how far their features are from those of the 60000 training images; lower is better",
                  "fashion_fid 48.3 of 500 samples (runs/quickstart/scores-step-00000900.json"):
        assert place in run.stdout


def test_second_run_does_only_what_is_missing(quickstart):
    quickstart()
    run, commands = quickstart()
    assert run.returncode == 0 and commands == ["train"]  # which finds its run finished
    (quickstart.folder / "runs" / "quickstart" / "grid-step-00000900.png").unlink()
    assert quickstart()[1] == ["train", "sample"]
    (quickstart.folder / "runs" / "quickstart" / "scores-step-00000900.json").unlink()
    assert quickstart()[1] == ["train", "evaluate"]


def test_failed_training_ends_it_and_the_next_run_goes_on(quickstart):
    run, commands = quickstart(TRAIN_STATUS="78")
    assert run.returncode == 1 and commands == ["prepare", "prepare", "train"]
    assert "Done" not in run.stdout
    assert quickstart()[1] == ["train", "evaluate", "sample", "export", "evaluate"]


def test_time_budget_that_is_over_still_gives_a_picture(quickstart):
    run, commands = quickstart(TRAIN_STATUS="85")
    assert run.returncode == 0 and commands[-4:] == ["evaluate", "sample", "export", "evaluate"]
    assert "launch/quickstart.sh again" in run.stdout


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_the_training_at_once_and_says_how_to_go_on(quickstart, number, status):
    process = quickstart.start(ON_TRAIN="echo $$ >trainer; exec sleep 60")
    pid_file = quickstart.folder / "trainer"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline, "the training did not start"
        time.sleep(0.05)
    trainer = int(pid_file.read_text())
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == status
    assert "it goes on from here" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(trainer, 0)
