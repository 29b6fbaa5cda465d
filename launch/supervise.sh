#!/usr/bin/env bash
# Keeps one training going: hands signals on in the form that Open MPI passes to the ranks, and starts it again after a fault.
# The build puts it beside the program as `perrin-supervise`; launch/quickstart.sh and the batch scripts of slurm/ call it there.
set -euo pipefail

usage() {
  cat <<'HELP'
Usage: perrin-supervise [--restarts N] [--requeue N] LAUNCHER... -- CONFIG.toml [--section.key=value ...]

Runs `LAUNCHER... perrin train CONFIG.toml ...` until the run is finished, which the file COMPLETED in its folder says.

  --restarts N      after a fault that a restart can mend (a killed or silent rank, a lost node), start again up to N times
                    in a row without a new checkpoint, waiting 2 s, then 8 s, then 32 s (default: 3)
  --requeue N       in a Slurm job: where it would exit with 85, or no restart helped, put the job back into the queue; at most
                    N times in a row without a new checkpoint
  --help            this text

INT, TERM, USR1     stop in order: the ranks finish their step, make a checkpoint and end
INT or TERM again   says that it is stopping; the third ends the ranks at once

Exit status: 0 finished; 85 stopped by USR1 or by train.max_minutes, the same command goes on with the run; 130 and 143 stopped
by INT and TERM, and never requeued; else that of the ranks (`perrin --help`), or 75 where they ended unfinished with 0.

Example: build/cpu/launch/perrin-supervise mpirun -np 2 --bind-to none -- configs/quickstart.toml --train.steps=300
HELP
}

say() { printf 'perrin-supervise: %s\n' "$*" >&2; }
refuse() {
  say "error: $*"
  exit 64
}

restarts=3
requeues=""
while (($#)); do
  case "$1" in
    --restarts) restarts="${2:?--restarts needs a number}"; shift ;;
    --restarts=*) restarts="${1#*=}" ;;
    --requeue) requeues="${2:?--requeue needs a number}"; shift ;;
    --requeue=*) requeues="${1#*=}" ;;
    --help | -h) usage; exit 0 ;;
    -*) refuse "unknown option '$1'; perrin-supervise --help lists them" ;;
    *) break ;;
  esac
  shift
done
[[ "$restarts" =~ ^[0-9]+$ ]] || refuse "--restarts takes a number, not '$restarts'"
[[ "$requeues" =~ ^[0-9]*$ ]] || refuse "--requeue takes a number, not '$requeues'"
[[ -z "$requeues" || -n "${SLURM_JOB_ID:-}" ]] || refuse "--requeue is for Slurm jobs"
launcher=()
while (($#)) && [[ "$1" != -- ]]; do
  launcher+=("$1")
  shift
done
((${#launcher[@]} > 0 && $# >= 2)) ||
  refuse "a launcher, -- and a configuration are needed: perrin-supervise mpirun -np 2 -- configs/quickstart.toml"
shift
readonly perrin="${0%-supervise}"
[[ "$perrin" != "$0" && -x "$perrin" ]] || refuse "no program perrin beside $0; use the perrin-supervise of a build or an installation"

readonly kTemporary=75 kUnfinished=85
readonly kWaits=(2 8 32)  # seconds before a restart

# --- Signals ---------------------------------------------------------------------------------------------------------

signals=0
interrupts=0  # INT and TERM
stop_status=""  # how this script ends since it was asked to stop; empty: it was not
child=""

last_start=""  # what the run folder said of its last start before the child began

tell_child() { [[ -z "$child" ]] || kill -s "$1" "$child" 2>/dev/null || true; }

# A USR1 0.1 s after the start left mpirun waiting for 351 s (seen once), likely since the ranks did not handle signals yet. They do
# once the run folder speaks of a new start.
stop_child() {
  [[ -n "$child" ]] || return 0
  (
    while [[ "$(start_of_run)" == "$last_start" ]] && kill -0 "$child" 2>/dev/null; do sleep 0.1; done
    tell_child USR1
  ) &
}

# mpirun passes USR1 on to every rank. At INT and TERM it would kill them within 2 s, too soon for a checkpoint.
on_signal() {
  signals=$((signals + 1))
  [[ "$1" == USR1 ]] || interrupts=$((interrupts + 1))
  if [[ -z "$stop_status" ]]; then
    case "$1" in
      INT) stop_status=130 ;;
      TERM) stop_status=143 ;;
      USR1) stop_status=$kUnfinished ;;
    esac
    say "$1: the ranks finish their step, make a checkpoint and stop"
    stop_child
  elif [[ "$1" == TERM && "$stop_status" == "$kUnfinished" ]]; then
    stop_status=143  # a job that is cancelled while it stops must not come back
  elif ((interrupts >= 3)); then
    say "the ranks are ended now; the run will go on from its last checkpoint"
    tell_child TERM
  elif [[ "$1" != USR1 ]]; then
    say "it is stopping already; the third INT or TERM ends the ranks at once"
  fi
}
trap 'on_signal INT' INT
trap 'on_signal TERM' TERM
trap 'on_signal USR1' USR1

# await COMMAND...: runs it and gives its status, whatever signals come meanwhile.
await() {
  local status=0 again seen=$signals
  # In a session of its own: a terminal's Ctrl-C would reach the launcher too, which kills its ranks at once.
  setsid "$@" <&0 &
  child=$!
  [[ -z "$stop_status" ]] || stop_child  # a signal that came before there was a child to tell
  wait "$child" || status=$?
  # A signal ends `wait` with a status of its own; 127: the true one was given already.
  while ((signals != seen)); do
    seen=$signals
    again=0
    wait "$child" || again=$?
    ((again == 127)) || status=$again
  done
  child=""
  return "$status"
}

# --- The run ---------------------------------------------------------------------------------------------------------

# Also the check of the configuration: what is wrong with it is said once, not by every rank.
resolved=$("$perrin" train "$@" --dry-run) || exit
# value_of SECTION KEY
value_of() { sed -n "/^\[$1\]$/,/^\[/s/^$2 = \"\?\([^\"]*\)\"\?$/\1/p" <<<"$resolved"; }
run=$(value_of run directory)
steps=$(value_of train steps)
readonly run steps

# mpirun may end with 0 after a node was lost, so its status is not asked.
finished() {
  local step
  read -r _ step 2>/dev/null <"$run/COMPLETED" && ((step >= steps))
}

start_of_run() { [[ ! -e "$run/incarnation.json" ]] || cat "$run/incarnation.json"; }

# The name of the newest one, as the last start has left it.
newest_checkpoint() { [[ ! -e "$run/checkpoints/latest" ]] || head -n 1 "$run/checkpoints/latest"; }

# end STATUS: the last word. In a job that may be requeued, one that can go on elsewhere or later goes back into the queue.
end() {
  [[ -n "$requeues" ]] || exit "$1"
  local count=0 since="" newest
  newest=$(newest_checkpoint)
  # Kept with the run, since every start of a job is a new process.
  { read -r count since <"$run/requeues"; } 2>/dev/null || true
  [[ "$since" == "$newest" ]] || count=0
  if ((count >= requeues)); then
    say "$count requeues without a new checkpoint: the job ends here. What stands against the run is said above; then: sbatch again"
    rm -f "$run/requeues"
    exit "$1"
  fi
  mkdir -p "$run"  # a start that was stopped at once has made no folder yet
  echo "$((count + 1)) $newest" >"$run/requeues"
  say "back into the queue (${newest:-no checkpoint yet}; $((count + 1)) of $requeues without a new one)"
  scontrol requeue "$SLURM_JOB_ID" || exit "$1"
  exit "$kUnfinished"
}

attempt=0  # restarts in a row without a new checkpoint
export PERRIN_RESTART_COUNT=0
while true; do
  before=$(newest_checkpoint)
  last_start=$(start_of_run)
  status=0
  [[ -n "$stop_status" ]] || await "${launcher[@]}" "$perrin" train "$@" || status=$?
  if finished; then
    rm -f "$run/requeues"
    exit 0
  fi
  case "${stop_status:-$status}" in
    130 | 143) [[ -z "$stop_status" ]] || exit "$stop_status" ;;
    "$kUnfinished") end "$kUnfinished" ;;
    # The command, the configuration, data, checkpoints, folders, numbers, a start that took over: a restart would find them as they are.
    2 | 64 | 65 | 66 | 76 | 77 | 78 | 126 | 127) exit "$status" ;;
    # A folder that is in use may still be so by ranks of the start that this one replaces, on a node that nobody reaches.
    73) ((PERRIN_RESTART_COUNT + ${SLURM_RESTART_COUNT:-0} > 0)) || exit "$status" ;;
    0) status=$kTemporary ;;
    *) "$perrin" inspect "$run" >&2 || true ;;  # the ranks' flight records, merged, name the rank that was lost and the operation
  esac
  [[ "$(newest_checkpoint)" == "$before" ]] || attempt=0
  if ((attempt >= restarts)); then
    say "no restart helped (status $status)"
    end "$status"
  fi
  seconds=${kWaits[attempt < ${#kWaits[@]} ? attempt : -1]}
  attempt=$((attempt + 1))
  PERRIN_RESTART_COUNT=$((PERRIN_RESTART_COUNT + 1))  # perrin then waits for ranks of the last start that still hold the run
  say "the ranks ended with status $status; restart $attempt of $restarts in $seconds s"
  last_start="none, so a signal ends the wait at once"
  await sleep "$seconds" || true
done
