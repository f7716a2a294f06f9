"""LangGraph's own conformance suite."""

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from yai_agentkit import AgentkitSaver

CAPABILITIES = [
    "put",
    "put_writes",
    "get_tuple",
    "list",
    "delete_thread",
    "delete_for_runs",
    "copy_thread",
    "prune",
]


@pytest.mark.parametrize("capability", CAPABILITIES)
async def test_langgraphs_suite_finds_and_passes(capability, url):
    @checkpointer_test(name=f"{capability} {url}")
    async def ours():
        async with AgentkitSaver.from_conn_string(url) as saver:
            yield saver

    report = await validate(ours, capabilities={capability})
    result = report.results[capability]
    assert (result.detected, result.passed, result.failures) == (True, True, [])
    assert result.tests_passed > 0
