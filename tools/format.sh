#!/usr/bin/env bash
# Formats all sources, and fixes what the linter can fix by itself.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -z '*.cpp' '*.h' '*.hpp' '*.cu' '*.cuh' | xargs -0 clang-format -i
ruff format --quiet .
ruff check --fix --quiet .
