//! An item is reached by its key, and a namespace by a range, however many others there are.

use std::time::Duration;

use serde_json::json;
use yai_agentkit_core::store::{
    Filter, ItemKey, NamespacePattern, NamespaceQuery, NewItem, Operation, Search,
};

use super::{Lock, Writes, read, statement, write};
use crate::{connection::Connection, explain::Databases};

/// 20,000 items of 1,000 users.
const ROWS: &str = r#"
INSERT INTO store (prefix, key, value)
SELECT 'users.' || CAST(i % 1000 AS TEXT), CAST(i AS TEXT), '{"n": 1}' FROM numbers;"#;

#[tokio::test]
async fn items_are_reached_by_their_key_and_namespaces_by_a_range() {
    let databases = Databases::with(ROWS).await;
    let key = || ItemKey::new(["users", "7"], "1007");
    let get = Operation::Get {
        key: key(),
        renews: true,
    };
    let prefix = vec!["users".to_owned(), "7".to_owned()];
    let filter = json!({"n": {"$gt": 0}});
    let search = Operation::Search(Search {
        namespace: prefix.clone(),
        filter: Filter::parse(filter.as_object().unwrap()).unwrap(),
        limit: 10,
        offset: 0,
        renews: true,
        ..Search::default()
    });
    let list = Operation::Namespaces(NamespaceQuery {
        patterns: vec![NamespacePattern::Prefix(prefix)],
        max_depth: None,
        limit: 10,
        offset: 0,
    });
    let renew = [("users.7".to_owned(), "1007".to_owned())];
    for (operation, index) in [
        (get, "store_pkey"),
        (search, "store_prefix_idx"),
        (list, "store_prefix_idx"),
    ] {
        let query =
            |connection: &Connection| read::query(connection, &[&operation]).expect("it reads");
        let on_postgres = databases.on_postgres(query);
        databases.assert_postgres_uses(on_postgres, &[index]).await;
        databases.assert_sqlite_uses(query, &["store_pkey"]).await;
    }
    let renew = |connection: &Connection| write::renew(connection, &renew);
    databases.assert_sqlite_uses(renew, &["store_pkey"]).await;
    let mut item = NewItem::new(key(), &json!({})).unwrap();
    item.time_to_live = Some(Duration::from_secs(60));
    let operations = [
        Operation::Put(item),
        Operation::Delete(ItemKey::new(["a"], "b")),
    ];
    let operations: Vec<&Operation> = operations.iter().collect();
    let query = databases.on_postgres(|connection| {
        statement(
            connection,
            &operations,
            &Writes::of(&operations),
            Lock::Shared,
        )
    });
    databases.assert_postgres_uses(query, &["store_pkey"]).await;
    databases.remove().await;
}
