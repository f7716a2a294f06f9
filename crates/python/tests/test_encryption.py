"""What a key of the settings encrypts, from Python, and what LangGraph's saver makes of it."""

import base64
import secrets
import sqlite3

import psycopg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict
from yai_agentkit import AgentkitSaver, AgentkitStore

THREAD = {"configurable": {"thread_id": "thread"}}
PLANTED = "philadelphus"


class State(TypedDict):
    said: str
    values: dict


def graph_on(saver):
    """One whose values stand in the checkpoint and apart of it."""
    graph = StateGraph(State)
    graph.add_node("speak", lambda state: {"said": PLANTED, "values": {"deep": [PLANTED]}})
    graph.add_edge(START, "speak")
    return graph.compile(checkpointer=saver)


def encrypting(url, tmp_path):
    """Settings that encrypt."""
    key = tmp_path / "key"
    key.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    return {"DATABASE_URL": url, "DB_ENCRYPTION_KEY": f"file:{key}"}


@pytest.fixture
def encrypted(url, tmp_path):
    return encrypting(url, tmp_path)


def rows(url):
    """All that the tables of LangGraph have."""
    tables = ["checkpoints", "checkpoint_blobs", "checkpoint_writes", "store"]
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as connection:
            found = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
        connection.close()
    else:
        with psycopg.connect(url) as connection:
            found = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    assert all(found)
    return found


def test_a_graph_and_a_store_read_what_they_have_encrypted(encrypted):
    with AgentkitSaver.from_config(environ=encrypted) as saver:
        said = graph_on(saver).invoke({"said": "begin", "values": {}}, THREAD)
        AgentkitStore.beside(saver).put(("notes",), "key", {"text": PLANTED})
    with AgentkitSaver.from_config(environ=encrypted) as saver:
        assert graph_on(saver).get_state(THREAD).values == said
        assert [state.values for state in graph_on(saver).get_state_history(THREAD)][0] == said
        assert AgentkitStore.beside(saver).get(("notes",), "key").value == {"text": PLANTED}
    found = rows(encrypted["DATABASE_URL"])
    assert PLANTED not in repr(found) and PLANTED.encode().hex() not in repr(found)


def test_who_names_no_key_is_refused(encrypted):
    url = encrypted["DATABASE_URL"]
    with AgentkitSaver.from_config(environ=encrypted) as saver:
        graph_on(saver).invoke({"said": "begin", "values": {}}, THREAD)
    before = AgentkitSaver.from_conn_string(url)
    with pytest.raises(ValueError, match="DB_ENCRYPTION_KEY"):
        before.__enter__()
    other = encrypted | {"DB_ENCRYPTION_KEY": "env:OTHER_KEY"}
    with pytest.raises(ValueError, match="DB_ENCRYPTION_KEY"):
        AgentkitSaver.from_config(environ=other).__enter__()


def test_langgraphs_saver_fails_on_what_is_encrypted(postgres_url, tmp_path):
    with AgentkitSaver.from_config(environ=encrypting(postgres_url, tmp_path)) as saver:
        graph_on(saver).invoke({"said": "begin", "values": {}}, THREAD)
    with PostgresSaver.from_conn_string(postgres_url) as theirs:
        with pytest.raises((TypeError, ValueError, NotImplementedError)):
            theirs.get_tuple(THREAD)
