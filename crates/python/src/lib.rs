//! The Python package `yai_agentkit`, a `LangGraph` checkpoint saver; an empty shell until its own issue.
