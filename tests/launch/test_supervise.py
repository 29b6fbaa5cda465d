"""What perrin-supervise does with signals and exit codes, with stand-ins for perrin, mpirun, sleep and scontrol."""

import os
import shutil
import signal
import subprocess
import time

import pytest

PERRIN = """
case "$*" in
  *--dry-run) [ ! -e refuse ] || { echo "error: no such key" >&2; exit 78; }
              printf '[run]\\ndirectory = "runs/a b"\\n\\n[train]\\nsteps = 40\\n\\n[sample]\\nsteps = 5\\n'; exit 0 ;;
  inspect*) echo "inspected $2" >&2; exit 0 ;;
esac
echo "start $PERRIN_RESTART_COUNT" >>starts
mkdir -p "runs/a b/checkpoints"
[ -e late ] || echo "$$" >"runs/a b/incarnation.json"
eval "$ON_TRAIN"
"""
PROGRAMS = {
    "mpirun": 'while [ "${1%perrin}" = "$1" ]; do shift; done; exec "$@"',
    "sleep": 'echo "$1" >>waits',
    "scontrol": 'echo "$*" >>scontrols',
}
DONE = 'echo step 40 >"runs/a b/COMPLETED"'
# A rank that waits for signals, without /bin/sh's habit of waiting for its child first.
WAIT = "exec /usr/bin/env python3 -c 'import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(85)); open(\"ready\", \"w\").close(); time.sleep(60)'"
STUBBORN = WAIT.replace("sys.exit(85)", "open(\"told\", \"w\").close()")


@pytest.fixture
def supervise(source_dir, tmp_path):
    """supervise("--restarts=1", ON_TRAIN="exit 75", ...) -> a process in the folder supervise.folder."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for path, text in {**{programs / name: text for name, text in PROGRAMS.items()}, tmp_path / "perrin": PERRIN}.items():
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copy(source_dir / "launch" / "supervise.sh", tmp_path / "perrin-supervise")

    def start(*options, **variables):
        env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        env.update(variables, PATH=f"{programs}:{os.environ['PATH']}")
        return subprocess.Popen([tmp_path / "perrin-supervise", *options, "mpirun", "-np", "2", "--", "a.toml"], cwd=tmp_path, env=env,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    start.folder = tmp_path
    return start


def lines(supervise, name):
    path = supervise.folder / name
    return path.read_text().splitlines() if path.exists() else []


def end(process):
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout + stderr


def wait_for_file(supervise, name):
    deadline = time.monotonic() + 30
    while not (supervise.folder / name).exists():
        assert time.monotonic() < deadline, f"no {name}"
        time.sleep(0.02)


def test_a_finished_run_is_success_and_a_marker_of_fewer_steps_is_not(supervise):
    assert end(supervise(ON_TRAIN=DONE))[0] == 0
    assert lines(supervise, "starts") == ["start 0"]
    (supervise.folder / "runs" / "a b" / "COMPLETED").write_text("step 39\n")
    assert end(supervise("--restarts=0", ON_TRAIN="exit 0"))[0] == 75


def test_success_is_the_marker_not_the_status(supervise):
    assert end(supervise(ON_TRAIN=f"{DONE}; exit 1"))[0] == 0
    assert end(supervise("--restarts", "0", ON_TRAIN='rm "runs/a b/COMPLETED"; exit 0'))[0] == 75


@pytest.mark.parametrize("status", [64, 65, 66, 73, 76, 77, 78])
def test_what_a_restart_cannot_mend_ends_it(supervise, status):
    assert end(supervise(ON_TRAIN=f"exit {status}"))[0] == status
    assert lines(supervise, "starts") == ["start 0"]


@pytest.mark.parametrize("status", [0, 1, 69, 70, 75, 134, 137])
def test_a_fault_is_answered_by_three_restarts_with_growing_waits(supervise, status):
    code, said = end(supervise(ON_TRAIN=f"exit {status}"))
    assert code == (status or 75)
    assert lines(supervise, "starts") == [f"start {count}" for count in range(4)]
    assert lines(supervise, "waits") == ["2", "8", "32"]
    assert ("inspected runs/a b" in said) == (status != 0)


def test_a_new_checkpoint_gives_new_restarts(supervise):
    on_train = 'n=$(wc -l <starts); [ $n -gt 5 ] || echo step-$n >"runs/a b/checkpoints/latest"; exit 137'
    assert end(supervise("--restarts=1", ON_TRAIN=on_train))[0] == 137
    assert len(lines(supervise, "starts")) == 6  # five that came further, and one that did not


def test_a_folder_in_use_is_tried_again_after_a_restart_only(supervise):
    assert end(supervise("--restarts=2", ON_TRAIN='[ "$PERRIN_RESTART_COUNT" = 0 ] && exit 137; exit 73'))[0] == 73
    assert len(lines(supervise, "starts")) == 3


def test_wrong_configuration_is_said_once_and_nothing_starts(supervise):
    (supervise.folder / "refuse").touch()
    code, said = end(supervise(ON_TRAIN=DONE))
    assert code == 78 and said.count("no such key") == 1 and not lines(supervise, "starts")


@pytest.mark.parametrize("number, status", [(signal.SIGUSR1, 85), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_every_signal_reaches_the_ranks_as_usr1(supervise, number, status):
    process = supervise(ON_TRAIN=WAIT)
    wait_for_file(supervise, "ready")
    process.send_signal(number)
    assert end(process)[0] == status
    assert lines(supervise, "starts") == ["start 0"]


def test_ranks_that_do_not_handle_signals_yet_are_told_once_they_do(supervise):
    (supervise.folder / "late").touch()
    process = supervise(ON_TRAIN=WAIT)
    wait_for_file(supervise, "ready")
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    assert process.poll() is None
    (supervise.folder / "runs" / "a b" / "incarnation.json").write_text("new\n")
    assert end(process)[0] == 85


def test_the_second_interrupt_says_that_it_is_stopping_and_the_third_ends_the_ranks(supervise):
    process = supervise(ON_TRAIN=STUBBORN)
    wait_for_file(supervise, "ready")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        wait_for_file(supervise, "told")
        time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, said = end(process)
    assert code == 130 and "stopping already" in said and "ended now" in said


def test_usr1_puts_a_job_back_into_the_queue_and_a_cancel_does_not(supervise):
    for numbers, status, scontrols in (((signal.SIGUSR1,), 85, ["requeue 7"]), ((signal.SIGTERM,), 143, []), ((signal.SIGUSR1, signal.SIGTERM), 143, [])):
        for name in ("ready", "scontrols"):
            (supervise.folder / name).unlink(missing_ok=True)
        process = supervise("--requeue=3", ON_TRAIN=WAIT.replace("sys.exit(85)", "(time.sleep(1), sys.exit(85))"), SLURM_JOB_ID="7")
        wait_for_file(supervise, "ready")
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.2)
        assert (end(process)[0], lines(supervise, "scontrols")) == (status, scontrols)


def test_requeues_without_a_new_checkpoint_have_a_bound(supervise):
    for count in range(3):
        code, said = end(supervise("--restarts=0", "--requeue=2", ON_TRAIN="exit 137", SLURM_JOB_ID="7"))
        assert code == (85 if count < 2 else 137)
    assert lines(supervise, "scontrols") == ["requeue 7"] * 2
    assert "2 requeues without a new checkpoint: the job ends here" in said
    # Whoever submits it again has looked at it.
    assert end(supervise("--restarts=0", "--requeue=2", ON_TRAIN="exit 137", SLURM_JOB_ID="8"))[0] == 85


def test_requeue_outside_a_job_is_refused(supervise):
    code, said = end(supervise("--requeue=2", ON_TRAIN=DONE))
    assert code == 64 and "Slurm jobs" in said
