#!/bin/sh
# Builds the image `cpu` without a container engine, starts it, and enrols and identifies a real face through its port:
# `sh deploy/test-image.sh`. Needs root, buildah and debootstrap (Debian: apt-get install buildah debootstrap).
#
# A base made from Debian's packages stands in for the published one under its name, so that nothing but packages is
# downloaded; it is kept, as buildah keeps images, for the next time. Where pip reaches its index through settings of
# this machine, the build gets them: variables PIP_* and SSL_*, and the certificates in /etc/ssl.
set -eu

CDPATH='' cd -- "$(dirname -- "$0")/.."
. deploy/environment.sh

LARGEST_MB=900

[ "$(id -u)" -eq 0 ] || stop "buildah's chroot isolation needs root"
for program in buildah debootstrap curl ps; do
    command -v "$program" >/dev/null 2>&1 || stop "$program was not found (Debian: apt-get install $program)"
done
install_extras cpu train test
python=.venv/bin/python

work=$(mktemp -d)
data=$work/data
container=
service=
# The service itself, behind the processes of buildah, which pass no signal on; it has children of its own.
the_service() {
    inner=$1
    while [ "$(ps -o comm= -p "$inner")" != vultus ]; do
        child=$(ps -o pid= --ppid "$inner" | head -1)
        [ -n "$child" ] || return 1
        inner=$((child))
    done
    echo "$inner"
}
clean() {
    [ -z "$service" ] || kill "$(the_service "$service")" 2>/dev/null || true
    [ -z "$service" ] || wait "$service" 2>/dev/null || true
    [ -z "$container" ] || buildah rm "$container" >/dev/null
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

# --- the base ---

base=$(sed -n 's/^FROM \(python:[^ ]*\) AS runtime$/\1/p' deploy/Dockerfile)
if ! buildah inspect --type image "localhost/$base" >/dev/null 2>&1; then
    say "Making a base from Debian's packages ..."
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/log" ||
        { tail -20 "$work/log" >&2; stop "debootstrap failed"; }
    rm -rf "$work/base/var/cache/apt/archives" "$work/base/var/lib/apt/lists"
    container=$(buildah from scratch)
    cp -a "$work/base/." "$(buildah mount "$container")/"
    buildah umount "$container" >/dev/null
    buildah commit --quiet --rm "$container" "localhost/$base" >/dev/null
    container=
    rm -rf "$work/base"
fi

# --- the build ---

say "Building the image ..."
set --
for name in $(env | sed -n 's/^\(PIP_[A-Z_]*\|SSL_[A-Z_]*\)=.*/\1/p'); do
    set -- "$@" --env "$name"
done
for folder in /etc/ssl/certs /usr/share/ca-certificates /usr/local/share/ca-certificates; do
    [ ! -d "$folder" ] || set -- "$@" --volume "$folder:$folder:ro"
done
buildah bud --isolation chroot --layers --pull-never --format docker "$@" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    --file deploy/Dockerfile --target cpu --tag vultus:cpu . >"$work/log" 2>&1 ||
    { tail -30 "$work/log" >&2; stop "the build failed"; }

# --- what the image is ---

container=$(buildah from --pull-never vultus:cpu)
root=$(buildah mount "$container")
inside() {
    buildah run --isolation chroot "$container" -- "$@"
}
config() {
    buildah inspect --format "{{$1}}" "$container"
}
size=$(du -s --block-size=1000000 "$root" | cut -f 1)
say "unpacked     $size MB"
[ "$size" -le "$LARGEST_MB" ] || stop "the image has $size MB, more than $LARGEST_MB"
[ "$(config .Docker.Config.User)" = vultus ] || stop "the image runs as $(config .Docker.Config.User)"
[ "$(inside id -u)" = 10001 ] || stop "the service does not run as its own user"
for program in cc gcc g++ c++ clang make ld as rustc go; do
    ! inside sh -c "command -v $program" >/dev/null 2>&1 || stop "the image has $program"
done
# A read-only root file system, tried without one: there is nothing that the user could write to.
writable=$(inside find / -xdev \( -path /proc -o -path /dev -o -path /sys -o -path /tmp -o -path /var/tmp \
    -o -path /run/lock -o -path /data \) -prune -o -writable ! -type l -print 2>/dev/null | head -5)
[ -z "$writable" ] || stop "the user may write to $writable"
setuid=$(find "$root/opt" "$root/models" -perm /6000)
[ -z "$setuid" ] || stop "files run as another user: $setuid"
for label in title description licenses version revision; do
    value=$(config "index .Docker.Config.Labels \"org.opencontainers.image.$label\"")
    [ -n "$value" ] && [ "$value" != "<no value>" ] || stop "the image lacks the label $label"
done
inside vultus models check >&2

# --- the service in it ---

# buildah lays a folder of its own over what the image declares as a volume.
buildah config --volume /data- "$container"
install -d -m 700 -o 10001 -g 10001 "$data"
port=$($python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
run() {
    buildah run --isolation chroot --volume "$data:/data" --env VULTUS_PORT="$port" "$container" -- "$@"
}
key=$(run vultus keys create --label test-image --scope read --scope identify --scope enroll --scope manage 2>/dev/null)
# Started as the engine would start it: the entry point with its command.
run vultus serve >"$work/log" 2>&1 &
service=$!
waited=0
until curl -sf "$url/health/ready" >/dev/null; do
    waited=$((waited + 1))
    kill -0 "$service" 2>/dev/null && [ "$waited" -lt 120 ] || { cat "$work/log" >&2; stop "the service did not start"; }
    sleep 1
done
say "ready        $waited s after its start"
run python -c "import urllib.request; urllib.request.urlopen('$url/health/ready', timeout=4)" ||
    stop "the health check fails"
[ "$(curl -s -o /dev/null -w '%{http_code}' "$url/v1/galleries")" = 401 ] || stop "it serves without a key"

$python - "$work" <<'PYTHON'
import sys
from pathlib import Path

from tests.faces import orl_photo

for name, person, photo in (("anna1", 10, 1), ("anna2", 10, 2), ("door", 10, 4), ("stranger", 35, 1)):
    Path(sys.argv[1], f"{name}.pgm").write_bytes(orl_photo(person, photo))
PYTHON
ask() {
    curl -sS -H "Authorization: Bearer $key" "$@"
}
says() {
    $python -c 'import json, sys; print(*(face["decision"] for face in json.load(sys.stdin)["faces"]))'
}
ask "$url/v1/galleries" --json '{"name": "staff"}' >/dev/null
ask -F photo=@"$work/anna1.pgm" -F photo=@"$work/anna2.pgm" "$url/v1/galleries/staff/people/anna/faces" >/dev/null
known=$(ask -F photo=@"$work/door.pgm" "$url/v1/galleries/staff/identify" | says)
unknown=$(ask -F photo=@"$work/stranger.pgm" "$url/v1/galleries/staff/identify" | says)
say "identified   a known face: $known, a stranger: $unknown"
[ "$known $unknown" = "match unknown" ] || stop "the answers are wrong"

# --- backed up, lost, restored ---

run vultus backup - >"$work/vultus.backup"
cp "$data/secret" "$work/secret"
began=$(date +%s)
kill -TERM "$(the_service "$service")"
code=0
wait "$service" || code=$?
service=
say "stopped      in $(($(date +%s) - began)) s"
[ "$code" -eq 0 ] || stop "the service ended with code $code when it was told to stop"
rm -rf "$data"
install -d -m 700 -o 10001 -g 10001 "$data"
install -m 600 -o 10001 -g 10001 "$work/secret" "$data/secret"
run vultus restore - <"$work/vultus.backup" >&2
run vultus people list staff --json | grep -q '"anna"' || stop "the backup did not bring back who was enrolled"

say "The image works."
