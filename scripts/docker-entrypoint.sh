#!/bin/sh
# Start the router in a container, but not open to everybody by accident.
#
# Inside a container every client comes from elsewhere, so a router without a key serves nobody, and one with
# api.allow_unauthenticated serves whoever reaches the port. Which of the two it is has to be said.
set -eu

says_who_may_come_in() {
  python - "${CONFIG_PATH:-config.json}" 2>/dev/null <<'PYTHON'
import json, sys
with open(sys.argv[1], encoding="utf-8-sig") as file:
    api = json.load(file)["api"]
sys.exit(not api.get("api_keys") and api.get("allow_unauthenticated") is not True)
PYTHON
}

may_serve() {
  [ -n "${API_KEY:-}${API_KEYS:-}" ] || [ "${ROUTER_ALLOW_UNAUTHENTICATED:-}" = 1 ] || says_who_may_come_in
}

case "${1:-serve}" in
  check-config | models | -h | --help | --version) ;;
  *)
    if ! may_serve; then
      echo "llama-router does not start in a container without a key. Set API_KEY (docker run -e API_KEY=…)" \
        "or name keys in api.api_keys, or set api.allow_unauthenticated to true in the configuration to serve" \
        "everybody who reaches the port," \
        "or set ROUTER_ALLOW_UNAUTHENTICATED=1 to serve only clients of the container's own network namespace" \
        "(with --network host: those on this machine)." >&2
      exit 2
    fi
    ;;
esac

# exec: the router must get the signals of `docker stop` itself.
exec python -m router "$@"
