#!/bin/sh
# Starts PostgreSQL, and on an empty volume makes the data folder first.
#
# The variables are those of the well-known images: POSTGRES_USER (postgres), POSTGRES_PASSWORD
# or POSTGRES_PASSWORD_FILE (required), POSTGRES_DB (as the user), POSTGRES_INITDB_ARGS, PGDATA.
# PGDATA must be a folder below the volume, not the volume itself: the data folder is made beside
# it and renamed, so that a start that is interrupted leaves nothing half made.
set -eu

: "${PGDATA:=/var/lib/postgresql/18/docker}"
: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
export PGDATA

if [ "$#" -eq 0 ] || [ "${1#-}" != "$1" ]; then
    set -- postgres "$@"
fi
if [ "$1" != postgres ]; then
    exec "$@"
fi

make_data() {
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
        POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
    fi
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo "set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" >&2
        exit 1
    fi
    parent=$(dirname "$PGDATA")
    mkdir -p "$parent"
    rm -rf "$parent"/.making
    mkdir -m 0700 "$parent"/.making
    new=$parent/.making/data
    (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" > "$parent/.making/password")
    # shellcheck disable=SC2086 # the arguments are several words by intent
    initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile="$parent/.making/password" \
        --auth=scram-sha-256 --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8 \
        ${POSTGRES_INITDB_ARGS:-}
    echo 'host all all all scram-sha-256' >> "$new/pg_hba.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        quoted=$(printf '%s' "$POSTGRES_DB" | sed 's/"/""/g')
        printf 'CREATE DATABASE "%s"\n' "$quoted" | postgres --single -D "$new" -j postgres
    fi
    if [ -d "$PGDATA" ] && ! rmdir "$PGDATA"; then
        echo "PGDATA=$PGDATA must be absent or empty, and a folder below the volume" >&2
        exit 1
    fi
    mv "$new" "$PGDATA"
    rm -rf "$parent"/.making
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    make_data
fi
unset POSTGRES_PASSWORD
# A volume that is given to the pod's group comes with wider rights than PostgreSQL accepts.
chmod 0700 "$PGDATA"

sockets=/var/run/postgresql
[ -w "$sockets" ] || sockets=
shift
exec postgres -c listen_addresses='*' -c unix_socket_directories="$sockets" "$@"
