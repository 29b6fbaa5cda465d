# shellcheck shell=bash
# Shell functions shared by launch/setup.sh, launch/quickstart.sh and tests/run.sh. To be sourced, after `set -euo pipefail`.

perrin_source_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck disable=SC2034 # used by those who source this file
perrin_venv="$perrin_source_dir/.venv"
perrin_child=""
perrin_ticker=""
# A signal may come while the output of a step goes to its log.
exec {perrin_terminal}>&2

# The torch wheel is built for this CUDA; another major version's runtime cannot share a process with it.
readonly kWheelCudaMajor=13

# A standard input that is closed could not be handed on to children.
{ : <&0; } 2>/dev/null || exec </dev/null

say() { printf '%s\n' "$*"; }

# fail MESSAGE: one line that says what is wrong and what to do, then exit 1.
fail() {
  stop_ticker
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# start_ticker LABEL [LOG]: a clock on the last line of a terminal while something long and silent runs; nothing elsewhere.
# With the log of ninja, also how many of its steps are done.
start_ticker() {
  [[ -t 1 ]] || return 0
  (
    trap 'exit 0' TERM
    start=$SECONDS
    while sleep 1; do
      printf '\r\033[K  %s ... %d s %s' "$1" $((SECONDS - start)) \
        "$([[ -z "${2:-}" ]] || tail -n 1 "$2" 2>/dev/null | grep -o '^\[[0-9/]*\]' || true)"
    done
  ) &
  perrin_ticker=$!
}

stop_ticker() {
  [[ -n "$perrin_ticker" ]] || return 0
  kill "$perrin_ticker" 2>/dev/null || true
  wait "$perrin_ticker" 2>/dev/null || true
  perrin_ticker=""
  printf '\r\033[K'
}

# run COMMAND...: runs it as a child that a signal to this script stops at once; gives its exit status.
# A foreground child would make bash hold a TERM back until the child ends by itself.
run() {
  local status=0
  "$@" <&0 &
  perrin_child=$!
  wait "$perrin_child" || status=$?
  perrin_child=""
  return "$status"
}

# stop_on_signals MESSAGE: INT and TERM end the running child, print MESSAGE, and end this script as the signal would have.
stop_on_signals() {
  perrin_stop_message="$1"
  trap 'on_signal 130' INT
  trap 'on_signal 143' TERM
}

# What a second signal does while the child ends: nothing, unless the script knows that its child understands it.
perrin_at_second_signal=""

on_signal() {
  # shellcheck disable=SC2064 # as it is now
  trap "$perrin_at_second_signal" INT TERM
  if [[ -n "$perrin_child" ]]; then
    kill -TERM "$perrin_child" 2>/dev/null || true
    while kill -0 "$perrin_child" 2>/dev/null; do wait "$perrin_child" 2>/dev/null || true; done
  fi
  stop_ticker
  [[ -z "$perrin_stop_message" ]] || printf '\n%s\n' "$perrin_stop_message" >&"$perrin_terminal"
  exit "$1"
}

# Compile jobs at once: one per core, and 2 GiB of memory each, which a file that includes LibTorch needs.
build_jobs() {
  local cores memory_kib by_memory
  cores=$(nproc)
  memory_kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
  by_memory=$((memory_kib / (2 * 1024 * 1024)))
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# The compiler of the CUDA toolkit, on PATH or at its customary place; prints nothing if there is none.
find_nvcc() {
  command -v nvcc || { [[ ! -x /usr/local/cuda/bin/nvcc ]] || echo /usr/local/cuda/bin/nvcc; }
}

# Why the CUDA build cannot be made here; prints nothing if it can. $1: folder of the user's own LibTorch, or empty.
cuda_obstacle() {
  local nvcc toolkit major
  nvcc=$(find_nvcc)
  if [[ -z "$nvcc" ]]; then
    echo "no CUDA toolkit (nvcc) found"
    return
  fi
  if [[ -n "$1" ]]; then
    [[ -e "$1/lib/libtorch_cuda.so" ]] || echo "the LibTorch in $1 has no CUDA operators (libtorch_cuda.so)"
  else
    major=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    [[ "$major" == "$kWheelCudaMajor" ]] || echo "the CUDA toolkit is version ${major:-?}, LibTorch's is $kWheelCudaMajor"
  fi
  toolkit=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  local folder
  for folder in ${NCCL_ROOT:+"$NCCL_ROOT/include"} "$toolkit/include" "$toolkit"/targets/*/include /usr/include /usr/local/include; do
    [[ ! -e "$folder/nccl.h" ]] || return 0
  done
  echo "NCCL's headers are missing (packages libnccl2 and libnccl-dev, or set NCCL_ROOT)"
}

# choose_preset auto|on|off LIBTORCH: prints cuda or cpu. With `on`, what stands against CUDA is an error.
choose_preset() {
  local obstacle
  if [[ "$1" == off ]]; then
    echo cpu
    return
  fi
  obstacle=$(cuda_obstacle "$2" | head -n 1)
  if [[ -z "$obstacle" ]]; then
    echo cuda
  elif [[ "$1" == on ]]; then
    fail "the CUDA build was asked for, but $obstacle; install it, or choose --cuda off"
  else
    echo cpu
  fi
}

# build_preset PRESET ON|OFF LOG [TARGET...]: configures build/PRESET with or without tests and builds it; the output goes to LOG.
# Ninja is started directly: `cmake --build` would keep a TERM from it.
build_preset() {
  local preset=$1 tests=$2 log=$3
  shift 3
  mkdir -p "$(dirname "$log")"
  {
    run cmake --preset "$preset" -DPERRIN_TESTS="$tests" &&
      run nice -n 5 ninja -C "build/$preset" -j "$(build_jobs)" "$@"
  } >"$log" 2>&1
}

# The user's own LibTorch: $PERRIN_LIBTORCH, else the folder that launch/setup.sh recorded; prints nothing if the wheel is used.
own_libtorch() {
  if [[ -n "${PERRIN_LIBTORCH:-}" ]]; then
    echo "$PERRIN_LIBTORCH"
  elif [[ -s "$perrin_source_dir/.perrin-libtorch" ]]; then
    head -n 1 "$perrin_source_dir/.perrin-libtorch"
  fi
}

# CMake and FindCUDAToolkit look for nvcc on PATH.
put_nvcc_on_path() {
  local nvcc
  nvcc=$(find_nvcc)
  [[ -z "$nvcc" ]] || export PATH="$PATH:${nvcc%/*}"
}
