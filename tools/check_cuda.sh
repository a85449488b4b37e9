#!/usr/bin/env bash
# Everything there is to know on a machine with an NVIDIA GPU, in about ten minutes and with no
# network: builds for that GPU, runs the tests on it (where pytest, torch and diffusers are), looks for
# races and bad accesses (where compute-sanitizer is), and measures, beside PyTorch where that has CUDA.
#
#   tools/check_cuda.sh [--no-build] [FOLDER]    the report goes to FOLDER (default: cuda-report)
set -uo pipefail
cd "$(dirname "$0")/.."

build=yes
[ "${1:-}" = --no-build ] && { build=no; shift; }
out=${1:-cuda-report}
mkdir -p "$out"
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/python:$PWD/benchmarks
failed=()

# section TITLE SECONDS COMMAND…: runs it into FOLDER/TITLE.txt, shows its end, goes on after failures.
section() {
  local title=$1 limit=$2
  shift 2
  printf '\n== %s\n' "$title"
  local start=$SECONDS
  timeout "$limit" "$@" > "$out/$title.txt" 2>&1 || failed+=("$title ($?)")
  tail -40 "$out/$title.txt"
  printf -- '-- %s: %s s\n' "$title" $((SECONDS - start))
}

build_it() {
  cmake -S . -B build-cuda -G "$(command -v ninja > /dev/null && echo Ninja || echo 'Unix Makefiles')" \
    -DSDCORE_CUDA=ON -DSDCORE_INPLACE=ON -DCMAKE_CUDA_ARCHITECTURES=native \
    -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    cmake --build build-cuda -j "$(nproc)"
}

nvidia-smi || { echo "error: nvidia-smi finds no GPU" >&2; exit 1; }
if [ $build = yes ]; then
  export -f build_it
  export python
  section build 300 bash -c build_it
fi
section kernels 120 "$python" benchmarks/cuda.py --kernels --json "$out/kernels.json"
if "$python" -c 'import pytest, torch, diffusers, transformers, gguf' 2> /dev/null; then
  section tests 180 "$python" -m pytest -q tests/cuda -k "not emulated" -p no:cacheprovider
fi
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    section "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$python" benchmarks/cuda.py --kernels --tiny
  done
fi
section benchmark 420 "$python" benchmarks/cuda.py --json "$out/benchmark.json"

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nerror: failed: %s; see %s\n' "${failed[*]}" "$out" >&2
  exit 1
fi
printf '\nall of it passed; the report is in %s\n' "$out"
