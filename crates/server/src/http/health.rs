use std::time::Duration;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, problem::Problem};

/// How long the storage may take to answer and still count as ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
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

/// Tell whether requests can be served: the storage answers
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, description = "They can", body = Health)),
)]
async fn readyz(State(app): State<App>) -> Result<Json<Health>, Problem> {
    if app.turns.is_stopping() {
        return Err(Problem::shutting_down());
    }
    match tokio::time::timeout(READY_WITHIN, app.storage.ping()).await {
        Ok(Ok(())) => Ok(Json(Health { status: "ready" })),
        Ok(Err(error)) => Err(Problem::storage_unavailable(error)),
        Err(elapsed) => Err(Problem::storage_unavailable(elapsed)),
    }
}
