#!/usr/bin/env bash
# From a clone to pictures and their score: sets up, builds, prepares Fashion-MNIST, trains on 2 ranks, evaluates, samples, exports and scores.
# Run again, it does only what is missing; interrupted, it goes on where it stopped.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'HELP'
Usage: launch/quickstart.sh [--cuda auto|on|off] [--libtorch DIR]

Installs what is missing, builds perrin, converts Fashion-MNIST, trains a small diffusion model from
configs/quickstart.toml, evaluates it on held-out images, draws an 8x8 grid of samples, exports the model and
scores its samples.
About 20 minutes on two CPU cores the first time. Run again, it does only what is missing.

  --cuda MODE     auto (default): build for GPUs if the CUDA toolkit is found; on: required; off: CPU only
  --libtorch DIR  use the LibTorch in DIR instead of the wheel of torch 2.11.0
  --help          this text
HELP
}

cuda=auto
setup_options=()
while (($#)); do
  case "$1" in
    --cuda) cuda="${2:?--cuda needs auto, on or off}"; shift ;;
    --cuda=*) cuda="${1#*=}" ;;
    --libtorch) setup_options+=(--libtorch "${2:?--libtorch needs a folder}"); shift ;;
    --libtorch=*) setup_options+=("$1") ;;
    --help | -h) usage; exit 0 ;;
    *) fail "unknown option '$1'; launch/quickstart.sh --help lists them" ;;
  esac
  shift
done

cd "$perrin_source_dir"
stop_on_signals "Stopped. Run launch/quickstart.sh again: it goes on from here."
trap stop_ticker EXIT

readonly kImages=/usr/share/datasets/fashion-mnist
readonly kDatasets=datasets/fashion-mnist
readonly kClassNames="T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
readonly kConfig=configs/quickstart.toml
readonly kRun=runs/quickstart
readonly kSamples=500

step=0
step() { step=$((step + 1)); say "[$step/8] $*"; }

# --- Build -----------------------------------------------------------------------------------------------------------

step "Set up"
run launch/setup.sh --cuda "$cuda" "${setup_options[@]}" || exit 1
put_nvcc_on_path
preset=$(choose_preset "$cuda" "$(own_libtorch)")
perrin="build/$preset/launch/perrin"

step "Build (preset $preset; some minutes the first time)"
start=$SECONDS
log="build/$preset-build.log"
start_ticker "building" "$log"
build_preset "$preset" OFF "$log" perrin || {
  stop_ticker
  tail -n 30 "$log" >&2
  fail "the build failed; its last lines are above, all of it is in $log"
}
stop_ticker
say "      $perrin ($((SECONDS - start)) s)"

# --- Data ------------------------------------------------------------------------------------------------------------

# prepare NAME PREFIX: a dataset folder appears only when it is whole.
prepare() {
  [[ -e "$kDatasets/$1/manifest.json" ]] && { say "      $kDatasets/$1 (there already)"; return; }
  run "$perrin" prepare --images "$kImages/$2-images-idx3-ubyte.gz" --labels "$kImages/$2-labels-idx1-ubyte.gz" \
    --class-names "$kClassNames" --output "$kDatasets/$1" || exit 1
}

step "Prepare Fashion-MNIST"
prepare train train
prepare heldout t10k

# --- Train -----------------------------------------------------------------------------------------------------------

# Ranks: two, but never two on one GPU.
ranks=2
if [[ $preset == cuda ]] && command -v nvidia-smi >/dev/null && [[ "$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')" == 1 ]]; then
  ranks=1
fi
# Quiet: perrin says itself why it ends; mpirun would add that "the job has been aborted".
mpirun=(mpirun --quiet -np "$ranks" --bind-to none)
(($(nproc) >= ranks)) || mpirun+=(--oversubscribe)
if ((EUID == 0)); then
  # Open MPI asks for both before it runs as root, as in a container.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Threads that spin while they wait would starve the other rank on shared cores.
export OMP_WAIT_POLICY=passive

# The exit code of a run whose time budget (train.max_minutes) is over; see `perrin --help`.
readonly kUnfinished=85

step "Train on $ranks ranks ($kConfig)"
status=0
# It asks the ranks for a checkpoint when this script is stopped, and starts them again after a fault.
# shellcheck disable=SC2016 # for a trap
perrin_at_second_signal='kill -TERM "$perrin_child" 2>/dev/null || true'
run "$perrin-supervise" "${mpirun[@]}" -- "$kConfig" || status=$?
perrin_at_second_signal=""
((status == 0 || status == kUnfinished)) || exit 1
checkpoint="$kRun/checkpoints/$(cat "$kRun/checkpoints/latest" 2>/dev/null || true)"
[[ -e "$checkpoint/manifest.json" ]] ||
  fail "the training left no checkpoint in $kRun/checkpoints; its log is in $kRun/logs"
trained=${checkpoint##*/}

# --- What the checkpoint gives ---------------------------------------------------------------------------------------

evaluation="$kRun/evaluation-$trained.txt"
grid="$kRun/grid-$trained.png"
export_folder="$kRun/export-$trained"
scores="$kRun/scores-$trained.json"

# In sessions of their own: a Ctrl-C would reach mpirun besides the TERM from here, and at a second signal it leaves without its ranks.
step "Evaluate on held-out images"
if [[ ! -e "$evaluation" ]]; then
  run setsid "${mpirun[@]}" "$perrin" evaluate "$kRun" >"$evaluation.tmp" || exit 1
  mv "$evaluation.tmp" "$evaluation"
fi
sed 's/^/      /' "$evaluation"

step "Draw an 8x8 grid of samples"
[[ -e "$grid" ]] || run setsid "${mpirun[@]}" "$perrin" sample "$kRun" --grid 8x8 --output "$grid" || exit 1

step "Export for diffusers"
[[ -e "$export_folder" ]] || run "$perrin" export "$kRun" --output "$export_folder" || exit 1

step "Score $kSamples samples"
if [[ ! -e "$scores" ]]; then
  run setsid "${mpirun[@]}" "$perrin" evaluate "$kRun" --samples "$kSamples" --json >"$scores.tmp" || exit 1
  mv "$scores.tmp" "$scores"
fi
# figure KEY DIGITS: a number of the scores, which are one key a line.
figure() { LC_ALL=C printf "%.$2f" "$(sed -n "s/^ *\"$1\": \([-+.0-9e]*\),\{0,1\}$/\1/p" "$scores")"; }
score="fashion_fid $(figure fashion_fid 1) of $(figure n 0) samples"
say "      $score: how far their features are from those of the $(figure reference_images 0) training images; lower is better"

if ((status == kUnfinished)); then
  next="launch/quickstart.sh again: the time budget of $kConfig was over before its last step"
else
  next="mpirun$( ((EUID != 0)) || echo " --allow-run-as-root") -np $ranks --bind-to none $perrin train $kConfig --train.steps=5000 --train.max_minutes=30"
fi

say "
Done in $((SECONDS / 60)) min $((SECONDS % 60)) s.
  samples     $grid
  metrics     $kRun/metrics.jsonl
  checkpoint  $checkpoint
  export      $export_folder (a diffusers folder, for DDPMPipeline.from_pretrained)
  score       $score ($scores; what it is: docs/evaluation.md)

Next:
  train on        $next
  look inside     $perrin inspect $kRun
  draw more       $perrin sample $kRun --grid 4x4 --output more.png
  another recipe  configs/README.md
  all tests       tests/run.sh"
