#!/usr/bin/env bash
# Installs gliaflow with its pinned dependencies into .venv. Does nothing when that is already done.
#   PYTHON=python3.11 infra/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=.venv
stamp=$venv/.installed
wanted=$(cat requirements/build.txt requirements/lock.txt pyproject.toml infra/setup.sh | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

need() { # need COMMAND PACKAGE…: install Debian packages for a missing command, or say which are missing
    command -v "$1" >/dev/null 2>&1 && return 0
    local missing=$1
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    else
        echo "gliaflow needs '$missing': ask your administrator for the packages: $*" >&2
        exit 1
    fi
}
need cc gcc libc6-dev
need git git
"$python" - <<'PY'
import sys
if not (3, 11) <= sys.version_info < (3, 13):
    sys.exit(f"gliaflow needs Python 3.11 or 3.12, this is {sys.version.split()[0]}: set PYTHON=python3.11")
PY
"$python" -c 'import venv, ensurepip' 2>/dev/null || need python3-venv-is-missing python3-venv python3-dev

echo "Installing into $venv (about 3 minutes, 3 GB) …"
[ -x $venv/bin/python ] || "$python" -m venv $venv
pip="$venv/bin/python -m pip install --disable-pip-version-check --no-input -qq"
$pip -r requirements/build.txt
# pyradiomics' own build file asks for versions that no longer build: it is built with what is installed above
$pip --no-deps --no-build-isolation pyradiomics==3.0.1
$pip -r requirements/lock.txt
$pip --no-deps --no-build-isolation -e .
echo "$wanted" > "$stamp"
echo "Installed: $venv/bin/gliaflow --help"
