#!/bin/sh
# From a fresh checkout to a running face service: `sh deploy/quickstart.sh`. May be run again at any time.
set -eu
cd "$(dirname "$0")/.."
. deploy/environment.sh

install_extras service cpu
.venv/bin/vultus models fetch
exec .venv/bin/vultus serve
