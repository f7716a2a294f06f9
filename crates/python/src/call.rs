use std::{
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use pyo3::{IntoPyObjectExt, exceptions::PyRuntimeError, intern, prelude::*};
use yai_agentkit_core::{Error, Result};

use crate::{error::to_python, event_loop, runtime::Runtime};

/// How often a blocked thread looks whether Ctrl-C was pressed.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// One operation on the storage, to be started by `wait()` or by `await`, once.
///
/// Once started it runs to its end, whoever stops waiting: a cancelled write happens whole or not
/// at all, and its connection goes back to the pool.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct Call {
    runtime: &'static Runtime,
    work: Mutex<Option<BoxFuture<'static, Outcome>>>,
}

/// What came of a call, not yet a Python object.
pub(crate) struct Outcome(Result<Box<dyn ToPython>>);

/// A result that Python's lock is needed to build.
pub(crate) trait ToPython: Send {
    /// The Python object.
    fn to_python(self: Box<Self>, py: Python<'_>) -> PyResult<Py<PyAny>>;
}

impl<T: for<'py> IntoPyObject<'py, Error: Into<PyErr>> + Send> ToPython for T {
    fn to_python(self: Box<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        (*self).into_py_any(py)
    }
}

impl Outcome {
    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.0.map_err(|error| to_python(py, &error))?.to_python(py)
    }
}

impl Call {
    pub(crate) fn new<T: ToPython + 'static>(
        runtime: &'static Runtime,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Self {
        let work = AssertUnwindSafe(work).catch_unwind().map(|ended| {
            Outcome(match ended {
                Ok(result) => result.map(|value| Box::new(value) as Box<dyn ToPython>),
                Err(_) => Err(Error::backend("call", "a bug: the operation panicked")),
            })
        });
        Self {
            runtime,
            work: Mutex::new(Some(work.boxed())),
        }
    }

    fn start(&self) -> PyResult<BoxFuture<'static, Outcome>> {
        if !self.runtime.is_alive() {
            return Err(made_before_a_fork());
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.take()
            .ok_or_else(|| PyRuntimeError::new_err("a call runs once: make another one"))
    }
}

/// What belongs to the parent, and would never come to an end here.
pub(crate) fn made_before_a_fork() -> PyErr {
    PyRuntimeError::new_err("this saver was made before a fork: make one in the child process")
}

#[pymethods]
impl Call {
    /// Blocks until the result is there. Other threads run meanwhile.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let work = self.start()?;
        let (done, outcome) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            // Nobody waits any more after Ctrl-C.
            drop(done.send(work.await));
        });
        let outcome = py.detach(move || {
            loop {
                match outcome.recv_timeout(SIGNAL_INTERVAL) {
                    Ok(outcome) => return Ok(outcome),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        Python::attach(|py| py.check_signals())?;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("the process is ending"));
                    }
                }
            }
        });
        outcome?.into_python(py)
    }

    fn __await__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = event_loop::start(py, self.runtime, self.start()?)?;
        future.call_method0(intern!(py, "__await__"))
    }
}
