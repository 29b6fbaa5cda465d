#!/usr/bin/env bash
# For clusters that do not let a job requeue itself: submits a training several times, to run one after the other, each going on
# from the last. A job that finds the run finished ends at once.
set -euo pipefail

if (($# < 2)) || [[ ! "$1" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: slurm/chain.sh JOBS [--option-of-sbatch=value ...] CONFIG [--section.key=value ...]" >&2
  echo "Example: slurm/chain.sh 5 --nodes=4 --time=8:00:00 configs/ddpm-cifar10.toml" >&2
  exit 64
fi
jobs=$1
shift
options=()
while [[ "${1:-}" == -* ]]; do
  options+=("$1")
  shift
done
# singleton: at most one job of this name and user runs at a time.
for ((i = 0; i < jobs; i++)); do
  sbatch --job-name="perrin-$(basename "$1" .toml)" --dependency=singleton --no-requeue "${options[@]}" slurm/train.sbatch "$@"
done
