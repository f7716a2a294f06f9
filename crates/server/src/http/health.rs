use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{Extension, Json};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use yai_agentkit_core::{Error, Storage};

use super::{App, problem::Problem};

/// How long the storage may take to answer and still count as ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer of the storage counts: however many ask, it is asked no more often.
const FRESH: Duration = Duration::from_millis(500);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .layer(Extension(Readiness::default()))
}

/// What the storage said last, or is about to say. Nobody gives up a question that takes long, for
/// SQLite's only writer may be busy with it; those who come meanwhile wait for the same answer.
#[derive(Clone, Default)]
struct Readiness(Arc<Mutex<Option<(Instant, Answer)>>>);

type Answer = Shared<BoxFuture<'static, Result<(), Arc<Failure>>>>;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Storage(Error),
    #[error("the question panicked")]
    Panicked,
}

impl Readiness {
    fn ask(&self, storage: &Arc<dyn Storage>) -> Answer {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, answer)) = &*last {
            // Who asked may have gone before it came.
            let is_under_way = answer.clone().now_or_never().is_none();
            if is_under_way || since.elapsed() < FRESH {
                return answer.clone();
            }
        }
        let storage = Arc::clone(storage);
        let asked = tokio::spawn(async move { storage.ping().await });
        let answer = asked.map(|answer| match answer {
            Ok(answer) => answer.map_err(|error| Arc::new(Failure::Storage(error))),
            Err(_) => Err(Arc::new(Failure::Panicked)),
        });
        let answer = answer.boxed().shared();
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Tell whether the process is up
#[utoipa::path(
    get, path = "/healthz", tag = "health",
    responses((status = 200, description = "It is", body = Health)),
)]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Tell whether requests can be served: the storage takes writes
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, description = "They can", body = Health)),
)]
async fn readyz(
    app: App,
    Extension(readiness): Extension<Readiness>,
) -> Result<Json<Health>, Problem> {
    if app.turns.is_stopping() {
        return Err(Problem::shutting_down());
    }
    let asked = readiness.ask(&app.storage);
    match tokio::time::timeout(READY_WITHIN, asked).await {
        Ok(Ok(())) => Ok(Json(Health { status: "ready" })),
        Ok(Err(failure)) => match &*failure {
            Failure::Storage(error) => Err(Problem::not_ready(&error.to_string(), failure)),
            Failure::Panicked => panic!("{failure}"),
        },
        Err(elapsed) => Err(Problem::not_ready("it does not answer", elapsed)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use yai_agentkit_engine::test_kit::FailingStorage;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_does_not_count_for_longer_than_others() {
        let failing = FailingStorage::default();
        let storage: Arc<dyn Storage> = Arc::new(failing.clone());
        let readiness = Readiness::default();
        failing.watch.fails.store(true, Ordering::SeqCst);
        drop(readiness.ask(&storage));
        tokio::time::sleep(2 * FRESH).await;
        failing.watch.fails.store(false, Ordering::SeqCst);
        assert!(readiness.ask(&storage).await.is_ok());
    }
}
