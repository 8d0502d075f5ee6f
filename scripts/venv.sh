# Sourced by the other scripts: `prepare FILE…` makes .venv and installs locked requirement files into it, once each;
# `prepare_aside FOLDER FILE` installs one into a folder below .venv that is not on the path.
# shellcheck shell=bash

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
python="$venv/bin/python"

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  echo "llama-router needs Python 3.11 or newer with the venv module, and none was found." >&2
  echo "Install one (Debian: apt install python3 python3-venv) or name it: PYTHON=/path/to/python3.12 $0" >&2
  exit 1
}

prepare() {
  if [ ! -x "$python" ]; then
    local base
    base="$(find_python)"
    echo "Making $venv" >&2
    "$base" -m venv "$venv"
  fi
  local file
  for file in "$@"; do
    install "$file" "$venv/.installed-$file"
  done
}

prepare_aside() {
  install "$2" "$venv/$1/.installed" --target "$venv/$1" --upgrade
}

# install FILE STAMP [OPTIONS OF PIP]: the stamp is a copy, written last, so an interrupted one is taken up again.
install() {
  local file="$1" stamp="$2"
  shift 2
  if ! cmp -s "$root/$file" "$stamp"; then
    echo "Installing $file" >&2
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$root/$file" "$@" >&2
    cp "$root/$file" "$stamp"
  fi
}
