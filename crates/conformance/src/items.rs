//! Long-term memory: items in namespaces.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    Storage,
    store::{
        Answer, Filter, Item, ItemKey, Labels, MemoryStore, MemoryStoreExt, NamespacePattern,
        NamespaceQuery, NewItem, Operation, Search,
    },
};

use super::{
    Case,
    fixtures::{AWKWARD, all_at_once, assert_invalid, fresh},
};

pub(super) const CASES: &[Case] = cases!["items":
    an_item_reads_back_as_it_was_put,
    putting_again_replaces_and_keeps_the_first_time,
    numbers_keep_their_digits,
    what_is_deleted_is_gone_and_deleting_again_is_no_error,
    a_search_stays_within_its_namespace,
    a_search_pages_the_last_put_first,
    filters_compare_values_as_what_they_are,
    filters_find_awkward_names_and_texts,
    filters_look_into_objects_and_arrays,
    namespaces_are_listed_by_whole_labels,
    namespaces_are_cut_and_paged_in_order,
    a_batch_reads_what_was_before_it,
    the_last_write_of_a_batch_counts,
    what_is_refused_leaves_a_batch_undone,
    many_batches_at_once_are_each_whole,
    a_batch_that_puts_is_whole_beside_one_that_deletes,
    an_item_dies_when_its_time_is_over_unless_it_is_read,
    a_unit_of_work_takes_its_items_back,
];

/// A namespace that no other case knows.
struct Place {
    store: Arc<dyn MemoryStore>,
    root: String,
}

impl Place {
    fn new(storage: &Arc<dyn Storage>) -> Self {
        Self {
            store: storage.memory_store(),
            root: fresh(),
        }
    }

    fn within(&self, labels: &[&str]) -> Labels {
        let labels = labels.iter().map(|label| (*label).to_owned());
        [self.root.clone()].into_iter().chain(labels).collect()
    }

    fn key(&self, key: &str) -> ItemKey {
        ItemKey::new(self.within(&[]), key)
    }

    async fn put(&self, key: &str, value: &Json) {
        self.put_at(self.key(key), value).await;
    }

    async fn put_at(&self, key: ItemKey, value: &Json) {
        let item = NewItem::new(key, value).unwrap();
        self.store.put(item).await.unwrap();
    }

    async fn get(&self, key: &str) -> Option<Item> {
        self.store.get(self.key(key)).await.unwrap()
    }

    async fn value(&self, key: &str) -> Option<Json> {
        let item = self.get(key).await;
        item.map(|item| item.decode().unwrap())
    }

    fn search(&self, filter: &Json) -> Search {
        Search {
            namespace: self.within(&[]),
            filter: Filter::parse(filter.as_object().unwrap()).unwrap(),
            limit: 100,
            offset: 0,
            renews: true,
            ..Search::default()
        }
    }

    /// The keys of what a filter finds, in order of the alphabet.
    async fn found(&self, filter: &Json) -> Vec<String> {
        let found = self.store.search(self.search(filter)).await.unwrap();
        let mut keys: Vec<_> = found.into_iter().map(|item| item.key.key).collect();
        keys.sort();
        keys
    }

    fn list(&self, patterns: Vec<NamespacePattern>) -> NamespaceQuery {
        let mut all = vec![NamespacePattern::Prefix(self.within(&[]))];
        all.extend(patterns);
        NamespaceQuery {
            patterns: all,
            max_depth: None,
            limit: 100,
            offset: 0,
        }
    }

    /// The namespaces without the root.
    async fn listed(&self, query: NamespaceQuery) -> Vec<String> {
        let listed = self.store.namespaces(query).await.unwrap();
        let rest = |labels: Labels| labels[1..].join(" ");
        listed.into_iter().map(rest).collect()
    }
}

fn labels(labels: &[&str]) -> Labels {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

async fn an_item_reads_back_as_it_was_put(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let label = AWKWARD.replace('.', "");
    let key = ItemKey::new(place.within(&[&label, "*", "a b"]), AWKWARD);
    let value = json!({
        AWKWARD: AWKWARD, "": "", "a.b": [null, true, -1, 0.5, [[]], {}], "$x": {"$y": {"z": []}},
    });
    assert_eq!(place.store.get(key.clone()).await.unwrap(), None);
    place.put_at(key.clone(), &value).await;
    let item = place.store.get(key.clone()).await.unwrap().unwrap();
    assert_eq!(item.key, key);
    assert_eq!(item.decode::<Json>().unwrap(), value);
    assert_eq!(item.created_at, item.updated_at);
    let found = place.store.search(place.search(&json!({}))).await.unwrap();
    assert_eq!(found, [item]);
}

async fn putting_again_replaces_and_keeps_the_first_time(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    place.put("key", &json!({"a": 1})).await;
    let first = place.get("key").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    place.put("key", &json!({"b": 2})).await;
    let second = place.get("key").await.unwrap();
    assert_eq!(second.decode::<Json>().unwrap(), json!({"b": 2}));
    assert_eq!(second.created_at, first.created_at);
    assert!(second.updated_at > first.updated_at);
}

async fn numbers_keep_their_digits(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let value = r#"{"a": 12345678901234567890123, "b": 0.1000000000000000055511151231257827}"#;
    let item = NewItem {
        key: place.key("key"),
        value: value.to_owned(),
        time_to_live: None,
        vectors: Vec::new(),
    };
    place.store.put(item).await.unwrap();
    let stored = place.get("key").await.unwrap().value;
    assert!(stored.contains("12345678901234567890123"), "{stored}");
    assert!(
        stored.contains("0.1000000000000000055511151231257827"),
        "{stored}"
    );
}

async fn what_is_deleted_is_gone_and_deleting_again_is_no_error(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    for key in ["a", "b"] {
        place.put(key, &json!({})).await;
    }
    for _ in 0..2 {
        place.store.delete(place.key("a")).await.unwrap();
        assert_eq!(place.value("a").await, None);
        assert_eq!(place.found(&json!({})).await, ["b"]);
    }
}

/// Siblings that begin with the same characters, and wildcards of SQL, are other namespaces.
async fn a_search_stays_within_its_namespace(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let namespaces: [&[&str]; 9] = [
        &["user"],
        &["user", "notes"],
        &["user", "notes", "old"],
        &["user1"],
        &["user-1", "notes"],
        &["user!"],
        &["USER"],
        &["use_"],
        &["use%"],
    ];
    for namespace in namespaces {
        let key = ItemKey::new(place.within(namespace), namespace.join(" "));
        place.put_at(key, &json!({})).await;
    }
    let found = async |namespace: &[&str]| {
        let search = Search {
            namespace: place.within(namespace),
            ..place.search(&json!({}))
        };
        let found = place.store.search(search).await.unwrap();
        let mut keys: Vec<_> = found.into_iter().map(|item| item.key.key).collect();
        keys.sort();
        keys
    };
    assert_eq!(
        found(&["user"]).await,
        ["user", "user notes", "user notes old"]
    );
    assert_eq!(
        found(&["user", "notes"]).await,
        ["user notes", "user notes old"]
    );
    assert_eq!(found(&["use_"]).await, ["use_"]);
    assert_eq!(found(&["use%"]).await, ["use%"]);
    assert_eq!(found(&["use"]).await, [] as [String; 0]);
    assert_eq!(found(&[]).await.len(), namespaces.len());
    let everything = Search {
        namespace: Vec::new(),
        limit: 5,
        ..place.search(&json!({}))
    };
    assert_eq!(place.store.search(everything).await.unwrap().len(), 5);
}

async fn a_search_pages_the_last_put_first(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    for key in ["c", "a", "d", "b", "a"] {
        place.put(key, &json!({})).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut keys = Vec::new();
    for offset in [0, 3, 6] {
        let page = Search {
            limit: 3,
            offset,
            ..place.search(&json!({}))
        };
        let page = place.store.search(page).await.unwrap();
        keys.extend(page.into_iter().map(|item| item.key.key));
    }
    assert_eq!(keys, ["a", "b", "d", "c"]);
}

async fn filters_compare_values_as_what_they_are(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    for (key, value) in [
        ("2", json!({"n": 2, "t": "b", "flag": true})),
        ("10", json!({"n": 10, "t": "a", "flag": false})),
        ("10.5", json!({"n": 10.5, "t": "é", "flag": null})),
        ("text", json!({"n": "10", "t": 3, "flag": 1})),
        ("none", json!({})),
    ] {
        place.put(key, &value).await;
    }
    for (filter, expected) in [
        (json!({"n": {"$gt": 9}}), vec!["10", "10.5"]),
        (json!({"n": {"$gte": 2, "$lt": 10.5}}), vec!["10", "2"]),
        (json!({"n": {"$lte": 10.0}}), vec!["10", "2"]),
        (json!({"n": 10.0}), vec!["10"]),
        (json!({"n": "10"}), vec!["text"]),
        (json!({"n": {"$ne": 10}}), vec!["10.5", "2", "none", "text"]),
        (json!({"t": {"$gt": "a"}}), vec!["10.5", "2"]),
        (json!({"t": {"$lt": "b"}}), vec!["10"]),
        (json!({"flag": true}), vec!["2"]),
        (json!({"flag": false}), vec!["10"]),
        (json!({"flag": 1}), vec!["text"]),
        (json!({"flag": null}), vec!["10.5", "none"]),
        (json!({"flag": {"$ne": null}}), vec!["10", "2", "text"]),
        (json!({"n": 10, "t": "a"}), vec!["10"]),
        (json!({"n": 10, "t": "b"}), vec![]),
    ] {
        assert_eq!(place.found(&filter).await, expected, "{filter}");
    }
}

async fn filters_find_awkward_names_and_texts(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let names = [
        AWKWARD, "", "a.b", "$.a", "a[0]", "\"", "\\", "a\nb", "-1", "0",
    ];
    for (name, number) in names.iter().zip(0..) {
        let value = json!({(*name): {"text": AWKWARD, "number": number}});
        place.put(&number.to_string(), &value).await;
    }
    for (name, number) in names.iter().zip(0..) {
        let expected = [number.to_string()];
        for wanted in [
            json!({"text": AWKWARD}),
            json!({"number": number}),
            json!({"$eq": {"number": number, "text": AWKWARD}}),
        ] {
            let filter = json!({(*name): wanted});
            assert_eq!(place.found(&filter).await, expected, "{filter}");
        }
    }
    assert_eq!(
        place.found(&json!({"a": {"b": null}})).await,
        [] as [&str; 0]
    );
}

async fn filters_look_into_objects_and_arrays(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    for (key, value) in [
        ("deep", json!({"a": {"b": {"c": 1}, "d": 2}})),
        ("array", json!({"a": [1, {"b": 2, "c": 3}]})),
        ("longer", json!({"a": [1, {"b": 2}, null]})),
        ("empty", json!({"a": {}})),
        ("empties", json!({"a": []})),
        ("zero", json!({"a": {"0": 1}})),
    ] {
        place.put(key, &value).await;
    }
    for (filter, expected) in [
        (json!({"a": {"b": {"c": 1}}}), vec!["deep"]),
        (json!({"a": {"b": {"c": {"$lt": 2}}}}), vec!["deep"]),
        (json!({"a": {"d": null}}), vec!["empty", "zero"]),
        (
            json!({"a": {"$eq": {"d": 2, "b": {"c": 1.0}}}}),
            vec!["deep"],
        ),
        (json!({"a": {"$eq": {"d": 2}}}), vec![]),
        (json!({"a": {"$eq": {"x": null}}}), vec![]),
        (json!({"a": {}}), vec!["deep", "empty", "zero"]),
        (json!({"a": []}), vec!["empties"]),
        (json!({"a": [1, {"b": 2}]}), vec!["array"]),
        (json!({"a": [1, {"b": {"$gt": 1}}, null]}), vec!["longer"]),
        (json!({"a": {"$eq": [1, {"b": 2}]}}), vec![]),
        (json!({"a": {"$eq": [1, {"b": 2}, null]}}), vec!["longer"]),
        (
            json!({"a": {"$ne": {}}}),
            vec!["array", "deep", "empties", "longer", "zero"],
        ),
        (json!({"a": {"0": 1}}), vec!["zero"]),
    ] {
        assert_eq!(place.found(&filter).await, expected, "{filter}");
    }
}

async fn namespaces_are_listed_by_whole_labels(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let namespaces: [&[&str]; 8] = [
        &["a"],
        &["a", "b"],
        &["a", "b", "c"],
        &["a", "bc"],
        &["ab"],
        &["x", "b"],
        &["a*", "b"],
        &["A", "B\n"],
    ];
    for namespace in namespaces {
        place
            .put_at(ItemKey::new(place.within(namespace), "key"), &json!({}))
            .await;
    }
    let prefix = |given: &[&str]| NamespacePattern::Prefix(place.within(given));
    let suffix = |given: &[&str]| NamespacePattern::Suffix(labels(given));
    for (patterns, expected) in [
        (vec![prefix(&["a"])], vec!["a", "a b", "a b c", "a bc"]),
        (vec![prefix(&["a", "b"])], vec!["a b", "a b c"]),
        (
            vec![prefix(&["*", "b"])],
            vec!["a b", "a b c", "a* b", "x b"],
        ),
        (vec![suffix(&["b"])], vec!["a b", "a* b", "x b"]),
        (vec![suffix(&["*", "c"])], vec!["a b c"]),
        (vec![prefix(&["a"]), suffix(&["b"])], vec!["a b"]),
        (vec![suffix(&["B"])], vec![]),
        (vec![prefix(&["a", "b", "c", "d"])], vec![]),
    ] {
        let query = place.list(patterns);
        assert_eq!(place.listed(query.clone()).await, expected, "{query:?}");
    }
}

async fn namespaces_are_cut_and_paged_in_order(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    for namespace in [&["b", "x"], &["a", "y"], &["a!", "x"], &["a", "x"]] {
        for key in ["one", "two"] {
            let key = ItemKey::new(place.within(namespace), key);
            place.put_at(key, &json!({})).await;
        }
    }
    let all = place.listed(place.list(vec![])).await;
    assert_eq!(all, ["a x", "a y", "a! x", "b x"]);
    let cut = NamespaceQuery {
        max_depth: Some(2),
        ..place.list(vec![])
    };
    assert_eq!(place.listed(cut.clone()).await, ["a", "a!", "b"]);
    let page = NamespaceQuery {
        limit: 1,
        offset: 1,
        ..cut
    };
    assert_eq!(place.listed(page).await, ["a!"]);
}

async fn a_batch_reads_what_was_before_it(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    place.put("old", &json!({"n": 1})).await;
    let get = |key: &str| Operation::Get {
        key: place.key(key),
        renews: true,
    };
    let put = |key: &str| Operation::Put(NewItem::new(place.key(key), &json!({"n": 2})).unwrap());
    let other = ItemKey::new(place.within(&["other"]), "key");
    let batch = vec![
        put("old"),
        get("old"),
        put("new"),
        get("new"),
        Operation::Search(place.search(&json!({"n": 2}))),
        Operation::Put(NewItem::new(other, &json!({})).unwrap()),
        Operation::Namespaces(place.list(vec![])),
        Operation::Search(place.search(&json!({"n": 1}))),
    ];
    let before = place.get("old").await.unwrap();
    let answers = place.store.batch(batch).await.unwrap();
    let expected = [
        Answer::Done,
        Answer::Item(Some(before.clone())),
        Answer::Done,
        Answer::Item(None),
        Answer::Items(vec![]),
        Answer::Done,
        Answer::Namespaces(vec![place.within(&[])]),
        Answer::Items(vec![before]),
    ];
    assert_eq!(answers, expected);
    assert_eq!(place.found(&json!({"n": 2})).await, ["new", "old"]);
    assert_eq!(place.store.batch(vec![]).await.unwrap(), []);
}

async fn the_last_write_of_a_batch_counts(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    place.put("deleted", &json!({})).await;
    let put =
        |key: &str, n: i32| Operation::Put(NewItem::new(place.key(key), &json!({"n": n})).unwrap());
    let delete = |key: &str| Operation::Delete(place.key(key));
    let batch = vec![
        put("twice", 1),
        put("twice", 2),
        put("deleted", 1),
        delete("deleted"),
        delete("put"),
        put("put", 3),
    ];
    place.store.batch(batch).await.unwrap();
    assert_eq!(place.value("twice").await, Some(json!({"n": 2})));
    assert_eq!(place.value("deleted").await, None);
    assert_eq!(place.value("put").await, Some(json!({"n": 3})));
}

async fn what_is_refused_leaves_a_batch_undone(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let item = |key: ItemKey, value: &str| {
        Operation::Put(NewItem {
            key,
            value: value.to_owned(),
            time_to_live: None,
            vectors: Vec::new(),
        })
    };
    let at = |namespace: &[&str]| ItemKey::new(namespace.to_vec(), "key");
    for (refused, field) in [
        (item(at(&[]), "{}"), "namespace"),
        (item(at(&["a.b"]), "{}"), "namespace"),
        (item(at(&["a", ""]), "{}"), "namespace"),
        (item(at(&["a\0"]), "{}"), "namespace"),
        (item(place.key("\0"), "{}"), "key"),
        (item(place.key(&"k".repeat(2_601)), "{}"), "key"),
        (item(place.key("a"), "[]"), "value"),
        (item(place.key("a"), "{"), "value"),
        (item(place.key("a"), r#"{"a": "\u0000"}"#), "value"),
        (Operation::Delete(at(&["a.b"])), "namespace"),
        (
            Operation::Search(Search {
                namespace: labels(&["a.b"]),
                ..place.search(&json!({}))
            }),
            "namespace",
        ),
        (
            Operation::Namespaces(place.list(vec![NamespacePattern::Suffix(labels(&["."]))])),
            "namespace",
        ),
    ] {
        let batch = vec![item(place.key("beside"), "{}"), refused];
        assert_invalid(place.store.batch(batch).await, field);
    }
    assert_eq!(place.value("beside").await, None);
    let nowhere = place.store.get(at(&[])).await.unwrap();
    assert_eq!(nowhere, None);
}

async fn many_batches_at_once_are_each_whole(storage: Arc<dyn Storage>) {
    for _ in 0..4 {
        let place = Arc::new(Place::new(&storage));
        // Crosswise: what one puts the other deletes.
        let writers = (0..24).map(|number| {
            let place = Arc::clone(&place);
            async move {
                let keys = ["a", "b"].map(|key| place.key(key));
                let [put, delete] = if number % 2 == 0 {
                    keys
                } else {
                    let [a, b] = keys;
                    [b, a]
                };
                let own = NewItem::new(place.key(&format!("own {number}")), &json!({"n": number}));
                let batch = vec![
                    Operation::Put(NewItem::new(put, &json!({})).unwrap()),
                    Operation::Delete(delete),
                    Operation::Put(own.unwrap()),
                ];
                place.store.batch(batch).await.unwrap();
                let own = place.value(&format!("own {number}")).await;
                assert_eq!(own, Some(json!({"n": number})));
            }
        });
        all_at_once(writers).await;
        let left = place.found(&json!({"n": null})).await;
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

/// Both at once, again and again: both items are there, or none.
async fn a_batch_that_puts_is_whole_beside_one_that_deletes(storage: Arc<dyn Storage>) {
    for round in 0..24 {
        let place = Arc::new(Place::new(&storage));
        let keys = || ["a", "b"].map(|key| place.key(key));
        if round % 2 == 0 {
            place.put("a", &json!({"round": round})).await;
        }
        let puts = keys().map(|key| Operation::Put(NewItem::new(key, &json!({})).unwrap()));
        let deletes = keys().map(Operation::Delete);
        let batches = [puts, deletes].map(|batch| {
            let place = Arc::clone(&place);
            async move {
                place.store.batch(batch.into()).await.unwrap();
            }
        });
        all_at_once(batches).await;
        let there = [place.get("a").await, place.get("b").await].map(|item| item.is_some());
        assert_eq!(there[0], there[1], "round {round}");
    }
}

async fn an_item_dies_when_its_time_is_over_unless_it_is_read(storage: Arc<dyn Storage>) {
    const TIME: Duration = Duration::from_secs(4);
    let place = Place::new(&storage);
    let put = async |key: &str, time: Option<Duration>| {
        let mut item = NewItem::new(place.key(key), &json!({"key": key})).unwrap();
        item.time_to_live = time;
        place.store.put(item).await.unwrap();
    };
    for key in ["got", "found", "left"] {
        put(key, Some(TIME)).await;
    }
    put("kept", Some(TIME)).await;
    put("kept", None).await;
    let first = place.get("left").await.unwrap();
    let look = async || {
        let key = place.key("left");
        let get = Operation::Get { key, renews: false };
        place.store.batch(vec![get]).await.unwrap() != [Answer::Item(None)]
    };
    let deadline = Instant::now() + 20 * TIME;
    while look().await {
        assert!(Instant::now() < deadline);
        place.get("got").await;
        place.found(&json!({"key": "found"})).await;
        tokio::time::sleep(TIME / 20).await;
    }
    assert_eq!(place.found(&json!({})).await, ["found", "got", "kept"]);
    assert_eq!(place.listed(place.list(vec![])).await, [""]);
    // Its place is free for a new one.
    put("left", None).await;
    assert!(place.get("left").await.unwrap().created_at > first.created_at);

    put("swept", Some(Duration::from_millis(1))).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    storage.memory_store().sweep().await.unwrap();
    assert_eq!(place.value("swept").await, None);
    assert_eq!(
        place.found(&json!({})).await,
        ["found", "got", "kept", "left"]
    );
}

async fn a_unit_of_work_takes_its_items_back(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    place.put("old", &json!({"n": 1})).await;
    for commits in [false, true] {
        let unit = storage.begin().await.unwrap();
        let within = Place {
            store: unit.memory_store(),
            root: place.root.clone(),
        };
        within.put("old", &json!({"n": 2})).await;
        within.put("new", &json!({"n": 2})).await;
        assert_eq!(within.found(&json!({"n": 2})).await, ["new", "old"]);
        drop(within);
        if commits {
            unit.commit().await.unwrap();
        } else {
            drop(unit);
        }
        let expected: &[&str] = if commits { &["new", "old"] } else { &[] };
        assert_eq!(place.found(&json!({"n": 2})).await, expected);
    }
}
