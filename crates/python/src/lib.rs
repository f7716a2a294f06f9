//! The native half of the Python package `yai_agentkit`: it moves bytes between Python and
//! AgentKit's checkpointer. What the bytes mean is decided in Python, by LangGraph's serializer.

mod call;
mod convert;
mod engine;
mod error;
mod event_loop;
mod runtime;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use super::{
        call::Call,
        engine::Engine,
        error::{ConflictError, NotFoundError, StorageError},
    };
}
