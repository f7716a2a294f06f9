//! Between an event loop and the runtime.
//!
//! What is awaited in one round of the loop is started at once, so that what LangGraph writes at
//! the end of a superstep, by two calls, shares a commit. What is done comes back through a pipe
//! that the loop watches, as much at once as there is. So nobody but the loop's own thread needs
//! Python's lock.

use std::{
    collections::HashMap,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    mem,
    os::fd::AsRawFd,
    ptr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use pyo3::{intern, prelude::*, sync::PyOnceLock, types::PyDict};

use crate::{call::Outcome, runtime::Runtime};

/// How many outcomes are handed over at once.
const AT_ONCE: usize = 64;

#[pyclass(frozen)]
pub(crate) struct EventLoop {
    runtime: &'static Runtime,
    calls: Mutex<Calls>,
    done: Arc<Done>,
    bell: PipeReader,
}

#[derive(Default)]
struct Calls {
    count: u64,
    /// To be started at the end of this round.
    awaited: Vec<(u64, BoxFuture<'static, Outcome>)>,
    /// Of all that are not done.
    futures: HashMap<u64, Py<PyAny>>,
}

/// The first outcome puts a byte into the pipe, which is read before all are taken.
struct Done {
    outcomes: Mutex<Vec<(u64, Outcome)>>,
    bell: PipeWriter,
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
        static ALL: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        let py = running.py();
        let all = ALL.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
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
        let new = Self {
            runtime,
            calls: Mutex::default(),
            done: Arc::new(Done {
                outcomes: Mutex::default(),
                bell: ringer,
            }),
            bell,
        };
        let new = Bound::new(py, new)?;
        let finish = new.getattr(intern!(py, "finish"))?;
        running.call_method1(intern!(py, "add_reader"), (file, finish))?;
        all.set_item(running, &new)?;
        Ok(new)
    }
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
        for (key, outcome) in self.done.take(&self.bell)? {
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
            // An event loop that is gone waits for nothing.
            drop((&self.bell).write_all(&[0]));
        }
    }

    /// Once for each byte in the pipe.
    fn take(&self, mut bell: &PipeReader) -> std::io::Result<Vec<(u64, Outcome)>> {
        bell.read_exact(&mut [0])?;
        Ok(mem::take(&mut lock(&self.outcomes)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
