"""Servers come from the environment, as ./test sets it; without them the tests fail."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from yai_agentkit import AgentkitSaver

SERVERS = {
    "postgres": "AGENTKIT_TEST_POSTGRES_URL",
    "pgbouncer": "AGENTKIT_TEST_PGBOUNCER_URL",
    "pgvector": "AGENTKIT_TEST_PGVECTOR_URL",
}


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database."""
    with new_database() as name:
        yield at("postgres", name)


@pytest.fixture(params=["postgres", "pgbouncer", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/agentkit.db"
    else:
        with new_database() as name:
            yield at(request.param, name)


@pytest.fixture
def saver(url: str) -> Iterator[AgentkitSaver]:
    """A saver on each kind of database."""
    with AgentkitSaver.from_conn_string(url) as saver:
        yield saver


def at(server: str, database: str) -> str:
    return os.environ[SERVERS[server]].rsplit("/", 1)[0] + "/" + database


class new_database:
    def __init__(self, server: str = "postgres") -> None:
        self.server = server

    def __enter__(self) -> str:
        self.name = f"python_{uuid.uuid4().hex}"
        self.administer(f"CREATE DATABASE {self.name}")
        return self.name

    def __exit__(self, *_: object) -> None:
        self.administer(f"DROP DATABASE {self.name} WITH (FORCE)")

    def administer(self, sql: str) -> None:
        with psycopg.connect(at(self.server, "postgres"), autocommit=True) as connection:
            connection.execute(sql)
