#!/usr/bin/env bash
# Breaks a real training on a real Slurm in every way that docs/reliability.md lists. Needs root, and a build.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"
cd "$perrin_source_dir"
export PERRIN_BINARY="${PERRIN_BINARY:-$perrin_source_dir/build/cpu/launch/perrin}"
[[ -x "$PERRIN_BINARY" && -x "$PERRIN_BINARY-supervise" ]] || fail "no program at $PERRIN_BINARY; build it, or set PERRIN_BINARY"
exec "$perrin_venv/bin/python" tests/faults/run.py "$@"
