//! A connection that serves one tenant after the other.

use std::time::Duration;

use yai_agentkit_core::{
    Conversation, Entity, ListQuery, Storage, Stores, checkpoint::CheckpointerExt,
    conversation::ConversationFilter,
};

use super::{Divided, connect, divided};
use crate::support::PostgresDatabase;
use yai_agentkit_persistence::Database;

const TENANTS: usize = 5;

/// Each tenant's calls see its own rows and nothing else, whatever the others do on the same connections
/// meanwhile, and although calls are given up and refused half-way.
async fn tenants_take_turns(url: &str) {
    let config = divided(url).max_connections(2).unwrap();
    let database = Database::connect(&config).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TENANTS {
        let tenant = database.tenant(&format!("tenant-{number}")).unwrap();
        tasks.spawn(async move {
            let owner = format!("owner of {number}");
            for round in 0..20 {
                let thread = format!("thread {round}").into();
                let (checkpointer, conversations) = (tenant.checkpointer(), tenant.conversations());
                let saved = checkpointer.save(&thread, &number);
                let new = Conversation::titled("x").with(|new| new.owner = Some(owner.clone()));
                let added = conversations.add(new.clone());
                let (saved, added) = tokio::join!(saved, added);
                saved.unwrap();
                added.unwrap();
                // Refused, and given up.
                tenant.conversations().add(new.clone()).await.unwrap_err();
                let list = ListQuery::<Conversation>::default();
                let pause = Duration::from_micros(200 * round);
                let _ = tokio::time::timeout(pause, tenant.conversations().list(&list)).await;
                let unit = tenant.begin().await.unwrap();
                let latest: Option<usize> = unit.checkpointer().latest(&thread).await.unwrap();
                assert_eq!(latest, Some(number));
                match round % 2 {
                    0 => unit.commit().await.unwrap(),
                    _ => drop(unit),
                }
                let found = tenant.conversations().list(&list).await.unwrap();
                assert_eq!(found.items.len() as u64, round + 1);
                for found in found.items {
                    assert_eq!(found.owner.as_deref(), Some(owner.as_str()));
                }
                let filter = ConversationFilter::default();
                assert_eq!(conversations.count(&filter).await.unwrap(), round + 1);
                assert_eq!(
                    tenant.checkpointer().keys(100).await.unwrap().len() as u64,
                    round + 1
                );
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    database.close().await;
}

#[tokio::test]
async fn a_connection_shows_no_tenant_the_rows_of_the_one_before() {
    let (postgres, _) = PostgresDatabase::create_for_server("tenants").await;
    tenants_take_turns(&postgres.url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_connection_of_pgbouncer_shows_no_tenant_the_rows_of_the_one_before() {
    let (postgres, _) = PostgresDatabase::create_for_server("tenants").await;
    tenants_take_turns(&postgres.pgbouncer_url).await;
    postgres.remove().await;
}

#[tokio::test]
async fn a_script_that_names_a_tenant_leaves_it_to_nobody() {
    let database = Divided::create().await;
    let config = divided(&database.postgres.url).max_connections(1).unwrap();
    let all = Database::connect(&config).await.unwrap();
    let bob = all.tenant("bob").unwrap();
    for script in [
        "SET agentkit.tenant = 'acme'",
        "RESET ALL",
        "SELECT set_config('agentkit.tenant', '*', false)",
    ] {
        bob.execute_script(script).await.unwrap();
        let found = bob.conversations().list(&ListQuery::default()).await;
        let found: Vec<_> = found
            .unwrap()
            .items
            .iter()
            .map(|one| one.id.to_string())
            .collect();
        assert_eq!(found, [database.ids[1].as_str()], "{script}");
    }
    all.close().await;
    connect(&database.postgres.url).await.close().await;
    database.postgres.remove().await;
}
