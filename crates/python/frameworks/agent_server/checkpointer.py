"""What `checkpointer.path` of langgraph.json names: entered once for each event loop of the server."""

import os

from yai_agentkit import AgentkitSaver


def checkpointer():
    return AgentkitSaver.from_conn_string(os.environ["AGENT_SERVER_DATABASE"])
