#!/usr/bin/env bash
# Everything: lint, types, import contracts, then the tests: ./scripts/test.sh [arguments of pytest].
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
prepare requirements.txt requirements-dev.txt
prepare_aside sdk/openai-2 requirements-openai2.txt
cd "$root"
scripts/check.sh
# Two at a time, as most tests wait for processes; those of a file stay together, as they share a router.
exec "$python" -m pytest --numprocesses=2 --dist=loadfile "$@"
