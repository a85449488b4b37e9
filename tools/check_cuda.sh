#!/usr/bin/env bash
# Everything there is to know on a machine with an NVIDIA GPU, in about ten minutes and with no
# network: builds for that GPU, runs the tests on it (where pytest, torch and diffusers are), looks for
# races and bad accesses (where compute-sanitizer is), and measures, beside PyTorch where that has CUDA.
# On a Hopper the tests run with its own kernels and with those of older GPUs.
#
#   tools/check_cuda.sh [--no-build] [FOLDER]    the report goes to FOLDER (default: cuda-report)
set -uo pipefail
cd "$(dirname "$0")/.."

build=yes
[ "${1:-}" = --no-build ] && { build=no; shift; }
out=${1:-cuda-report}
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/python:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=()

# start TITLE SECONDS COMMAND…: runs it beside the others, into FOLDER/TITLE.txt.
titles=() jobs=()
start() {
  local title=$1 limit=$2
  shift 2
  timeout "$limit" "$@" > "$out/$title.txt" 2>&1 &
  titles+=("$title") jobs+=($!)
}
# Waits for all that was started, shows the end of each, goes on after failures.
finish() {
  local i
  for i in "${!titles[@]}"; do
    wait "${jobs[$i]}" || failed+=("${titles[$i]} ($?)")
    printf '\n== %s\n' "${titles[$i]}"
    tail -"$1" "$out/${titles[$i]}.txt"
  done
  titles=() jobs=()
  printf -- '-- after %s s\n' "$SECONDS"
}

build_it() {
  cmake -S . -B build-cuda -G "$(command -v ninja > /dev/null && echo Ninja || echo 'Unix Makefiles')" \
    -DSDCORE_CUDA=ON -DSDCORE_INPLACE=ON -DSDCORE_EMULATED_GPU=OFF \
    -DCMAKE_CUDA_ARCHITECTURES="$architecture" -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    cmake --build build-cuda -j "$(nproc)"
}

nvidia-smi || { echo "error: nvidia-smi finds no GPU" >&2; exit 1; }
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
[ "$architecture" = 90 ] && architecture=90a
if [ $build = yes ]; then
  export -f build_it
  export python architecture
  start build 300 bash -c build_it
  finish 5
fi

# What only has to be right shares the GPU.
start checkpoint 240 "$python" -c "import sys, pathlib, full_size
full_size.make_checkpoint(pathlib.Path(sys.argv[1]))" "$work/sd15.safetensors"
start kernels 120 "$python" benchmarks/cuda.py --kernels --json "$out/kernels.json"
if "$python" -c 'import pytest, torch, diffusers, transformers, gguf' 2> /dev/null; then
  workers=()
  "$python" -c 'import xdist' 2> /dev/null && workers=(-n "$(($(nproc) / 3 + 1))")
  pytest=("$python" -m pytest -q tests/cuda -k "not emulated" -p no:cacheprovider --tb=short "${workers[@]}")
  start tests 240 "${pytest[@]}"
  [ "$architecture" = 90a ] &&
    start tests-of-older-kernels 240 env SDCORE_CUDA_ARCHITECTURE=80 "${pytest[@]}"
fi
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    start "$tool" 180 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" benchmarks/cuda.py --kernels --tiny
  done
fi
finish 8

start benchmark 480 "$python" benchmarks/cuda.py --profile --model "$work/sd15.safetensors" \
  --json "$out/benchmark.json"
finish 300

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nerror: failed: %s; see %s\n' "${failed[*]}" "$out" >&2
  exit 1
fi
printf '\nall of it passed; the report is in %s\n' "$out"
