#!/bin/sh
# Passwords and the shared secret for docker-compose.yml, into deploy/secrets: `sh deploy/secrets.sh`. What is there
# already is kept: with another secret nothing that is keyed by it could be compared any more.
set -eu

CDPATH='' cd -- "$(dirname -- "$0")"
umask 077
mkdir -p secrets

random() {
    od -A n -v -t x1 -N 32 /dev/urandom | tr -d ' \n'
}

# usage: keep NAME, with the content on standard input
keep() {
    if [ -e "secrets/$1" ]; then
        cat >/dev/null
        return
    fi
    cat >"secrets/.$1"
    # The containers' users must read them, and are not this one; the folder keeps everybody else out.
    chmod 644 "secrets/.$1"
    mv "secrets/.$1" "secrets/$1"
    printf '%s\n' "made deploy/secrets/$1" >&2
}

random | keep shared_secret
random | keep postgres_password
random | keep redis_password
printf 'postgresql://vultus:%s@postgres/vultus' "$(cat secrets/postgres_password)" | keep vultus_catalog
printf 'redis://:%s@redis/0' "$(cat secrets/redis_password)" | keep vultus_redis
printf 'requirepass %s\nappendonly yes\ndir /data\n' "$(cat secrets/redis_password)" | keep redis_conf
