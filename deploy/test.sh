#!/bin/sh
# Everything the tests need into .venv, then all checks and tests: `sh deploy/test.sh`. May be run again at any time.
# Arguments go to pytest: `sh deploy/test.sh tests/vision -k align`.
set -eu

CDPATH='' cd -- "$(dirname -- "$0")/.."
. deploy/environment.sh

install_extras cpu train test
.venv/bin/vultus models fetch
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
