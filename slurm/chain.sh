#!/usr/bin/env bash
# For clusters that do not let a job requeue itself: submits a training several times, to run one after the other, each going on
# from the last. A job that finds the run finished ends at once.
set -euo pipefail

if (($# < 2)) || [[ ! "$1" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: slurm/chain.sh JOBS CONFIG [--key=value ...]     options of sbatch: in SBATCH_* variables, or edit slurm/train.sbatch" >&2
  echo "Example: SBATCH_TIMELIMIT=8:00:00 slurm/chain.sh 5 configs/ddpm-cifar10.toml" >&2
  exit 64
fi
jobs=$1
shift
name="perrin-$(basename "$1" .toml)"
# singleton: at most one job of this name and user runs at a time.
for ((i = 0; i < jobs; i++)); do
  sbatch --job-name="$name" --dependency=singleton --no-requeue slurm/train.sbatch "$@"
done
