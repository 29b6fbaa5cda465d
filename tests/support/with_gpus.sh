#!/usr/bin/env bash
# with_gpus.sh N COMMAND...: runs the command where there are N NVIDIA GPUs, else says so and exits with 77, which ctest calls skipped.
set -euo pipefail
needed=$1
shift
shopt -s nullglob
gpus=(/dev/nvidia[0-9]*)
if ((${#gpus[@]} < needed)); then
  echo "needs $needed NVIDIA GPUs, found ${#gpus[@]}"
  exit 77
fi
exec "$@"
