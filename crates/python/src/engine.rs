use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use tokio::sync::OnceCell;
use yai_agentkit_core::{
    CheckpointQuery, CheckpointSelector, Checkpointer, Error, Fence, NewWrites, PutOptions, Result,
    Stores, ThreadId,
    checkpoint::{PruneStrategy, Values},
};
use yai_agentkit_persistence::{Database, DatabaseConfig, NewRawCheckpoint, RawValue};

use crate::{
    call::{Call, ToPython, made_before_a_fork},
    conversations::Conversations,
    convert::{
        ChannelWriteIn, History, Place, Selection, StoredOut, ThreadOut, ValueIn, cursor,
        json_object,
    },
    error::to_python,
    runtime::{Runtime, runtime},
    store::{IndexIn, Store},
    turns::Turns,
};

/// The checkpoints of one database. It connects, and migrates, at the first call.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct Engine {
    runtime: &'static Runtime,
    database: Arc<LazyDatabase>,
}

pub(crate) struct LazyDatabase {
    config: DatabaseConfig,
    connected: OnceCell<Database>,
    closed: AtomicBool,
}

impl LazyDatabase {
    /// `work` on the database as a call.
    pub(crate) fn call<T, F>(
        self: &Arc<Self>,
        runtime: &'static Runtime,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> PyResult<Call>
    where
        T: ToPython + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if !runtime.is_alive() {
            return Err(made_before_a_fork());
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(PyRuntimeError::new_err(
                "this saver is closed: make another one with from_conn_string",
            ));
        }
        Ok(Call::new(runtime, work(Arc::clone(self))))
    }

    pub(crate) async fn get(&self) -> Result<&Database> {
        self.connected
            .get_or_try_init(|| Database::connect(&self.config))
            .await
    }

    async fn checkpointer(&self) -> Result<Arc<dyn Checkpointer>> {
        Ok(self.get().await?.checkpointer())
    }

    async fn migrate(&self) -> Result<()> {
        let connect = || Database::connect_unmigrated(&self.config);
        // Not into `connected` before it is migrated, where `generate_schemas` is off.
        let database = match self.connected.get() {
            Some(database) => database.clone(),
            None => connect().await?,
        };
        database.migrate().await?;
        self.connected.get_or_init(|| async { database }).await;
        Ok(())
    }
}

impl Engine {
    fn call<T, F>(&self, work: impl FnOnce(Arc<LazyDatabase>) -> F) -> PyResult<Call>
    where
        T: ToPython + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.database.call(self.runtime, work)
    }
}

impl Drop for Engine {
    /// After a fork the connections are the parent's, and nothing may be said on them.
    fn drop(&mut self) {
        if !self.runtime.is_alive() {
            std::mem::forget(self.database.clone());
        }
    }
}

#[pymethods]
impl Engine {
    /// From variables as in the environment (`DATABASE_URL`, `DB_MAX_CONNECTIONS`, …), over the
    /// `[database]` table of `toml`; or for `conn_string`.
    #[new]
    #[pyo3(signature = (variables, toml=None, conn_string=None))]
    fn new(
        py: Python<'_>,
        variables: HashMap<String, String>,
        toml: Option<&str>,
        conn_string: Option<&str>,
    ) -> PyResult<Self> {
        let config = match conn_string {
            Some(url) => DatabaseConfig::default().url_named("conn_string", url),
            None => DatabaseConfig::load(toml, |name| variables.get(name).cloned()),
        };
        let config = config.map_err(|error| to_python(py, &error))?;
        Ok(Self {
            runtime: runtime()?,
            database: Arc::new(LazyDatabase {
                config,
                connected: OnceCell::new(),
                closed: AtomicBool::new(false),
            }),
        })
    }

    /// The URL without its password.
    #[getter]
    fn display_url(&self) -> String {
        self.database.config.display_url()
    }

    /// The turns in these threads, for one who owns them.
    fn turns(&self) -> Turns {
        Turns::new(self.runtime, Arc::clone(&self.database))
    }

    /// The conversations of these threads.
    fn conversations(&self) -> Conversations {
        Conversations::new(self.runtime, Arc::clone(&self.database))
    }

    /// What these threads share; `index` is (dims, distance, precision, kind, m, ef_construction).
    fn store(&self, py: Python<'_>, index: Option<IndexIn>) -> PyResult<Store> {
        Store::new(py, self.runtime, Arc::clone(&self.database), index)
    }

    /// Connects.
    fn connect(&self) -> PyResult<Call> {
        self.call(|database| async move { database.get().await.map(drop) })
    }

    /// Connects and migrates.
    fn setup(&self) -> PyResult<Call> {
        self.call(|database| async move { database.migrate().await })
    }

    /// Waits for what is under way, then closes the connections. Afterwards every call fails.
    ///
    /// After a fork they are the parent's, which may need them still: there is nothing to do.
    fn close(&self) -> PyResult<Call> {
        self.database.closed.store(true, Ordering::Release);
        let is_ours = self.runtime.is_alive();
        let database = self.database.clone();
        let close = async move {
            if is_ours && let Some(database) = database.connected.get() {
                database.close().await;
            }
            Ok(())
        };
        Ok(Call::new(runtime()?, close))
    }

    fn get(
        &self,
        thread_id: String,
        checkpoint_ns: String,
        checkpoint_id: Option<String>,
    ) -> PyResult<Call> {
        let selector = CheckpointSelector {
            thread_id: thread_id.into(),
            namespace: checkpoint_ns.into(),
            checkpoint_id: checkpoint_id.map(Into::into),
            values: Values::All,
        };
        self.call(|database| async move {
            let found = database
                .get()
                .await?
                .raw_checkpoints()
                .get(&selector)
                .await?;
            Ok(found.map(StoredOut))
        })
    }

    /// `selection` is (thread_id, checkpoint_ns, checkpoint_id, metadata as JSON, before, limit).
    fn query(&self, py: Python<'_>, selection: Selection) -> PyResult<Call> {
        let (thread_id, namespace, checkpoint_id, metadata, before, limit) = selection;
        let metadata = metadata
            .map(|text| json_object("filter", &text))
            .transpose();
        let query = CheckpointQuery {
            thread_id: thread_id.map(Into::into),
            namespace: namespace.map(Into::into),
            checkpoint_id: checkpoint_id.map(Into::into),
            metadata: metadata
                .map_err(|error| to_python(py, &error))?
                .unwrap_or_default(),
            before: before.map(Into::into),
            limit,
            values: Values::All,
        };
        self.call(|database| async move {
            let found = database.get().await?.raw_checkpoints().list(&query).await?;
            Ok(found.into_iter().map(StoredOut).collect::<Vec<_>>())
        })
    }

    fn put(
        &self,
        py: Python<'_>,
        place: Place,
        parent: Option<String>,
        texts: (String, String),
        values: Vec<ValueIn>,
        epoch: Option<u64>,
    ) -> PyResult<Call> {
        let values = values.into_iter().map(RawValue::try_from);
        let values = values.collect::<Result<_>>();
        let (checkpoint, metadata) = texts;
        let new = NewRawCheckpoint {
            key: place.into(),
            parent: parent.map(Into::into),
            checkpoint,
            metadata,
            values: values.map_err(|error| to_python(py, &error))?,
        };
        let options = epoch.map(|epoch| PutOptions::from(Fence::Hold(epoch)));
        let options = options.unwrap_or_default();
        self.call(move |database| async move {
            let checkpoints = database.get().await?.raw_checkpoints();
            checkpoints.put_asking(new, options).await
        })
    }

    fn put_writes(
        &self,
        place: Place,
        task_id: String,
        task_path: String,
        writes: Vec<ChannelWriteIn>,
        epoch: Option<u64>,
    ) -> PyResult<Call> {
        let new = NewWrites {
            key: place.into(),
            task_id,
            task_path,
            writes: writes.into_iter().map(Into::into).collect(),
        };
        let fence = epoch.map(Fence::Hold);
        self.call(move |database| async move {
            database.checkpointer().await?.put_writes(new, fence).await
        })
    }

    fn delete_thread(&self, thread_id: String) -> PyResult<Call> {
        let thread_id = ThreadId::from(thread_id);
        self.call(|database| async move {
            database
                .checkpointer()
                .await?
                .delete_thread(&thread_id)
                .await
        })
    }

    fn delete_for_runs(&self, run_ids: Vec<String>) -> PyResult<Call> {
        self.call(|database| async move {
            database
                .checkpointer()
                .await?
                .delete_for_runs(&run_ids)
                .await
        })
    }

    fn copy_thread(&self, source: String, target: String) -> PyResult<Call> {
        let (source, target) = (ThreadId::from(source), ThreadId::from(target));
        self.call(|database| async move {
            database
                .checkpointer()
                .await?
                .copy_thread(&source, &target)
                .await
        })
    }

    /// Keeps the latest checkpoints, or nothing.
    fn prune(&self, thread_ids: Vec<String>, keep_latest: bool) -> PyResult<Call> {
        let threads: Vec<ThreadId> = thread_ids.into_iter().map(ThreadId::from).collect();
        let strategy = if keep_latest {
            PruneStrategy::KeepLatest
        } else {
            PruneStrategy::Delete
        };
        self.call(|database| async move {
            database
                .checkpointer()
                .await?
                .prune(&threads, strategy)
                .await
        })
    }

    fn delta_channel_history(
        &self,
        thread_id: String,
        checkpoint_ns: String,
        checkpoint_id: Option<String>,
        channels: Vec<String>,
    ) -> PyResult<Call> {
        let selector = CheckpointSelector {
            thread_id: thread_id.into(),
            namespace: checkpoint_ns.into(),
            checkpoint_id: checkpoint_id.map(Into::into),
            values: Values::All,
        };
        self.call(|database| async move {
            let checkpointer = database.checkpointer().await?;
            let found = checkpointer
                .delta_channel_history(&selector, &channels)
                .await?;
            Ok(History(found))
        })
    }

    /// The threads behind `after`, an (updated_at, thread_id).
    fn threads(
        &self,
        py: Python<'_>,
        limit: u64,
        after: Option<(String, String)>,
    ) -> PyResult<Call> {
        let after = after.map(cursor).transpose();
        let after = after.map_err(|error: Error| to_python(py, &error))?;
        self.call(|database| async move {
            let page = database
                .checkpointer()
                .await?
                .threads(limit, after.as_ref())
                .await?;
            Ok(page.items.into_iter().map(ThreadOut).collect::<Vec<_>>())
        })
    }
}
