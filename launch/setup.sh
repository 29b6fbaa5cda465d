#!/usr/bin/env bash
# Installs what perrin is built with. Idempotent: a second run finds everything and needs no network and no root.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'HELP'
Usage: launch/setup.sh [--tests] [--libtorch DIR] [--cuda auto|on|off]

Installs what is missing to build perrin: Debian packages (as root, or by sudo), and LibTorch from the wheel of
torch 2.11.0 in the project's own virtual environment .venv.

  --tests          also what the tests need: GoogleTest, clang 16 for the fuzz targets, and the Python packages that results are compared with
  --libtorch DIR   use the LibTorch in DIR (it holds include/ and lib/) instead of the wheel; remembered in .perrin-libtorch
  --cuda MODE      auto (default): GPU libraries of LibTorch if a CUDA toolkit is found; on: required; off: left out
  --help           this text

Example: launch/setup.sh --tests
HELP
}

with_tests=no
libtorch=""
cuda=auto
while (($#)); do
  case "$1" in
    --tests) with_tests=yes ;;
    --libtorch) libtorch="${2:?--libtorch needs a folder}"; shift ;;
    --libtorch=*) libtorch="${1#*=}" ;;
    --cuda) cuda="${2:?--cuda needs auto, on or off}"; shift ;;
    --cuda=*) cuda="${1#*=}" ;;
    --help | -h) usage; exit 0 ;;
    *) fail "unknown option '$1'; launch/setup.sh --help lists them" ;;
  esac
  shift
done
[[ "$cuda" =~ ^(auto|on|off)$ ]] || fail "--cuda is auto, on or off, not '$cuda'"

readonly kBuildPackages=(
  build-essential cmake ninja-build ccache git ca-certificates pkg-config python3 python3-venv
  libopenmpi-dev openmpi-bin libhdf5-dev libspdlog-dev libfmt-dev libtomlplusplus-dev libcli11-dev nlohmann-json3-dev
  libpng-dev libjpeg-dev libarchive-dev libzip-dev zlib1g-dev libssl-dev dataset-fashion-mnist)
# clang 14 does not compile <ranges>. The Slurm daemons are for tests/slurm/testbed.sh: without an /etc/slurm/slurm.conf the packages
# start none of their own.
readonly kTestPackages=(libgtest-dev libgmock-dev shellcheck hdf5-tools clang-16 libclang-rt-16-dev
  slurmctld slurmd slurm-client munge iproute2 libfaketime)
readonly kMinimumGcc=11 kMinimumCmake=3.25
# Free disk that LibTorch and a build need together, in GiB: measured 1.3 and 4.8 GB installed, 0.6 and 2.3 GB downloaded, 1 to 2 GB built.
readonly kDiskLightGib=4 kDiskFullGib=10

log="$perrin_source_dir/build/setup.log"
mkdir -p "$(dirname "$log")" 2>/dev/null || fail "cannot write in $perrin_source_dir; run as the user who owns it, or clone elsewhere"
: >"$log" 2>/dev/null || fail "cannot write $log; run as the user who owns it, or remove it"
stop_on_signals "Set-up stopped; run the same command again to go on."
trap stop_ticker EXIT

last_error() { grep -iE '^(E:|error|ERROR)' "$log" | tail -n 1 | cut -c 1-200 || true; }

# --- Debian packages -------------------------------------------------------------------------------------------------

package_installed() { [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" == installed ]]; }

install_packages() {
  local missing=() package privilege=() start=$SECONDS
  command -v dpkg-query >/dev/null || fail "this system has no dpkg; perrin's set-up knows Debian and Ubuntu, elsewhere install by hand: ${packages[*]}"
  for package in "${packages[@]}"; do package_installed "$package" || missing+=("$package"); done
  if ((${#missing[@]} == 0)); then
    say "set-up: Debian packages: all ${#packages[@]} installed"
    return
  fi
  if ((EUID != 0)); then
    # Without a terminal nobody can type sudo's password.
    sudo -n true 2>/dev/null || { command -v sudo >/dev/null && [[ -t 0 ]]; } ||
      fail "no right to install packages; run once as root: apt-get update && apt-get install -y ${missing[*]}"
    sudo -v || fail "sudo was refused; run once as root: apt-get update && apt-get install -y ${missing[*]}"
    privilege=(sudo)
  fi
  say "set-up: Debian packages: installing ${#missing[@]} (${missing[*]})"
  start_ticker "apt-get"
  # A repository of the user's own that does not answer need not stop the set-up: what counts is the install.
  run "${privilege[@]}" apt-get update -qq >>"$log" 2>&1 || true
  run "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 \
    "${missing[@]}" >>"$log" 2>&1 ||
    fail "apt-get could not install ${missing[*]}: $(last_error) Check the network and the apt sources, then run again (log: $log)"
  stop_ticker
  say "set-up: Debian packages: done ($((SECONDS - start)) s)"
}

# --- Compiler, CMake, Python -----------------------------------------------------------------------------------------

# at_least VERSION MINIMUM
at_least() { [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]; }

check_tools() {
  local compiler=${CXX:-g++} version python_candidate
  command -v "$compiler" >/dev/null || fail "the compiler '$compiler' is not on PATH; install g++ 11 or newer, or unset CXX"
  if "$compiler" --version | head -n 1 | grep -qiv clang; then
    version=$("$compiler" -dumpfullversion -dumpversion)
    at_least "$version" "$kMinimumGcc" ||
      fail "$compiler $version is too old for C++20; install g++-$kMinimumGcc or newer, then run again with CXX=g++-$kMinimumGcc"
  fi
  version=$(cmake --version | sed -n '1s/cmake version //p')
  at_least "$version" "$kMinimumCmake" ||
    fail "CMake $version is too old; $kMinimumCmake or newer is needed: python3 -m pip install --user cmake, and put it first on PATH"
  # The system's Python first: a version manager's may lack venv, or go away.
  for python_candidate in /usr/bin/python3 "$(command -v python3 || true)"; do
    [[ -x "$python_candidate" ]] || continue
    if "$python_candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      python="$python_candidate"
      return
    fi
  done
  # A clone that brings its own LibTorch and runs no Python tests needs no Python.
  [[ "$wheels" == none ]] || fail "torch 2.11 needs Python 3.10 or newer with venv; install it (apt-get install python3 python3-venv), or give a LibTorch with --libtorch DIR"
}

# --- LibTorch and the Python packages --------------------------------------------------------------------------------

# Are all requirements of the file completely installed, in their versions? RECORD is what pip writes last.
# With --closed also the wheels that torch itself asks for.
requirements_met() {
  "$perrin_venv/bin/python" - "$@" >>"$log" 2>&1 <<'PYTHON'
import importlib.metadata as metadata
import subprocess
import sys

for line in open(sys.argv[1]):
    name, _, version = line.split("#")[0].strip().partition("==")
    if not name:
        continue
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        sys.exit(f"{name} is not installed")
    if found.version.split("+")[0] != version or found.read_text("RECORD") is None:
        sys.exit(f"{name} {version} is wanted, {found.version} found")
if "--closed" in sys.argv:
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    sys.exit("\n".join(line for line in check.stdout.splitlines() if line.startswith("torch ")) or None)
PYTHON
}

require_disk() {
  local needed=$1 free
  free=$(($(df --output=avail -k "$perrin_source_dir" | tail -n 1) / 1024 / 1024))
  ((free >= needed)) || fail "$free GiB free at $perrin_source_dir, $needed are needed for LibTorch and the build; free some, or clone to another disk"
}

# install_requirements WHAT FILE GIB MEGABYTES [--closed | --no-deps]
install_requirements() {
  local what=$1 file="$perrin_source_dir/launch/$2" gib=$3 size=$4 mode=$5 start=$SECONDS options=()
  if [[ -x "$perrin_venv/bin/python" ]] && requirements_met "$file" "$mode"; then
    say "set-up: $what: installed"
    return
  fi
  require_disk "$gib"
  # An environment whose Python is gone (upgraded, moved with the folder) is made anew.
  "$perrin_venv/bin/python" -m pip --version >>"$log" 2>&1 || {
    rm -rf "$perrin_venv"
    "$python" -m venv "$perrin_venv" >>"$log" 2>&1 ||
      fail "$python could not make $perrin_venv; install python3-venv, then run again (log: $log)"
  }
  say "set-up: $what: downloading and installing (about $size) into .venv"
  start_ticker "pip"
  [[ "$mode" != --no-deps ]] || options=(--no-deps)
  # pip unpacks gigabytes in TMPDIR; a small /tmp would overflow.
  rm -rf "$perrin_venv/tmp"
  mkdir -p "$perrin_venv/tmp"
  TMPDIR="$perrin_venv/tmp" run "$perrin_venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
    "${options[@]}" -r "$file" >>"$log" 2>&1 ||
    fail "pip could not install $what: $(last_error) Check the network, pip's index and the free disk, then run again (log: $log)"
  rm -rf "$perrin_venv/tmp"
  stop_ticker
  say "set-up: $what: done ($((SECONDS - start)) s)"
}

# --- In order --------------------------------------------------------------------------------------------------------

if [[ -n "$libtorch" ]]; then
  [[ -e "$libtorch/lib/libtorch_cpu.so" && -e "$libtorch/include/ATen/ATen.h" ]] ||
    fail "no LibTorch in '$libtorch'; give the folder that holds include/ATen/ATen.h and lib/libtorch_cpu.so"
  (cd "$libtorch" && pwd) >"$perrin_source_dir/.perrin-libtorch"
  [[ -z "${PERRIN_LIBTORCH:-}" || "$PERRIN_LIBTORCH" -ef "$libtorch" ]] ||
    fail "--libtorch gives '$libtorch', but the environment says PERRIN_LIBTORCH='$PERRIN_LIBTORCH', which wins; unset it"
fi
libtorch=$(own_libtorch)

packages=("${kBuildPackages[@]}")
[[ $with_tests == no ]] || packages+=("${kTestPackages[@]}")
install_packages

preset=$(choose_preset "$cuda" "$libtorch")
if [[ "$preset" == cpu && "$cuda" == auto && -n "$(find_nvcc)" ]]; then
  say "set-up: building for the CPU: $(cuda_obstacle "$libtorch" | head -n 1)"
fi
if [[ $with_tests == yes ]]; then
  wheels=tests
elif [[ -n "$libtorch" ]]; then
  wheels=none
elif [[ $preset == cuda ]]; then
  wheels=cuda
else
  wheels=light
fi
python=""
check_tools

case "$wheels" in
  tests) install_requirements "LibTorch and the tests' Python packages" requirements-tests.txt "$kDiskFullGib" "2.5 GB" --closed ;;
  cuda) install_requirements "LibTorch with CUDA" requirements-libtorch-cuda.txt "$kDiskFullGib" "2.3 GB" --closed ;;
  light) install_requirements "LibTorch" requirements-libtorch.txt "$kDiskLightGib" "0.6 GB" --no-deps ;;
esac
[[ -z "$libtorch" ]] || say "set-up: LibTorch: $libtorch (recorded in .perrin-libtorch; remove that file to use the wheel)"
say "set-up: ready ($SECONDS s)"
