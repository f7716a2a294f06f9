//! One runtime a process, whatever the number of savers, event loops and threads.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use pyo3::{intern, prelude::*, sync::PyOnceLock};

use crate::call::Outcome;

/// The threads that do the work. They never wait for Python's lock: one thread of its own hands
/// what is done to the event loops, as much at once as there is.
pub(crate) struct Runtime {
    process: u32,
    workers: tokio::runtime::Runtime,
    done: mpsc::Sender<Message>,
}

/// What an event loop waits for.
pub(crate) struct Completion {
    pub(crate) event_loop: Py<PyAny>,
    pub(crate) future: Py<PyAny>,
    pub(crate) outcome: Outcome,
}

enum Message {
    Done(Completion),
    Stop,
}

static RUNTIME: Mutex<Option<&'static Runtime>> = Mutex::new(None);

/// The runtime of this process. A fork has no threads of its parent's: it gets a new one.
pub(crate) fn runtime() -> std::io::Result<&'static Runtime> {
    let mut slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    match *slot {
        Some(runtime) if runtime.is_alive() => Ok(runtime),
        _ => {
            let runtime: &Runtime = Box::leak(Box::new(Runtime::start()?));
            *slot = Some(runtime);
            Ok(runtime)
        }
    }
}

/// Makes the interpreter's end wait for the thread that holds Python objects: a foreign thread that
/// asks for Python's lock too late takes the process down.
pub(crate) fn stop_at_exit(py: Python<'_>) -> PyResult<()> {
    let stop = wrap_pyfunction!(stop, py)?;
    py.import(intern!(py, "atexit"))?
        .call_method1(intern!(py, "register"), (stop,))?;
    Ok(())
}

impl Runtime {
    fn start() -> std::io::Result<Self> {
        let workers = tokio::runtime::Builder::new_multi_thread()
            .thread_name("agentkit")
            .enable_all()
            .build()?;
        let (done, incoming) = mpsc::channel();
        let messenger = thread::Builder::new().name("agentkit-python".to_owned());
        messenger.spawn(move || deliver(&incoming))?;
        Ok(Self {
            process: std::process::id(),
            workers,
            done,
        })
    }

    /// Whether this process started it, and so has its threads.
    pub(crate) fn is_alive(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.workers.spawn(work);
    }

    /// Hands `completion` to its event loop. Nobody waits any more once Python has ended.
    pub(crate) fn complete(&self, completion: Completion) {
        drop(self.done.send(Message::Done(completion)));
    }
}

fn deliver(incoming: &mpsc::Receiver<Message>) {
    while let Ok(first) = incoming.recv() {
        let delivered = Python::try_attach(|py| {
            for message in std::iter::once(first).chain(incoming.try_iter()) {
                let Message::Done(completion) = message else {
                    return false;
                };
                if let Err(error) = completion.deliver(py) {
                    // The event loop is closed: whoever waited on it is gone with it.
                    drop(error);
                }
            }
            true
        });
        if delivered != Some(true) {
            return;
        }
    }
}

impl Completion {
    fn deliver(self, py: Python<'_>) -> PyResult<()> {
        static RESOLVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let resolve = RESOLVE.get_or_try_init(py, || {
            wrap_pyfunction!(resolve, py).map(|function| function.into_any().unbind())
        })?;
        let (value, failed) = match self.outcome.into_python(py) {
            Ok(value) => (value, false),
            Err(error) => (error.into_value(py).into_any(), true),
        };
        self.event_loop.call_method1(
            py,
            intern!(py, "call_soon_threadsafe"),
            (resolve, self.future, value, failed),
        )?;
        Ok(())
    }
}

/// Runs on the event loop's own thread. A cancelled future is done already.
#[pyfunction]
fn resolve(future: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>, failed: bool) -> PyResult<()> {
    let py = future.py();
    if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
        let set = if failed {
            intern!(py, "set_exception")
        } else {
            intern!(py, "set_result")
        };
        future.call_method1(set, (value,))?;
    }
    Ok(())
}

#[pyfunction]
fn stop() {
    let slot = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = slot.filter(|runtime| runtime.is_alive()) {
        drop(runtime.done.send(Message::Stop));
    }
}
