//! What was done that can't be undone, for those who must be able to tell.

use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::{access::owner_id, audit::AuditQuery, storage::Page};

use super::{
    App,
    caller::Caller,
    extract::Query,
    page::{List, MAX_LIMIT, limit},
    problem::Problem,
};
use crate::audit::Told;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditPage {
    /// How many at most.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u64,
    /// The `next_cursor` of the page before.
    cursor: Option<i64>,
}

fn default_limit() -> u64 {
    100
}

/// List what was done that can't be undone, the newest first
///
/// Needs a key with the scope `admin`; with one of an owner, what was done for that owner.
#[utoipa::path(
    get, path = "/audit", tag = "health", operation_id = "list_audit",
    params(AuditPage),
    responses((status = 200, description = "One page", body = List<Told>)),
)]
async fn list(
    app: App,
    caller: Caller,
    Query(page): Query<AuditPage>,
) -> Result<Json<List<Told>>, Problem> {
    let query = AuditQuery {
        before: page.cursor,
        owner: caller.owner().as_deref().map(owner_id),
        limit: limit(page.limit, MAX_LIMIT)?,
    };
    let items = app.storage.audit().list(&query).await?;
    let is_full = items.len() as u64 == query.limit;
    let next = items.last().filter(|_| is_full).map(|last| last.position);
    Ok(Json(List::of(Page { items, next })))
}
