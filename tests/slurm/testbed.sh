#!/usr/bin/env bash
# A real Slurm of two nodes on one machine, for tests: the daemons of Debian's packages, each "machine" in namespaces of its own.
#
# A machine is a process that is the first of its PID namespace and owns a network, a host name, mounts and shared memory. Killing
# it is pulling the plug: the kernel ends all its processes and removes its links and mounts, so `down` cannot leave any behind.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

usage() {
  cat <<'HELP'
Usage: tests/slurm/testbed.sh [--state DIR] check | up | run COMMAND... | on MACHINE COMMAND... | mend | pid MACHINE | down

Two nodes (n1, n2: 2 cores and 2 make-believe GPUs each) and a controller (ctl) on a network of their own. Needs root, since it makes
namespaces, and the packages that launch/setup.sh --tests installs. Paths mean the same on all machines and on the host; what
is mounted, listens or shares memory on one does not exist on the others.

  up               start it, after clearing away what a crash has left; nothing to do if it runs
  run COMMAND...   on the controller, in the current folder: sbatch, squeue, scontrol, ...; its exit status
  on MACHINE COMMAND...  on ctl, n1 or n2
  mend             start the daemons that have died, and wait for both nodes
  check            say why there cannot be one here (status 77: no root, or no namespaces)
  pid MACHINE      process id, seen from the host, of the first process of a machine; killing it is pulling the plug
  down             stop everything and remove the state folder
  --state DIR      logs and state (default: build/slurm-testbed)

Partitions: main, whose jobs are requeued 20 s after one of partition urgent wants their nodes. A requeued job may start 11 s
later (Slurm's default is 121 s). DIR/small is a file system of 48 MiB that all machines see, for tests that fill it.

Example: tests/slurm/testbed.sh up && tests/slurm/testbed.sh run srun --nodes=2 hostname; tests/slurm/testbed.sh down
HELP
}

state="$perrin_source_dir/build/slurm-testbed"
if [[ "${1:-}" == --state ]]; then
  state=$(realpath -m "${2:?--state needs a folder}")
  shift 2
fi
readonly kMachines=(ctl n1 n2)
# Seconds for a daemon, or for the nodes to answer.
readonly kDeadline=60
export SLURM_CONF="$state/slurm.conf"

# The first process of a machine, if it lives. A number alone could by now be somebody else's process.
pid_of() {
  local pid
  pid=$(cat "$state/$1.pid" 2>/dev/null) || return 1
  grep -qazF "perrin-machine $state $1" "/proc/$pid/cmdline" 2>/dev/null || return 1
  echo "$pid"
}

# enter MACHINE COMMAND...: runs it there, in the current folder.
enter() {
  local machine=$1 pid
  shift
  pid=$(pid_of "$machine") || fail "the test bed's machine $machine is not running; start it: tests/slurm/testbed.sh up"
  # shellcheck disable=SC2016 # for the shell over there
  nsenter --target "$pid" --net --uts --ipc --mount --pid bash -c 'cd "$1" && shift && exec "$@"' enter "$PWD" "$@"
}

# within WHAT COMMAND...: tries again until it succeeds or the deadline is over.
within() {
  local what=$1 end=$((SECONDS + kDeadline))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "the test bed: no $what within $kDeadline s; the daemons' logs are in $state"
    sleep 0.2
  done
}

write_configuration() {
  cat >"$state/slurm.conf" <<CONF
ClusterName=perrin-testbed
SlurmctldHost=ctl(10.77.0.254)
AuthType=auth/munge
# A requeued job waits for its credentials to expire: 120 s by default.
AuthInfo=socket=$state/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/ctl
SlurmdSpoolDir=$state/spool-%n
# srun --mpi=pmix fails where two nodes share this folder.
TmpFS=$state/tmp-%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
# A lost node is noticed after 20 s, not 300.
SlurmdTimeout=20
# Finished jobs stay visible for as long as a test may ask.
MinJobAge=7200
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n1 NodeAddr=10.77.0.1 CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeAddr=10.77.0.2 CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
  echo "NodeName=n[1-2] Name=gpu File=$state/gpu[0-1]" >"$state/gres.conf"
  mknod "$state/gpu0" c 1 3  # Slurm wants devices; these are /dev/null by another name
  mknod "$state/gpu1" c 1 3
  printf '%s\n' '127.0.0.1 localhost' '10.77.0.254 ctl' '10.77.0.1 n1' '10.77.0.2 n2' >"$state/hosts"
  (umask 077 && head -c 1024 /dev/urandom >"$state/munge.key")
  mkdir -p "$state"/{ctl,small,{spool,tmp}-n{1,2}}
}

# start_machine NAME COMMAND...: COMMAND, if any, enters the mounts that it begins from. The machine outlives this script.
start_machine() {
  local name=$1 launcher
  shift
  # shellcheck disable=SC2016 # for the shell over there, which reaps the orphans of its machine
  setsid "$@" unshare --net --uts --ipc --mount --pid --fork --kill-child --mount-proc bash -c '
    set -e
    hostname "$2"
    [[ "$2" != ctl ]] || mount -t tmpfs -o size=48m small "$1/small"
    mount --bind "$1/hosts" /etc/hosts
    mount -t tmpfs shm /dev/shm
    ip link set lo up
    touch "$1/$2.up"
    while :; do sleep 60; done' "perrin-machine $state $name" "$state" "$name" </dev/null >"$state/$name.log" 2>&1 {perrin_terminal}>&- &
  launcher=$!
  within "machine $name" test -e "$state/$name.up"
  tr -d ' ' <"/proc/$launcher/task/$launcher/children" >"$state/$name.pid"
}

# A switch in the controller's network, with a cable to each node.
connect() {
  local node controller
  controller=$(pid_of ctl)
  enter ctl ip link add br0 type bridge
  enter ctl ip addr add 10.77.0.254/24 dev br0
  enter ctl ip link set br0 up
  for node in n1 n2; do
    # From the host's process ids, not the controller's: they name where the other end goes.
    nsenter --target "$controller" --net ip link add "$node" type veth peer name eth0 netns "$(pid_of "$node")"
    enter ctl ip link set "$node" master br0 up
    enter "$node" ip addr add "10.77.0.${node#n}/24" dev eth0
    enter "$node" ip link set eth0 up
  done
}

daemon_runs() { enter "$1" pgrep -x "$2" >/dev/null; }

# start_daemon MACHINE PROGRAM [ARGUMENT...]: unless it runs. It keeps no file of the caller's open, who may wait for their end.
start_daemon() {
  local machine=$1
  shift
  daemon_runs "$machine" "$1" || enter "$machine" "$@" </dev/null >>"$state/$machine.log" 2>&1 {perrin_terminal}>&-
}

start_daemons() {
  start_daemon ctl munged --force --key-file "$state/munge.key" --socket "$state/munge.socket" --pid-file "$state/munged.pid" \
    --log-file "$state/munged.log" --seed-file "$state/munge.seed"
  within "munge" enter ctl munge --socket "$state/munge.socket" --no-input
  start_daemon ctl slurmctld
  local node
  for node in n1 n2; do start_daemon "$node" slurmd -N "$node"; done
}

nodes_are_up() {
  local states
  states=$(enter ctl sinfo --noheader --Node --partition main --format %T) || return 1
  [[ $(wc -l <<<"$states") == 2 ]] && ! grep -qvxE 'idle|mixed|allocated|completing' <<<"$states"
}

up() {
  if [[ -e "$state" && ! -e "$state/slurm.conf" && -n "$(ls -A "$state")" ]]; then
    fail "$state is not a test bed's folder; give an empty one with --state"
  fi
  if pid_of ctl >/dev/null && pid_of n1 >/dev/null && pid_of n2 >/dev/null; then
    mend
    return
  fi
  down
  mkdir -p "$state"
  write_configuration
  start_machine ctl
  local node
  for node in n1 n2; do start_machine "$node" nsenter --target "$(pid_of ctl)" --mount; done
  connect
  mend
}

mend() {
  pid_of ctl >/dev/null || fail "the test bed is not running; start it: tests/slurm/testbed.sh up"
  start_daemons
  within "answer of both nodes" nodes_are_up
}

down() {
  local machine pid
  for machine in "${kMachines[@]}"; do
    pid=$(pid_of "$machine") || continue
    kill -KILL "$pid"
    # The process is gone once all of its machine's are.
    within "end of machine $machine" eval "! pid_of $machine"
  done
  [[ ! -e "$state/slurm.conf" ]] || rm -rf --one-file-system "$state"
}

case "${1:-}" in
  --help | -h) usage; exit 0 ;;
  check | up | down | mend | run | on | pid) command=$1; shift ;;
  *) fail "unknown command '${1:-}'; tests/slurm/testbed.sh --help lists them" ;;
esac
# Status 77, as test runners have it for a skip, where this machine cannot have a test bed at all.
obstacle=""
if ((EUID != 0)); then
  obstacle="the test bed makes namespaces, which needs root; run as root, or by sudo"
elif ! unshare --net --uts --ipc --mount --pid --fork --mount-proc true 2>/dev/null; then
  obstacle="this system does not allow new namespaces (in a container: --privileged)"
fi
if [[ -n "$obstacle" ]]; then
  printf 'error: %s\n' "$obstacle" >&2
  exit 77
fi
for program in slurmctld slurmd sbatch munged ip nsenter; do
  command -v "$program" >/dev/null || fail "$program is missing; launch/setup.sh --tests installs it"
done

case "$command" in
  check) ;;
  up | down | mend) "$command" ;;
  run) enter ctl "$@" ;;
  on) enter "$@" ;;
  pid) pid_of "${1:?pid needs a machine}" ;;
esac
