# Sourced by quickstart.sh and test.sh: makes .venv, installs the extras asked for, and does nothing when that is done.
# usage: install_extras NAME EXTRAS

install_extras() {
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Vultus needs Python 3.11 or newer; $("$python" --version) was found. Set PYTHON to another one." >&2
        exit 1
    }
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # What decides the installation; the same words mean that nothing has to be done.
    wanted=$(cat pyproject.toml deploy/constraints.txt; echo "$2 $(pwd)")
    stamp=.venv/.installed-$1
    if [ -f "$stamp" ] && [ "$wanted" = "$(cat "$stamp")" ]; then
        return
    fi
    echo "Installing into .venv (a few minutes the first time) ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e ".[$2]"
    printf '%s\n' "$wanted" >"$stamp"
}
