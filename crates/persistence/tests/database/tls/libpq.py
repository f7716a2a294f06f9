"""Prints what libpq makes of each connection string that it reads."""

import sys

import psycopg

for line in sys.stdin:
    try:
        with psycopg.connect(line.strip(), connect_timeout=20) as connection:
            query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            (encrypted,) = connection.execute(query).fetchone()
            print("encrypted" if encrypted else "plain", flush=True)
    except psycopg.OperationalError as error:
        print("refused", str(error).replace("\n", " "), flush=True)
