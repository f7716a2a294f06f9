//! Long-term memory, on the table of LangGraph's store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pyo3::{
    IntoPyObjectExt,
    exceptions::PyValueError,
    prelude::*,
    types::{PyList, PyTuple},
};
use yai_agentkit_core::{
    Stores,
    store::{
        Answer, Filter, Item, ItemKey, Labels, NamespacePattern, NamespaceQuery, NewItem,
        Operation, Search,
    },
};

use crate::{
    call::Call, convert::json_object, engine::LazyDatabase, error::to_python, runtime::Runtime,
};

/// How long after the last sweep who puts an item that dies sweeps again.
const BETWEEN_SWEEPS: Duration = Duration::from_secs(5 * 60);

/// The items of one saver's database.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct Store {
    runtime: &'static Runtime,
    database: Arc<LazyDatabase>,
    swept_at: Mutex<Option<Instant>>,
}

impl Store {
    pub(crate) fn new(runtime: &'static Runtime, database: Arc<LazyDatabase>) -> Self {
        Self {
            runtime,
            database,
            swept_at: Mutex::default(),
        }
    }

    /// Whether what has died is to be swept, beside an item that will die.
    fn is_to_sweep(&self, operations: &[Operation]) -> bool {
        let dies = |operation: &Operation| match operation {
            Operation::Put(item) => item.time_to_live.is_some(),
            _ => false,
        };
        if !operations.iter().any(dies) {
            return false;
        }
        let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = swept_at.is_none_or(|swept_at| swept_at.elapsed() > BETWEEN_SWEEPS);
        if is_due {
            *swept_at = Some(Instant::now());
        }
        is_due
    }
}

#[pymethods]
impl Store {
    /// Carries out operations, each a tuple that begins with its name:
    /// `("get", namespace, key, renews)`, `("put", namespace, key, value, minutes)`,
    /// `("delete", namespace, key)`, `("search", prefix, filter, limit, offset, renews)`,
    /// `("namespaces", patterns, max_depth, limit, offset)`.
    fn batch(&self, py: Python<'_>, operations: Vec<Bound<'_, PyTuple>>) -> PyResult<Call> {
        let operations = operations.iter().map(|given| operation(py, given));
        let operations = operations.collect::<PyResult<Vec<_>>>()?;
        let sweeps = self.is_to_sweep(&operations);
        self.database.call(self.runtime, |database| async move {
            let store = database.get().await?.memory_store();
            let answers = store.batch(operations).await?;
            if sweeps {
                // What stays is not seen, and goes with the next.
                drop(store.sweep().await);
            }
            Ok(answers.into_iter().map(AnswerOut).collect::<Vec<_>>())
        })
    }

    /// Deletes what has outlived its time.
    fn sweep(&self) -> PyResult<Call> {
        self.database.call(self.runtime, |database| async move {
            database.get().await?.memory_store().sweep().await
        })
    }
}

fn operation(py: Python<'_>, given: &Bound<'_, PyTuple>) -> PyResult<Operation> {
    let name: String = given.get_item(0)?.extract()?;
    Ok(match name.as_str() {
        "get" => {
            let (_, namespace, key, renews): (String, Labels, String, bool) = given.extract()?;
            let key = ItemKey { namespace, key };
            Operation::Get { key, renews }
        }
        "put" => {
            let (_, namespace, key, value, minutes): (String, Labels, String, String, Option<f64>) =
                given.extract()?;
            Operation::Put(NewItem {
                key: ItemKey { namespace, key },
                value,
                time_to_live: minutes.map(time_to_live).transpose()?,
            })
        }
        "delete" => {
            let (_, namespace, key): (String, Labels, String) = given.extract()?;
            Operation::Delete(ItemKey { namespace, key })
        }
        "search" => {
            let (_, namespace, filter, limit, offset, renews): (
                String,
                Labels,
                String,
                u64,
                u64,
                bool,
            ) = given.extract()?;
            let filter = json_object("filter", &filter).and_then(|filter| Filter::parse(&filter));
            Operation::Search(Search {
                namespace,
                filter: filter.map_err(|error| to_python(py, &error))?,
                limit,
                offset,
                renews,
            })
        }
        _ => {
            let (_, patterns, max_depth, limit, offset): (
                String,
                Vec<(bool, Labels)>,
                Option<u64>,
                u64,
                u64,
            ) = given.extract()?;
            let pattern = |(is_prefix, labels)| match is_prefix {
                true => NamespacePattern::Prefix(labels),
                false => NamespacePattern::Suffix(labels),
            };
            Operation::Namespaces(NamespaceQuery {
                patterns: patterns.into_iter().map(pattern).collect(),
                max_depth,
                limit,
                offset,
            })
        }
    })
}

fn time_to_live(minutes: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(minutes * 60.0)
        .map_err(|error| PyValueError::new_err(format!("ttl: {error}, is {minutes} minutes")))
}

/// An item, a list of items or of namespaces, or nothing.
struct AnswerOut(Answer);

impl<'py> IntoPyObject<'py> for AnswerOut {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        match self.0 {
            Answer::Done | Answer::Item(None) => Ok(py.None().into_bound(py)),
            Answer::Item(Some(item)) => Ok(item_out(py, item)?.into_any()),
            Answer::Items(items) => {
                let items = items.into_iter().map(|item| item_out(py, item));
                Ok(PyList::new(py, items.collect::<PyResult<Vec<_>>>()?)?.into_any())
            }
            Answer::Namespaces(listed) => {
                let listed = listed.iter().map(|labels| PyTuple::new(py, labels));
                Ok(PyList::new(py, listed.collect::<PyResult<Vec<_>>>()?)?.into_any())
            }
        }
    }
}

/// (namespace, key, value, created_at, updated_at), the times in microseconds.
fn item_out<'py>(py: Python<'py>, item: Item) -> PyResult<Bound<'py, PyAny>> {
    (
        PyTuple::new(py, &item.key.namespace)?,
        item.key.key,
        item.value,
        item.created_at.timestamp_micros(),
        item.updated_at.timestamp_micros(),
    )
        .into_bound_py_any(py)
}
