#!/usr/bin/env bash
# Start the router: ./scripts/run.sh [arguments of run.py]. Makes .venv and installs what is missing first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
prepare requirements.txt
exec "$python" "$root/run.py" "$@"
