//! Between an event loop and the runtime.
//!
//! What is awaited in one round of the loop is started at once, so that what LangGraph writes at
//! the end of a superstep, by two calls, shares a commit. What is done comes back through a pipe
//! that the loop watches, as much at once as there is. So nobody but the loop's own thread needs
//! Python's lock. A loop that can't watch a pipe is woken by `call_soon_threadsafe` instead.

use std::{
    collections::HashMap,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    mem,
    os::fd::AsRawFd,
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use pyo3::{
    exceptions::PyNotImplementedError, intern, prelude::*, sync::PyOnceLock, types::PyDict,
};

use crate::{call::Outcome, runtime::Runtime};

/// How many outcomes are handed over at once.
const AT_ONCE: usize = 64;

#[pyclass(frozen)]
pub(crate) struct EventLoop {
    runtime: &'static Runtime,
    calls: Mutex<Calls>,
    done: Arc<Done>,
    /// The end of the pipe that the loop watches, if it can.
    bell: Option<PipeReader>,
}

#[derive(Default)]
struct Calls {
    count: u64,
    /// To be started at the end of this round.
    awaited: Vec<(u64, BoxFuture<'static, Outcome>)>,
    /// Of all that are not done.
    futures: HashMap<u64, Py<PyAny>>,
}

/// The first outcome rings the bell, once for each time that all are taken.
struct Done {
    outcomes: Mutex<Vec<(u64, Outcome)>>,
    bell: Bell,
}

/// What has an event loop call `finish`.
enum Bell {
    /// A byte in the pipe.
    Pipe(PipeWriter),
    /// A call to this event loop, where it has no `add_reader`.
    Call(&'static Runtime, Arc<Py<PyAny>>),
}

/// The future of `work`, which the running event loop starts at the end of this round.
pub(crate) fn start<'py>(
    py: Python<'py>,
    runtime: &'static Runtime,
    work: BoxFuture<'static, Outcome>,
) -> PyResult<Bound<'py, PyAny>> {
    static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let running = RUNNING_LOOP
        .import(py, "asyncio", "get_running_loop")?
        .call0()?;
    let future = running.call_method0(intern!(py, "create_future"))?;
    let event_loop = EventLoop::of(&running, runtime)?;
    let is_first = {
        let mut calls = lock(&event_loop.get().calls);
        calls.count += 1;
        let key = calls.count;
        calls.futures.insert(key, future.clone().unbind());
        calls.awaited.push((key, work));
        calls.awaited.len() == 1
    };
    if is_first {
        let start = event_loop.getattr(intern!(py, "start"))?;
        running.call_method1(intern!(py, "call_soon"), (start,))?;
    }
    Ok(future)
}

impl EventLoop {
    /// That of `running`, made at its first call.
    fn of<'py>(
        running: &Bound<'py, PyAny>,
        runtime: &'static Runtime,
    ) -> PyResult<Bound<'py, Self>> {
        let py = running.py();
        let all = all(py);
        if let Some(known) = all.get_item(running)? {
            let known = known.cast_into::<Self>()?;
            // Not one from before a fork.
            if ptr::eq(known.get().runtime, runtime) {
                return Ok(known);
            }
        }
        for other in all.keys() {
            if other.call_method0(intern!(py, "is_closed"))?.is_truthy()? {
                // Another thread may have done it.
                all.call_method1(intern!(py, "pop"), (other, py.None()))?;
            }
        }
        let (bell, ringer) = pipe()?;
        let file = bell.as_raw_fd();
        let mut new = Bound::new(py, Self::new(runtime, Bell::Pipe(ringer), Some(bell)))?;
        let finish = new.getattr(intern!(py, "finish"))?;
        match running.call_method1(intern!(py, "add_reader"), (file, finish)) {
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                let bell = Bell::Call(runtime, Arc::new(running.clone().unbind()));
                new = Bound::new(py, Self::new(runtime, bell, None))?;
            }
            watched => drop(watched?),
        }
        all.set_item(running, &new)?;
        Ok(new)
    }

    fn new(runtime: &'static Runtime, ringer: Bell, bell: Option<PipeReader>) -> Self {
        Self {
            runtime,
            calls: Mutex::default(),
            done: Arc::new(Done {
                outcomes: Mutex::default(),
                bell: ringer,
            }),
            bell,
        }
    }
}

/// Every `EventLoop`, by the loop of Python that it belongs to.
fn all(py: Python<'_>) -> &Bound<'_, PyDict> {
    static ALL: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    ALL.get_or_init(py, || PyDict::new(py).unbind()).bind(py)
}

#[pymethods]
impl EventLoop {
    /// Starts what is awaited.
    fn start(&self) {
        let awaited = mem::take(&mut lock(&self.calls).awaited);
        let calls = awaited
            .into_iter()
            .map(|(key, work)| work.map(move |outcome| (key, outcome)));
        let mut ended = calls.collect::<FuturesUnordered<_>>().ready_chunks(AT_ONCE);
        let done = Arc::clone(&self.done);
        self.runtime.spawn(async move {
            while let Some(outcomes) = ended.next().await {
                done.add(outcomes);
            }
        });
    }

    /// Hands what is done to those who wait. A cancelled future is done already.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        for (key, outcome) in self.done.take(self.bell.as_ref())? {
            let Some(future) = lock(&self.calls).futures.remove(&key) else {
                continue;
            };
            let future = future.into_bound(py);
            if future.call_method0(intern!(py, "done"))?.is_truthy()? {
                continue;
            }
            match outcome.into_python(py) {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(error) => {
                    let error = error.into_value(py);
                    future.call_method1(intern!(py, "set_exception"), (error,))?
                }
            };
        }
        Ok(())
    }
}

impl Done {
    fn add(&self, new: Vec<(u64, Outcome)>) {
        let is_first = {
            let mut outcomes = lock(&self.outcomes);
            let is_first = outcomes.is_empty();
            outcomes.extend(new);
            is_first
        };
        if is_first {
            self.bell.ring();
        }
    }

    /// Once for each time that the bell rang.
    fn take(&self, bell: Option<&PipeReader>) -> std::io::Result<Vec<(u64, Outcome)>> {
        if let Some(mut bell) = bell {
            bell.read_exact(&mut [0])?;
        }
        Ok(mem::take(&mut lock(&self.outcomes)))
    }
}

impl Bell {
    /// An event loop that is gone waits for nothing.
    fn ring(&self) {
        match self {
            Self::Pipe(bell) => {
                let mut bell: &PipeWriter = bell;
                drop(bell.write_all(&[0]));
            }
            Self::Call(runtime, running) => {
                let running = Arc::clone(running);
                runtime.spawn_attached(move |py| drop(call_finish(running.bind(py))));
            }
        }
    }
}

/// From another thread. A `Bell` that kept `finish` would keep itself.
fn call_finish(running: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = running.py();
    if let Some(event_loop) = all(py).get_item(running)? {
        let finish = event_loop.getattr(intern!(py, "finish"))?;
        running.call_method1(intern!(py, "call_soon_threadsafe"), (finish,))?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
