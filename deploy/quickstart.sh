#!/bin/sh
# From a fresh checkout to a running face service: `sh deploy/quickstart.sh`. May be run again at any time.
# Settings are VULTUS_* variables (see README.md), such as VULTUS_PORT and VULTUS_DATA; PYTHON names the interpreter.
set -eu

# Folders are meant from where the user is, not from the checkout.
case ${VULTUS_DATA:-/} in /*) ;; *) export VULTUS_DATA="$PWD/$VULTUS_DATA" ;; esac
case ${VULTUS_MODELS:-/} in /*) ;; *) export VULTUS_MODELS="$PWD/$VULTUS_MODELS" ;; esac

CDPATH='' cd -- "$(dirname -- "$0")/.."
. deploy/environment.sh

install_extras cpu
.venv/bin/vultus models fetch
exec .venv/bin/vultus serve
