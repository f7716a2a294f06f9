#!/usr/bin/env bash
# A PostgreSQL of its own that shows one certificate after the other. Prints its directory and its
# port, then `done` for each command that it reads; ends with its input, and the server with it.
set -euo pipefail
cd "$(dirname "$0")/../../../../.."

. tools/environment.sh

main() {
    programs=$(postgres_programs)
    [ -n "$programs" ] || fail "there is no PostgreSQL: run ./test"
    make_server_directory agentkit-tls
    make_certificates
    port=$(free_ports 1)
    start_postgres "$port" <<SETTINGS
ssl = on
ssl_cert_file = '$servers/good.crt'
ssl_key_file = '$servers/server.key'
SETTINGS
    query "CREATE ROLE plain SUPERUSER LOGIN; CREATE ROLE encrypted SUPERUSER LOGIN"
    printf 'local all all trust\n%s\n%s\n%s\n' 'hostnossl all plain all trust' \
        'hostssl all encrypted all trust' 'host all postgres all trust' |
        unprivileged tee "$servers/data/pg_hba.conf" >/dev/null
    show good
    echo "$servers $port"
    while read -r command argument; do
        "$command" "$argument" </dev/null >&2
        echo done
    done
}

query() {
    unprivileged "$programs/psql" --quiet --no-psqlrc --no-align --tuples-only --host="$servers" \
        --port="$port" --username="$owner" --command="$1" postgres
}

# show NAME: from the next connection on.
show() {
    local file=$servers/$1.crt
    query "ALTER SYSTEM SET ssl_cert_file = '$file'"
    query "SELECT pg_reload_conf()" >/dev/null
    for _ in $(seq 200); do
        [ "$(query 'SHOW ssl_cert_file')" = "$file" ] && return
        sleep 0.05
    done
    fail "PostgreSQL does not show $file"
}

make_certificates() {
    cd "$servers"
    unprivileged openssl ecparam -name prime256v1 -genkey -noout -out server.key
    authority ca ""
    authority other ""
    authority middle "-CA ca.crt -CAkey ca.key"
    local host="-addext subjectAltName=DNS:localhost"
    signed good ca "$host"
    signed address ca "-addext subjectAltName=IP:127.0.0.1"
    signed address-as-name ca "-addext subjectAltName=DNS:127.0.0.1"
    signed wrong-host ca "-addext subjectAltName=DNS:other.example"
    signed other-authority other "$host"
    signed common-name ca ""
    signed common-name-beside-address ca "-addext subjectAltName=IP:127.0.0.2"
    signed for-clients ca "$host -addext extendedKeyUsage=clientAuth"
    signed by-middle middle "$host"
    cat middle.crt >>by-middle.crt
    request -x509 -days 2 -subj /CN=localhost -key server.key -out self-signed.crt
    request -x509 -days 2 -subj /CN=localhost -key server.key -out self-signed-no-authority.crt \
        -addext basicConstraints=critical,CA:FALSE
    request -new -subj /CN=localhost -key server.key -out server.csr
    version_1 version-1 -days 2 -CA ca.crt -CAkey ca.key
    version_1 version-1-expired -days 0 -CA ca.crt -CAkey ca.key
    version_1 version-1-other-authority -days 2 -CA other.crt -CAkey other.key
    version_1 version-1-self-signed -days 2 -key server.key
    cat ca.crt other.crt >both.crt
    chmod a+r ./*.crt
    cd - >/dev/null
}

request() {
    unprivileged openssl req -nodes "$@" 2>>"$servers/certificates.log"
}

# authority NAME OPTIONS
authority() {
    # shellcheck disable=SC2086
    request -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj "/CN=agentkit $1" \
        -keyout "$1.key" -out "$1.crt" $2
}

# signed NAME AUTHORITY OPTIONS
signed() {
    # shellcheck disable=SC2086
    request -x509 -days 2 -subj /CN=localhost -key server.key -out "$1.crt" -CA "$2.crt" \
        -CAkey "$2.key" -addext basicConstraints=critical,CA:FALSE $3
}

# version_1 NAME OPTIONS: as PostgreSQL's documentation makes them.
version_1() {
    unprivileged openssl x509 -req -in server.csr -set_serial 1 -out "$1.crt" "${@:2}" \
        2>>"$servers/certificates.log"
    openssl x509 -in "$1.crt" -noout -text | grep -q 'Version: 1 ' ||
        fail "this openssl makes no certificates of version 1"
}

main
