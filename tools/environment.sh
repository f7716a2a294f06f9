# What ./test and bench/run share: packages of the system, Python environments, throwaway servers.
# shellcheck shell=bash

PATH=$PATH:/usr/sbin
mkdir -p "${CARGO_TARGET_DIR:-target}"
target=$(realpath "${CARGO_TARGET_DIR:-target}")
owner=postgres # who runs the servers, and their superuser
missing=()     # the packages that are not there

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# need PROGRAM PACKAGE...
need() {
    command -v "$1" >/dev/null || missing+=("${@:2}")
}

need_postgres() {
    [ -n "$(postgres_programs)" ] || missing+=(postgresql postgresql-contrib)
}

need_python() {
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
}

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        fail "install what these Debian packages hold, then run $0 again: ${missing[*]}"
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    say "installing ${missing[*]}"
    "${root[@]}" apt-get update -q >&2
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# The directory of the newest server's programs, empty where there is no server.
postgres_programs() {
    local directory
    for directory in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) \
        "$(pg_config --bindir 2>/dev/null)" "$(dirname "$(command -v initdb)" 2>/dev/null)"; do
        if [ -x "$directory/initdb" ]; then
            echo "$directory"
            return
        fi
    done
}

# make_python_environment DIRECTORY REQUIREMENTS...
make_python_environment() {
    local environment=$1 requirements=("${@:2}")
    # The copy is the last thing written, so an interrupted installation is done again.
    cmp -s <(cat "${requirements[@]}") "$environment/requirements.txt" && return
    say "installing Python packages"
    python3 -m venv --clear "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        "${requirements[@]/#/--requirement=}"
    cat "${requirements[@]}" >"$environment/requirements.txt"
}

# install_saver PYTHON PROFILE: builds what has changed of crates/python.
install_saver() {
    local python=$1 profile=$2
    say "building the Python package"
    rm -rf "$target/wheels/$profile"
    "$python" -m maturin build --quiet --locked --profile "$profile" --out "$target/wheels/$profile" \
        --manifest-path crates/python/Cargo.toml --interpreter "$python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall \
        "$target/wheels/$profile"/*.whl
}

# free_ports COUNT
free_ports() {
    python3 -c '
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))' "$1"
}

# make_server_directory PREFIX: $servers, which goes when the script ends, and the servers with it.
make_server_directory() {
    servers=$(mktemp -d "/tmp/$1.XXXXXX")
    trap stop_servers EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ "$(id -u)" = 0 ]; then
        id "$owner" >/dev/null 2>&1 || fail "add a user $owner: PostgreSQL does not run as root"
        chown "$owner" "$servers"
    fi
    chmod 755 "$servers" # Others read what is meant for clients.
}

# No server runs as root.
unprivileged() (
    cd "$servers"
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid="$owner" --regid="$owner" --init-groups -- "$@"
    else
        exec "$@"
    fi
)

# start_postgres PORT: with the settings that standard input holds.
start_postgres() {
    local programs
    programs=$(postgres_programs)
    say "starting $("$programs/postgres" --version) on port $1"
    # Text sorts by language, as in most databases: a query that needs byte order must ask for it.
    local locale=()
    if [ "$("$programs/initdb" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')" -ge 15 ]; then
        locale=(--locale-provider=icu --icu-locale=en-US)
    fi
    unprivileged "$programs/initdb" --pgdata="$servers/data" --username="$owner" --auth=trust \
        --encoding=UTF8 --no-locale "${locale[@]}" >"$servers/initdb.log" 2>&1
    rm "$servers/initdb.log"
    {
        printf "listen_addresses = '127.0.0.1'\nport = %s\nunix_socket_directories = '%s'\n" \
            "$1" "$servers"
        cat
    } >"$servers/data/postgresql.auto.conf"
    unprivileged "$programs/pg_ctl" start --silent --wait \
        --pgdata="$servers/data" --log="$servers/postgres.log"
}

stop_servers() {
    local status=$?
    trap '' INT TERM
    if [ -f "$servers/pgbouncer.pid" ]; then
        kill "$(cat "$servers/pgbouncer.pid")" || true
    fi
    if [ -f "$servers/data/postmaster.pid" ]; then
        unprivileged "$(postgres_programs)/pg_ctl" stop --silent --mode=immediate \
            --pgdata="$servers/data" || true
    fi
    if [ -f "$servers/pgvector/data/postmaster.pid" ]; then
        unprivileged "$pgvector_programs/pg_ctl" stop --silent --mode=immediate \
            --pgdata="$servers/pgvector/data" || true
    fi
    if [ $status -ne 0 ]; then
        tail -n 20 "$servers"/*.log >&2
        [ ! -s "$servers/failures" ] || cat "$servers/failures" >&2
    fi
    rm -rf "$servers"
    exit $status
}
