//! All that there is of an owner.

use axum::Json;
use utoipa_axum::{router::OpenApiRouter, routes};
use yai_agentkit_core::access::validate_owner;

use super::{App, caller::Caller, extract::Name, problem::Problem};
use crate::owner::{self, Erased, Whose};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(erase))
}

/// Erase all of an owner: the conversations, also those in which a turn runs, the items and the keys
///
/// Needs a key with the scope `admin`. Who has nothing is no error. What is erased stays in the
/// database's files until their space is used again: `agentkit vacuum` overwrites it.
#[utoipa::path(
    delete, path = "/owners/{owner}", tag = "conversations", operation_id = "erase_owner",
    params(("owner" = String, Path, description = "The name of the owner")),
    responses((status = 200, description = "How much there was", body = Erased)),
)]
async fn erase(app: App, caller: Caller, Name(owner): Name) -> Result<Json<Erased>, Problem> {
    validate_owner(&owner)?;
    let actor = caller.actor();
    let conversations = app.turns.conversations();
    let erased = owner::erase(&*app.storage, conversations, Whose::Owner(&owner), &actor).await?;
    Ok(Json(erased))
}
