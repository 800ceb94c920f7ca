#!/usr/bin/env bash
# Starts PostgreSQL as its public image does: makes the database at first, from POSTGRES_* and the files given to it.
set -euo pipefail
if [ ! -e "$PGDATA.made" ]; then
    rm -rf "$PGDATA"
    initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") --auth=scram-sha-256 >/tmp/initdb.log
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    export PGPASSWORD=$POSTGRES_PASSWORD
    pg_ctl start --wait --options="-c listen_addresses='' -c unix_socket_directories=/tmp" >/tmp/first.log
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql --quiet --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --file="$file"
    done
    pg_ctl stop --wait >/tmp/first.log
    touch "$PGDATA.made"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp
