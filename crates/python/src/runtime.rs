//! One runtime a process, whatever the number of savers, event loops and threads.

use std::sync::{Mutex, PoisonError, RwLock};

use pyo3::prelude::*;

/// The thread that talks to the databases. It never touches a Python object, so that it neither
/// waits for Python's lock nor outlives what it needs.
pub(crate) struct Runtime {
    process: u32,
    worker: tokio::runtime::Runtime,
    /// Whether Python is ending. Read as long as another thread has its lock.
    is_ending: RwLock<bool>,
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

impl Runtime {
    /// One worker: what it does between two round trips is little, and a second one would only be
    /// woken to look for work.
    fn start() -> std::io::Result<Self> {
        let worker = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("agentkit")
            .enable_all()
            .build()?;
        Ok(Self {
            process: std::process::id(),
            worker,
            is_ending: RwLock::new(false),
        })
    }

    /// Whether this process started it, and so has its threads.
    pub(crate) fn is_alive(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.worker.spawn(work);
    }

    /// `work` with Python's lock, on a thread of its own. Not once Python is ending, when who asks
    /// for its lock may crash: `end` must be called before.
    pub(crate) fn spawn_attached(&'static self, work: impl FnOnce(Python<'_>) + Send + 'static) {
        self.worker.spawn_blocking(|| {
            let is_ending = self
                .is_ending
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if !*is_ending {
                Python::attach(work);
            }
        });
    }
}

/// Waits for those who have Python's lock, and lets nobody else have it.
pub(crate) fn end(py: Python<'_>) {
    let runtime = *RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    // That of a parent has no threads here to wait for.
    if let Some(runtime) = runtime.filter(|runtime| runtime.is_alive()) {
        py.detach(|| {
            let mut is_ending = runtime
                .is_ending
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *is_ending = true;
        });
    }
}
