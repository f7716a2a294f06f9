//! The calls of [`MemoryStore`](yai_agentkit_core::store::MemoryStore).

use std::time::Duration;

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    Stores,
    store::{
        Answer, Distance, FieldVector, Filter, ItemKey, NamespacePattern, NamespaceQuery, NewItem,
        Operation, Search, VectorQuery,
    },
};

use super::Golden;
use crate::{Database, store};

pub(super) async fn call_all(golden: &mut Golden) {
    let key = |key: &str| ItemKey::new(["users", "ada"], key);
    let put = |name: &str| Operation::Put(NewItem::new(key(name), &json!({"n": 1})).unwrap());
    let get = |name: &str, renews| Operation::Get {
        key: key(name),
        renews,
    };
    let mut dying = NewItem::new(key("dying"), &json!({})).unwrap();
    dying.time_to_live = Some(Duration::from_secs(3600));
    batch(
        golden,
        "store_put",
        vec![put("kept"), Operation::Put(dying)],
    )
    .await;
    batch(
        golden,
        "store_delete",
        vec![Operation::Delete(key("absent"))],
    )
    .await;
    batch(
        golden,
        "store_get",
        vec![get("kept", true), get("absent", true)],
    )
    .await;
    batch(golden, "store_get_and_renew", vec![get("dying", true)]).await;
    let every_test = json!({
        "n": {"$gte": 1, "$ne": 2}, "absent": null, "text": {"$lt": "b"},
        "object": {"array": [true, "text"]}, "whole": {"$eq": {"a": [1]}},
    });
    for (name, filter) in [
        ("store_search", json!({})),
        ("store_search_by_filter", every_test),
    ] {
        batch(golden, name, vec![Operation::Search(search(&filter))]).await;
    }
    let by_text = Search {
        text: Some("some words".to_owned()),
        ..search(&json!({}))
    };
    batch(
        golden,
        "store_search_by_text",
        vec![Operation::Search(by_text.clone())],
    )
    .await;
    let vector = Some(VectorQuery {
        vector: vec![1.0, 0.5],
        distance: Distance::Cosine,
    });
    let by_both = Operation::Search(Search { vector, ..by_text });
    let mut embedded = NewItem::new(key("kept"), &json!({})).unwrap();
    embedded.vectors.push(FieldVector {
        field: "$".to_owned(),
        vector: vec![1.0, 0.5],
    });
    let operations = vec![Operation::Put(embedded), by_both];
    if golden.database.connection.is_postgres() {
        // The server may have no pgvector; the conformance suite runs it on one that has.
        let text = store::text(&golden.database.connection, &operations);
        golden
            .texts
            .insert("store_vectors".to_owned(), text + ";\n");
    } else {
        batch(golden, "store_vectors", operations).await;
    }
    let patterns = vec![
        NamespacePattern::Prefix(vec!["users".to_owned(), "*".to_owned()]),
        NamespacePattern::Suffix(vec!["ada".to_owned()]),
    ];
    let list = NamespaceQuery {
        patterns,
        max_depth: Some(1),
        limit: 10,
        offset: 0,
    };
    let list = Operation::Namespaces(list);
    batch(golden, "store_namespaces", vec![list.clone()]).await;
    let all = vec![
        get("kept", false),
        list,
        put("kept"),
        Operation::Delete(key("absent")),
        Operation::Search(search(&json!({}))),
    ];
    batch(golden, "store_batch", all).await;
    let sweep = async |database: &Database| {
        database.memory_store().sweep().await.unwrap();
    };
    golden.call("store_sweep", sweep).await;
}

async fn batch(golden: &mut Golden, name: &str, operations: Vec<Operation>) {
    let count = operations.len();
    let batch = async |database: &Database| {
        let answers: Vec<Answer> = database.memory_store().batch(operations).await.unwrap();
        assert_eq!(answers.len(), count);
    };
    golden.call(name, batch).await;
}

fn search(filter: &Json) -> Search {
    Search {
        namespace: vec!["users".to_owned()],
        filter: Filter::parse(filter.as_object().unwrap()).unwrap(),
        limit: 10,
        offset: 0,
        renews: false,
        ..Search::default()
    }
}
