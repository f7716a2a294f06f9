use pyo3::{
    create_exception,
    exceptions::{PyConnectionError, PyException, PyLookupError, PyRuntimeError, PyValueError},
    prelude::*,
};
use yai_agentkit_core::Error;

create_exception!(
    yai_agentkit,
    NotFoundError,
    PyLookupError,
    "What was asked for does not exist."
);
create_exception!(
    yai_agentkit,
    ConflictError,
    PyException,
    "The write contradicts what is stored."
);
create_exception!(
    yai_agentkit,
    Fenced,
    ConflictError,
    "The thread has passed to another owner: nothing was written, and this turn is over here."
);
create_exception!(
    yai_agentkit,
    StorageError,
    PyRuntimeError,
    "The storage failed in a way that trying again won't mend; `__cause__` says how."
);

/// The Python exception for `error`, by what the caller can do. Its `__cause__` has the words of
/// the database.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let text = error.to_string();
    let exception = match error {
        Error::NotFound { .. } => NotFoundError::new_err(text),
        Error::Fenced { .. } => Fenced::new_err(text),
        Error::Conflict(_) => ConflictError::new_err(text),
        Error::InvalidInput { .. } | Error::Configuration { .. } => PyValueError::new_err(text),
        Error::Unavailable { .. } => PyConnectionError::new_err(text),
        _ => StorageError::new_err(text),
    };
    if let Some(source) = std::error::Error::source(error) {
        exception.set_cause(py, Some(PyRuntimeError::new_err(source.to_string())));
    }
    exception
}
