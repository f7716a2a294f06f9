use std::sync::Arc;

use rmcp::{ErrorData, RoleServer, ServiceExt, service::RequestContext, transport::stdio};
use yai_agentkit_core::{access::validate_owner, error::BoxError};
use yai_agentkit_persistence::Database;

use crate::{
    mcp::{McpMemory, Memory},
    settings::Settings,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Whose memory; all conversations are searched without it
    #[arg(long)]
    owner: Option<String>,
    /// Let agents remember, too
    #[arg(long)]
    write: bool,
}

pub(super) async fn run(settings: Settings, arguments: Arguments) -> Result<(), BoxError> {
    if let Some(owner) = &arguments.owner {
        validate_owner(owner)?;
    }
    let database = Database::connect(&settings.database).await?;
    let memory = Memory {
        storage: Arc::new(database.clone()),
        owner: arguments.owner,
        may_write: arguments.write,
    };
    let of_all = move |_: &RequestContext<RoleServer>| Ok::<_, ErrorData>(memory.clone());
    let served = McpMemory(of_all).serve(stdio()).await;
    let ended = match served {
        Ok(running) => running.waiting().await.map(drop).map_err(BoxError::from),
        Err(error) => Err(error.into()),
    };
    database.close().await;
    ended
}
