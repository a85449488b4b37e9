#!/usr/bin/env bash
# Checks that need no build: format, lint, types, and which room uses which.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -z '*.cpp' '*.h' '*.hpp' '*.cu' '*.cuh' | xargs -0 clang-format --dry-run --Werror
ruff format --check --quiet .
ruff check --quiet .
mypy
python tools/check_layers.py
