#!/usr/bin/env bash
# Runs the tests on a build with AddressSanitizer and UBSan; arguments go to pytest.
#
# Python itself is not built with them, so their runtimes are loaded before it, with the C++ library
# whose exceptions they watch. Leaks are not looked for: Python's own would drown any other.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build-sanitize
cxx=${CXX:-g++}
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER="$cxx" \
  -DSDCORE_SANITIZE=address,undefined -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
cmake --build "$build"
rm -rf "$build/site"
cp -r python "$build/site"
rm -f "$build"/site/sdcore/_core.*.so
cmake --install "$build" --prefix "$build/site" > /dev/null
# An editable install would be found before PYTHONPATH is looked at.
cat > "$build/site/sitecustomize.py" << 'PYTHON'
import sys

sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
PYTHON

runtimes=()
for library in asan ubsan stdc++; do
  runtimes+=("$("$cxx" -print-file-name="lib$library.so")")
done
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export PYTHONPATH=$PWD/$build/site LD_PRELOAD="${runtimes[*]}"
python -c 'import sys, sdcore; sys.exit("build-sanitize" not in sdcore._core.__file__)' ||
  { echo "error: python imports another sdcore than $build/site's" >&2; exit 1; }
exec python -m pytest "$@"
