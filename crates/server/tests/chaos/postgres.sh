#!/usr/bin/env bash
# A PostgreSQL of its own for the chaos test. Prints its URL, then `done` for each command that it
# reads; ends with its input, and the server with it.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

. tools/environment.sh

main() {
    programs=$(postgres_programs)
    [ -n "$programs" ] || fail "there is no PostgreSQL: run ./test"
    make_server_directory agentkit-chaos
    # A socket in its directory: a port could be taken by somebody else while the server is down.
    start_postgres 5432 <<SETTINGS
listen_addresses = ''
max_connections = 200
SETTINGS
    echo "postgresql://$owner@localhost/postgres?host=$servers"
    while read -r command argument; do
        "$command" "$argument" </dev/null >&2
        echo done
    done
}

# As after a power cut: no connection is told, the log is replayed.
crash() {
    unprivileged timeout 90 "$programs/pg_ctl" restart --silent --wait --mode=immediate \
        --pgdata="$servers/data" --log="$servers/postgres.log"
}

# terminate N: every Nth connection.
terminate() {
    unprivileged timeout 90 "$programs/psql" --quiet --no-psqlrc --host="$servers" --username="$owner" \
        --output=/dev/null --command="
        SELECT pg_terminate_backend(pid) FROM (
            SELECT pid, row_number() OVER (ORDER BY pid) AS number FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
        ) AS backends WHERE number % $1 = 0"
}

main
