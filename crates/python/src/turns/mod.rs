//! Turns of LangGraph's graphs: who owns a thread, until when, and what it has recorded.

mod desk;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pyo3::{
    IntoPyObjectExt, exceptions::PyValueError, prelude::*, pybacked::PyBackedBytes, types::PyBytes,
};
use yai_agentkit_core::{
    ConversationId, Message, Result, Role, Stores, ThreadId, TurnId, TurnStatus, Value,
    turn::{DueTurn, TurnOwner, TurnRecord},
};

use self::desk::{Desk, Found, OnBusy, Owned, Request};
use crate::{
    call::{Call, ToPython, made_before_a_fork},
    convert::{json_value, value},
    engine::LazyDatabase,
    error::to_python,
    runtime::Runtime,
};

/// How often a lease is renewed while it lasts.
const RENEWALS: u32 = 4;
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How soon a turn with a short lease is renewed that begins after none.
const IDLE_PAUSE: Duration = Duration::from_millis(500);

/// type, bytes.
type ValueIn = (String, PyBackedBytes);

/// thread_id, key, input, message, on_busy, lease in seconds.
type RequestIn = (String, Option<String>, ValueIn, Option<String>, String, f64);

/// role, content, metadata as JSON.
type MessageIn = (String, String, Option<String>);

/// The turns of one saver. While any is under way their leases are renewed, without Python's lock.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct Turns {
    runtime: &'static Runtime,
    shared: Arc<Shared>,
}

struct Shared {
    desk: Desk,
    /// Whether somebody renews.
    is_kept: AtomicBool,
}

/// A turn that this process runs. Where it is dropped before it ends, it is given back.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct OwnedTurn {
    runtime: &'static Runtime,
    shared: Arc<Shared>,
    owned: Owned,
    has_ended: AtomicBool,
}

struct FoundOut {
    runtime: &'static Runtime,
    shared: Arc<Shared>,
    found: Found,
}

/// (whether it was there, its value)
struct RecordOut(Option<TurnRecord>);

impl Turns {
    pub(crate) fn new(runtime: &'static Runtime, database: Arc<LazyDatabase>) -> Self {
        let shared = Shared {
            desk: Desk::new(database),
            is_kept: AtomicBool::new(false),
        };
        Self {
            runtime,
            shared: Arc::new(shared),
        }
    }

    fn find<F>(&self, find: impl FnOnce(Arc<Shared>) -> F) -> PyResult<Call>
    where
        F: Future<Output = Result<Found>> + Send + 'static,
    {
        if !self.runtime.is_alive() {
            return Err(made_before_a_fork());
        }
        let (runtime, shared) = (self.runtime, Arc::clone(&self.shared));
        let find = find(Arc::clone(&shared));
        Ok(Call::new(runtime, async move {
            let found = find.await?;
            if matches!(found, Found::Owned(_)) {
                keep(runtime, &shared);
            }
            Ok(FoundOut {
                runtime,
                shared,
                found,
            })
        }))
    }
}

#[pymethods]
impl Turns {
    /// Opens a turn, or finds what its key has led to.
    fn open(&self, request: RequestIn) -> PyResult<Call> {
        let (thread_id, key, (type_tag, bytes), message, on_busy, lease) = request;
        let request = Request {
            thread_id: thread_id.into(),
            key,
            input: value(type_tag, &bytes),
            message,
            on_busy: match on_busy.as_str() {
                "reject" => OnBusy::Reject,
                "enqueue" => OnBusy::Enqueue,
                "interrupt" => OnBusy::Interrupt,
                "rollback" => OnBusy::Rollback,
                _ => {
                    let modes = "'reject', 'enqueue', 'interrupt' or 'rollback'";
                    let reason = format!("on_busy: must be {modes}, is '{on_busy}'");
                    return Err(PyValueError::new_err(reason));
                }
            },
            lease: seconds(lease)?,
        };
        self.find(|shared| async move { shared.desk.open(request).await })
    }

    /// What has become of a turn, which is owned from now on if nobody else has it.
    fn look(
        &self,
        thread_id: String,
        conversation_id: &str,
        turn_id: &str,
        lease: f64,
    ) -> PyResult<Call> {
        let conversation = id(conversation_id.parse::<ConversationId>())?;
        let turn = id(turn_id.parse::<TurnId>())?;
        let lease = seconds(lease)?;
        let thread = ThreadId::from(thread_id);
        self.find(
            move |shared| async move { shared.desk.look(thread, conversation, turn, lease).await },
        )
    }

    /// The turns that wait for somebody: (thread_id, conversation_id, turn_id) of each.
    fn due(&self, limit: u64) -> PyResult<Call> {
        if !self.runtime.is_alive() {
            return Err(made_before_a_fork());
        }
        let shared = Arc::clone(&self.shared);
        Ok(Call::new(self.runtime, async move {
            let ledger = shared.desk.database.get().await?.turn_ledger();
            let due = ledger.due_opened(limit).await?;
            let texts = |due: DueTurn| {
                let (conversation, turn) = (due.turn.conversation_id, due.turn.id);
                (
                    due.thread_id.to_string(),
                    conversation.to_string(),
                    turn.to_string(),
                )
            };
            Ok(due.into_iter().map(texts).collect::<Vec<_>>())
        }))
    }
}

#[pymethods]
impl OwnedTurn {
    #[getter]
    fn id(&self) -> String {
        self.owned.turn.id.to_string()
    }

    #[getter]
    fn conversation_id(&self) -> String {
        self.owned.turn.conversation_id.to_string()
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.owned.turn.epoch
    }

    #[getter]
    fn attempt(&self) -> u32 {
        self.owned.turn.attempt
    }

    /// Whether a checkpoint knows its input.
    #[getter]
    fn is_taken_in(&self) -> bool {
        self.owned.is_taken_in
    }

    /// Whether it was seen to be somebody else's.
    #[getter]
    fn is_lost(&self) -> bool {
        self.owned.is_lost.load(Ordering::Acquire)
    }

    /// (type, bytes)
    #[getter]
    fn input<'py>(&self, py: Python<'py>) -> Option<(String, Bound<'py, PyBytes>)> {
        parts(py, self.owned.input.as_ref())
    }

    /// Ends it, with what was said in it and what it has come to.
    fn close(
        &self,
        py: Python<'_>,
        status: &str,
        error: Option<String>,
        messages: Vec<MessageIn>,
        result: Option<ValueIn>,
    ) -> PyResult<Call> {
        let status = match status {
            "completed" => TurnStatus::Completed,
            _ => TurnStatus::Failed,
        };
        let messages = messages.into_iter().map(|message| self.message(message));
        let messages = messages.collect::<Result<Vec<_>>>();
        let messages = messages.map_err(|error| to_python(py, &error))?;
        let result = result.map(|(type_tag, bytes)| value(type_tag, &bytes));
        let seen = self.owned.turn.clone();
        self.end(move |shared| async move {
            shared
                .desk
                .close(seen, status, error, messages, result)
                .await
        })
    }

    /// Lets somebody else go on with it at once.
    fn give_back(&self) -> PyResult<Call> {
        let turn = self.owned.turn.clone();
        self.end(move |shared| async move { shared.desk.give_back(turn).await })
    }

    /// Records something under a name, unless it is there; returns what was there before.
    fn record(&self, name: String, recorded: Option<ValueIn>) -> PyResult<Call> {
        if !self.runtime.is_alive() {
            return Err(made_before_a_fork());
        }
        let shared = Arc::clone(&self.shared);
        let turn = &self.owned.turn;
        let owner = TurnOwner {
            thread_id: self.owned.thread_id.clone(),
            conversation_id: turn.conversation_id,
            // Effects are the conversation's: another turn goes on with the task that has begun them.
            turn_id: TurnId(uuid::Uuid::nil()),
            epoch: turn.epoch,
        };
        let value = recorded.map(|(type_tag, bytes)| value(type_tag, &bytes));
        let record = TurnRecord { name, value };
        Ok(Call::new(self.runtime, async move {
            let ledger = shared.desk.database.get().await?.turn_ledger();
            ledger.record(&owner, record).await.map(RecordOut)
        }))
    }
}

impl OwnedTurn {
    fn message(&self, (role, content, metadata): MessageIn) -> Result<Message> {
        let turn = &self.owned.turn;
        let mut message = Message::new(turn.conversation_id, Role::from(role), content);
        let metadata = metadata.map(|text| json_value("metadata", &text));
        message.metadata = metadata.transpose()?;
        Ok(message)
    }

    fn end<F>(&self, end: impl FnOnce(Arc<Shared>) -> F) -> PyResult<Call>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        if !self.runtime.is_alive() {
            return Err(made_before_a_fork());
        }
        self.has_ended.store(true, Ordering::Release);
        let shared = Arc::clone(&self.shared);
        let id = self.owned.turn.id;
        let end = end(Arc::clone(&shared));
        Ok(Call::new(self.runtime, async move {
            let ended = end.await;
            // Where the storage failed, its lease ends, unless it is found to be left.
            shared.desk.under_way().remove(&id);
            ended
        }))
    }
}

impl Drop for OwnedTurn {
    fn drop(&mut self) {
        if self.has_ended.load(Ordering::Acquire) || !self.runtime.is_alive() {
            return;
        }
        let (shared, turn) = (Arc::clone(&self.shared), self.owned.turn.clone());
        self.runtime.spawn(async move {
            let id = turn.id;
            // Else its lease ends.
            drop(shared.desk.give_back(turn).await);
            shared.desk.under_way().remove(&id);
        });
    }
}

/// Renews as long as anything is under way and the saver is there. The first time at once: so others
/// learn who this process is, and that it has died.
fn keep(runtime: &'static Runtime, shared: &Arc<Shared>) {
    if shared.is_kept.swap(true, Ordering::AcqRel) {
        return;
    }
    let shared = Arc::downgrade(shared);
    runtime.spawn(async move {
        let mut left = HashSet::new();
        loop {
            let lease = match shared.upgrade() {
                Some(shared) => {
                    let lease = shared.desk.shortest_lease();
                    if lease.is_some() {
                        left = renew(&shared.desk, &left).await;
                    }
                    lease
                }
                None => return,
            };
            let pause = lease.map_or(IDLE_PAUSE, |lease| lease / RENEWALS);
            tokio::time::sleep(pause.max(SHORTEST_PAUSE)).await;
        }
    });
}

/// Returns the conversations in which this process owns a turn that it does not know: one that has
/// just been opened, or that was left because the storage failed. The latter is given back when it
/// is seen again.
async fn renew(desk: &Desk, left: &HashSet<ConversationId>) -> HashSet<ConversationId> {
    // A storage that fails is asked again.
    let unknown = desk.renew().await.unwrap_or_default();
    let (again, new): (Vec<_>, Vec<_>) = unknown.into_iter().partition(|id| left.contains(id));
    for conversation in again {
        drop(desk.disown(conversation).await);
    }
    new.into_iter().collect()
}

fn seconds(seconds: f64) -> PyResult<Duration> {
    let lease = Duration::try_from_secs_f64(seconds).ok();
    let lease = lease.filter(|lease| lease.as_millis() > 0);
    lease.ok_or_else(|| PyValueError::new_err(format!("lease: must be positive, is {seconds}")))
}

fn id<T, E: ToString>(parsed: Result<T, E>) -> PyResult<T> {
    parsed.map_err(|error| PyValueError::new_err(error.to_string()))
}

fn parts<'py>(py: Python<'py>, value: Option<&Value>) -> Option<(String, Bound<'py, PyBytes>)> {
    value.map(|value| (value.type_tag().to_owned(), PyBytes::new(py, value.bytes())))
}

impl ToPython for FoundOut {
    /// ("owned", turn), ("busy",), ("waits", conversation_id, turn_id),
    /// ("ended", conversation_id, turn_id, status, error, result)
    fn to_python(self: Box<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Self {
            runtime,
            shared,
            found,
        } = *self;
        match found {
            Found::Owned(owned) => {
                let turn = OwnedTurn {
                    runtime,
                    shared,
                    owned: *owned,
                    has_ended: AtomicBool::new(false),
                };
                ("owned", turn).into_py_any(py)
            }
            Found::Busy => ("busy",).into_py_any(py),
            Found::Waits(conversation, turn) => {
                ("waits", conversation.to_string(), turn.to_string()).into_py_any(py)
            }
            Found::Ended(turn, result) => {
                let (conversation, id) = (turn.conversation_id.to_string(), turn.id.to_string());
                let (status, result) = (turn.status.as_str(), parts(py, result.as_ref()));
                ("ended", conversation, id, status, turn.error, result).into_py_any(py)
            }
        }
    }
}

impl ToPython for RecordOut {
    fn to_python(self: Box<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let value = self.0.as_ref().and_then(|record| record.value.as_ref());
        (self.0.is_some(), parts(py, value)).into_py_any(py)
    }
}
