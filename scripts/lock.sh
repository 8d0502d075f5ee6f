#!/usr/bin/env bash
# Write the locked, hashed requirement files anew from pyproject.toml. Needs `uv` on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compile=(uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
  --no-annotate --custom-compile-command scripts/lock.sh "$@")
"${compile[@]}" pyproject.toml -o requirements.txt
"${compile[@]}" --group dev -c requirements.txt -o requirements-dev.txt
# The SDK of the previous major version is tested too, from a folder of its own.
echo 'openai==2.54.*' | "${compile[@]}" - -o requirements-openai2.txt
