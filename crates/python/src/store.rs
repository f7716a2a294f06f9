//! Long-term memory, on the table of LangGraph's store.

use std::{sync::Arc, time::Duration};

use pyo3::{
    IntoPyObjectExt,
    exceptions::PyValueError,
    prelude::*,
    types::{PyList, PyTuple},
};
use tokio::sync::OnceCell;
use yai_agentkit_core::{
    Result, Stores,
    store::{
        Answer, Distance, FieldVector, Filter, Item, ItemKey, Labels, MemoryStore,
        NamespacePattern, NamespaceQuery, NewItem, Operation, Precision, Search, VectorIndex,
        VectorKind, VectorQuery,
    },
};

use crate::{
    call::Call, convert::json_object, engine::LazyDatabase, error::to_python, runtime::Runtime,
};

/// dims, distance, precision, kind, m and ef_construction, as LangGraph names them.
pub(crate) type IndexIn = (usize, String, String, String, u16, u16);

/// The items of one saver's database.
#[pyclass(module = "yai_agentkit._native", frozen)]
pub(crate) struct Store {
    runtime: &'static Runtime,
    database: Arc<LazyDatabase>,
    index: Option<Arc<Index>>,
}

/// What the database has to keep, before the first call.
struct Index {
    index: VectorIndex,
    is_prepared: OnceCell<()>,
}

impl Index {
    async fn prepare(&self, store: &dyn MemoryStore) -> Result<()> {
        let prepared = self
            .is_prepared
            .get_or_try_init(|| store.prepare(&self.index));
        prepared.await.copied()
    }
}

impl Store {
    pub(crate) fn new(
        py: Python<'_>,
        runtime: &'static Runtime,
        database: Arc<LazyDatabase>,
        index: Option<IndexIn>,
    ) -> PyResult<Self> {
        let index = index.map(|given| {
            let (dimensions, distance, precision, kind, m, ef_construction) = given;
            let index = VectorIndex {
                dimensions,
                distance: read_distance(&distance),
                precision: match precision.as_str() {
                    "vector" => Precision::Single,
                    _ => Precision::Half,
                },
                kind: match kind.as_str() {
                    "flat" => VectorKind::Flat,
                    _ => VectorKind::Hnsw { m, ef_construction },
                },
            };
            index.validate().map_err(|error| to_python(py, &error))?;
            Ok::<_, PyErr>(Arc::new(Index {
                index,
                is_prepared: OnceCell::new(),
            }))
        });
        Ok(Self {
            runtime,
            database,
            index: index.transpose()?,
        })
    }
}

#[pymethods]
impl Store {
    /// Carries out operations, each a tuple that begins with its name:
    /// `("get", namespace, key, renews)`, `("put", namespace, key, value, minutes, vectors)`,
    /// `("delete", namespace, key)`, `("search", prefix, filter, limit, offset, renews, text, vector, distance)`,
    /// `("namespaces", patterns, max_depth, limit, offset)`.
    fn batch(&self, py: Python<'_>, operations: Vec<Bound<'_, PyTuple>>) -> PyResult<Call> {
        let operations = operations.iter().map(|given| operation(py, given));
        let operations = operations.collect::<PyResult<Vec<_>>>()?;
        let index = self.index.clone();
        self.database.call(self.runtime, |database| async move {
            let store = database.get().await?.memory_store();
            if let Some(index) = index {
                index.prepare(&*store).await?;
            }
            let answers = store.batch(operations).await?;
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

type PutIn = (
    String,
    Labels,
    String,
    String,
    Option<f64>,
    Vec<(String, Vec<f32>)>,
);

type SearchIn = (
    String,
    Labels,
    String,
    u64,
    u64,
    bool,
    Option<String>,
    Option<Vec<f32>>,
    String,
);

fn read_distance(name: &str) -> Distance {
    match name {
        "l2" => Distance::Euclidean,
        "inner_product" => Distance::InnerProduct,
        _ => Distance::Cosine,
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
            let (_, namespace, key, value, minutes, vectors): PutIn = given.extract()?;
            let vector = |(field, vector)| FieldVector { field, vector };
            Operation::Put(NewItem {
                key: ItemKey { namespace, key },
                value,
                time_to_live: minutes.map(time_to_live).transpose()?,
                vectors: vectors.into_iter().map(vector).collect(),
            })
        }
        "delete" => {
            let (_, namespace, key): (String, Labels, String) = given.extract()?;
            Operation::Delete(ItemKey { namespace, key })
        }
        "search" => {
            let (_, namespace, filter, limit, offset, renews, text, vector, distance): SearchIn =
                given.extract()?;
            let filter = json_object("filter", &filter).and_then(|filter| Filter::parse(&filter));
            let distance = read_distance(&distance);
            Operation::Search(Search {
                namespace,
                filter: filter.map_err(|error| to_python(py, &error))?,
                text,
                vector: vector.map(|vector| VectorQuery { vector, distance }),
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

/// (namespace, key, value, created_at, updated_at, score), the times in microseconds.
fn item_out<'py>(py: Python<'py>, item: Item) -> PyResult<Bound<'py, PyAny>> {
    (
        PyTuple::new(py, &item.key.namespace)?,
        item.key.key,
        item.value,
        item.created_at.timestamp_micros(),
        item.updated_at.timestamp_micros(),
        item.score,
    )
        .into_bound_py_any(py)
}
