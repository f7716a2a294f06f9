//! The native half of the Python package `yai_agentkit`: it moves bytes between Python and
//! AgentKit's checkpointer. What the bytes mean is decided in Python, by LangGraph's serializer.

mod call;
mod conversations;
mod convert;
mod engine;
mod error;
mod event_loop;
mod file_locks;
mod runtime;
mod store;
mod turns;

use pyo3::{prelude::*, types::PyCFunction};

#[pymodule(gil_used = true)]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::{
        call::Call,
        conversations::Conversations,
        engine::Engine,
        error::{ConflictError, Fenced, NotFoundError, StorageError},
        store::Store,
        turns::{OwnedTurn, Turns},
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        file_locks::install()?;
        let py = module.py();
        let end = PyCFunction::new_closure(py, None, None, |arguments, _| {
            runtime::end(arguments.py());
        })?;
        py.import("atexit")?.call_method1("register", (end,))?;
        Ok(())
    }
}
