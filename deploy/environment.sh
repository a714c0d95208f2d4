# Sourced by quickstart.sh and test.sh, in the checkout: makes .venv and installs into it, or does nothing when that
# is done. An installation that was interrupted is taken up again.
# usage: install_extras EXTRA...

say() {
    printf '%s\n' "$*" >&2
}

stop() {
    say "error: $*"
    exit 1
}

install_extras() {
    python=${PYTHON:-python3}
    command -v "$python" >/dev/null 2>&1 || stop "$python was not found; install Python 3.11 or newer"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "Python 3.11 or newer is needed, $("$python" --version 2>&1) was found; PYTHON=python3.12 chooses another"

    # What decides an installation: while none of it changes and all extras are in, nothing has to be done.
    fingerprint="$(cat pyproject.toml deploy/constraints.txt | cksum) $(pwd)"
    stamp=.venv/.installed
    installed=
    if [ -f "$stamp" ] && [ "$(sed -n 1p "$stamp")" = "$fingerprint" ]; then
        installed=$(sed -n 2p "$stamp")
    fi
    missing=
    for extra in "$@"; do
        case " $installed " in
        *" $extra "*) ;;
        *) missing="$missing $extra" ;;
        esac
    done
    [ -n "$missing" ] || return 0

    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
            stop "this Python cannot make virtual environments; install them (Debian, Ubuntu: apt install python3-venv)"
        "$python" -m venv .venv || stop "the virtual environment .venv could not be made"
    fi
    extras=$(printf '%s' "$installed$missing" | sed 's/^ *//; s/  */,/g')
    say "Installing into .venv; the first time takes a few minutes ..."
    rm -f "$stamp"
    .venv/bin/python -m pip install -qq --disable-pip-version-check -c deploy/constraints.txt -e ".[$extras]" ||
        stop "pip could not install what is needed (see above); is the package index reachable? Run this again then"
    printf '%s\n%s\n' "$fingerprint" "$(printf '%s' "$extras" | tr ',' ' ')" >"$stamp"
}
