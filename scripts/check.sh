#!/usr/bin/env bash
# Everything that can be said of the code, and of what it depends on, without running it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
prepare requirements.txt requirements-dev.txt
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
PYTHONPATH=. "$venv/bin/lint-imports" --no-cache
"$python" scripts/audit.py
