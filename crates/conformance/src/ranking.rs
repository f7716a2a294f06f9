//! Searches by what items say: by words everywhere, by vectors where the back end keeps any.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use yai_agentkit_core::{
    Storage,
    store::{
        Distance, FieldVector, Filter, Item, ItemKey, MemoryStore, MemoryStoreExt, NewItem,
        Operation, Precision, Search, VectorIndex, VectorKind, VectorQuery,
    },
};

use super::{
    Case,
    fixtures::{assert_invalid, fresh},
};

pub(super) const BY_TEXT: &[Case] = cases!["ranking":
    a_text_finds_what_has_its_words_the_most_of_them_first,
    words_are_those_of_texts_in_any_language,
    a_text_without_words_finds_nothing,
];

pub(super) const BY_VECTOR: &[Case] = cases!["vectors":
    the_nearest_comes_first_with_its_score,
    an_item_is_found_once_by_the_nearest_of_its_vectors,
    what_is_put_again_is_found_by_its_new_vectors_only,
    what_is_deleted_is_found_by_no_vector,
    a_filter_and_a_namespace_do_not_empty_what_is_found,
    pages_by_vector_follow_each_other,
    a_text_and_a_vector_are_fused,
    a_unit_of_work_takes_its_vectors_back,
    vectors_that_no_back_end_keeps_are_refused,
];

/// All in one table, which has one length: a model's.
const DIMENSIONS: usize = 3;

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

    async fn with_vectors(storage: &Arc<dyn Storage>) -> Self {
        let place = Self::new(storage);
        let index = VectorIndex {
            precision: Precision::Single,
            ..VectorIndex::new(DIMENSIONS)
        };
        place.store.prepare(&index).await.unwrap();
        // A second time finds it there.
        place.store.prepare(&index).await.unwrap();
        place
    }

    fn key(&self, key: &str) -> ItemKey {
        ItemKey::new([self.root.as_str(), "within"], key)
    }

    async fn put(&self, key: &str, value: Json, vectors: &[[f32; DIMENSIONS]]) {
        let mut item = NewItem::new(self.key(key), &value).unwrap();
        item.vectors = fields(vectors);
        self.store.put(item).await.unwrap();
    }

    fn search(&self) -> Search {
        Search {
            namespace: vec![self.root.clone()],
            limit: 10,
            ..Search::default()
        }
    }

    fn near(&self, vector: [f32; DIMENSIONS]) -> Search {
        let vector = Some(VectorQuery {
            vector: vector.to_vec(),
            distance: Distance::Cosine,
        });
        Search {
            vector,
            ..self.search()
        }
    }

    async fn items(&self, search: Search) -> Vec<Item> {
        self.store.search(search).await.unwrap()
    }

    async fn found(&self, search: Search) -> Vec<String> {
        let found = self.items(search).await.into_iter();
        found.map(|item| item.key.key).collect()
    }

    async fn with_words(&self, text: &str) -> Vec<String> {
        let text = Some(text.to_owned());
        self.found(Search {
            text,
            ..self.search()
        })
        .await
    }
}

fn fields(vectors: &[[f32; DIMENSIONS]]) -> Vec<FieldVector> {
    let field = |(number, vector): (usize, &[f32; DIMENSIONS])| FieldVector {
        field: format!("field.{number}"),
        vector: vector.to_vec(),
    };
    vectors.iter().enumerate().map(field).collect()
}

async fn a_text_finds_what_has_its_words_the_most_of_them_first(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    let filler = "and so on ".repeat(20);
    for (key, value) in [
        ("both", json!({"text": "Ada likes rye bread"})),
        ("one", json!({"text": format!("some bread {filler}")})),
        (
            "deep",
            json!({"a": [{"b": "Bread! More bread, ADA."}], "n": 7}),
        ),
        ("none", json!({"bread": "a field is no text", "n": "7"})),
    ] {
        place.put(key, value, &[]).await;
    }
    let mut found = place.with_words("ada's BREAD?").await;
    assert_eq!(found.pop().as_deref(), Some("one"));
    found.sort();
    assert_eq!(found, ["both", "deep"]);
    assert_eq!(place.with_words("7").await, ["none"]);
    let filter = json!({"n": 7});
    let search = Search {
        text: Some("bread".to_owned()),
        filter: Filter::parse(filter.as_object().unwrap()).unwrap(),
        ..place.search()
    };
    let found = place.items(search).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].score.unwrap() > 0.0, "{found:?}");
    let page = Search {
        text: Some("bread".to_owned()),
        limit: 1,
        offset: 2,
        ..place.search()
    };
    assert_eq!(place.found(page).await, ["one"]);
}

async fn words_are_those_of_texts_in_any_language(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    place
        .put("de", json!({"text": "Übermut tut gut"}), &[])
        .await;
    place.put("zh", json!({"text": "喜欢 茶"}), &[]).await;
    assert_eq!(place.with_words("Übermut").await, ["de"]);
    assert_eq!(place.with_words("茶").await, ["zh"]);
}

async fn a_text_without_words_finds_nothing(storage: Arc<dyn Storage>) {
    let place = Place::new(&storage);
    place.put("key", json!({"text": "a | b & !c '"}), &[]).await;
    for text in ["", "?!", "'", "& |", "zzz"] {
        assert_eq!(place.with_words(text).await, [] as [&str; 0], "{text}");
    }
    assert_eq!(place.with_words("a' | !b").await, ["key"]);
}

async fn the_nearest_comes_first_with_its_score(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    place.put("x", json!({}), &[[2.0, 0.0, 0.0]]).await;
    place.put("y", json!({}), &[[0.0, 1.0, 0.0]]).await;
    place.put("xy", json!({}), &[[1.0, 1.0, 0.0]]).await;
    place.put("no vector", json!({}), &[]).await;
    let near = place.near([1.0, 0.1, 0.0]);
    let found = place.items(near.clone()).await;
    let keys: Vec<_> = found.iter().map(|item| item.key.key.as_str()).collect();
    assert_eq!(keys, ["x", "xy", "y"]);
    for (distance, expected) in [
        (Distance::Cosine, 0.995_037),
        (Distance::Euclidean, -1.004_988),
        (Distance::InnerProduct, 2.0),
    ] {
        let mut search = near.clone();
        search.vector.as_mut().unwrap().distance = distance;
        let found = place.items(search).await;
        let x = found.iter().find(|item| item.key.key == "x").unwrap();
        let score = x.score.unwrap();
        assert!((score - expected).abs() < 1e-5, "{distance:?}: {score}");
    }
    let by_time = place.items(place.search()).await;
    assert_eq!(by_time.len(), 4);
    assert!(by_time.iter().all(|item| item.score.is_none()));
}

async fn an_item_is_found_once_by_the_nearest_of_its_vectors(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    let many: Vec<_> = (1_u8..40)
        .map(|n| [1.0, f32::from(n) / 1000.0, 0.0])
        .collect();
    place.put("many", json!({}), &many).await;
    place
        .put(
            "far and near",
            json!({}),
            &[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        )
        .await;
    place.put("far", json!({}), &[[0.0, 1.0, 0.0]]).await;
    let near = Search {
        limit: 3,
        ..place.near([1.0, 0.0, 0.0])
    };
    assert_eq!(place.found(near).await, ["far and near", "many", "far"]);
}

async fn what_is_put_again_is_found_by_its_new_vectors_only(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    place
        .put("key", json!({}), &[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    place.put("key", json!({}), &[[0.0, 1.0, 0.0]]).await;
    let found = place.items(place.near([1.0, 0.0, 0.0])).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].score.unwrap().abs() < 1e-6, "{found:?}");
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    place.put("key", json!({}), &[]).await;
    assert_eq!(
        place.found(place.near([0.0, 1.0, 0.0])).await,
        [] as [&str; 0]
    );
}

async fn what_is_deleted_is_found_by_no_vector(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    place.put("key", json!({}), &[[1.0, 0.0, 0.0]]).await;
    place.store.delete(place.key("key")).await.unwrap();
    let near = place.near([1.0, 0.0, 0.0]);
    assert_eq!(place.found(near.clone()).await, [] as [&str; 0]);
    // Nor does it have an old one if it comes back.
    place.put("key", json!({}), &[]).await;
    assert_eq!(place.found(near).await, [] as [&str; 0]);
}

/// Thousands are nearer than those that may be found.
async fn a_filter_and_a_namespace_do_not_empty_what_is_found(storage: Arc<dyn Storage>) {
    const NEARER: u16 = 3_000;
    let place = Place::with_vectors(&storage).await;
    let item = |namespace: &[&str], number: u16, wanted: bool| {
        let namespace = [&[place.root.as_str()], namespace].concat();
        let key = ItemKey::new(namespace, format!("{number:04}"));
        let mut item = NewItem::new(key, &json!({"wanted": wanted})).unwrap();
        item.vectors = fields(&[[1.0, f32::from(number) / 1e4, 0.0]]);
        Operation::Put(item)
    };
    let nearer = (0..NEARER).map(|number| item(&["all"], number, false));
    let mut batch: Vec<_> = nearer.collect();
    batch.extend((NEARER..NEARER + 5).map(|number| item(&["all"], number, true)));
    batch.extend((NEARER..NEARER + 5).map(|number| item(&["few"], number, false)));
    place.store.batch(batch).await.unwrap();
    let expected = ["3000", "3001", "3002", "3003", "3004"];
    let near = place.near([1.0, 0.0, 0.0]);
    let wanted = json!({"wanted": true});
    let filtered = Search {
        filter: Filter::parse(wanted.as_object().unwrap()).unwrap(),
        ..near.clone()
    };
    assert_eq!(place.found(filtered).await, expected);
    let within = Search {
        namespace: vec![place.root.clone(), "few".to_owned()],
        ..near.clone()
    };
    assert_eq!(place.found(within).await, expected);
    assert_eq!(place.found(near).await[0], "0000");
}

async fn pages_by_vector_follow_each_other(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    let keys: Vec<String> = (0_u8..25).map(|number| format!("{number:02}")).collect();
    for (number, key) in (0_u8..).zip(&keys) {
        place
            .put(key, json!({}), &[[1.0, f32::from(number) / 100.0, 0.0]])
            .await;
    }
    let mut seen = Vec::new();
    for offset in [0, 10, 20, 30] {
        let page = Search {
            offset,
            ..place.near([1.0, 0.0, 0.0])
        };
        seen.extend(place.found(page).await);
    }
    assert_eq!(seen, keys);
}

async fn a_text_and_a_vector_are_fused(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    place.put("word", json!({"text": "rye"}), &[]).await;
    place
        .put("vector", json!({"text": "oats"}), &[[1.0, 0.0, 0.0]])
        .await;
    place
        .put(
            "both",
            json!({"text": "rye and oats and more"}),
            &[[0.9, 0.1, 0.0]],
        )
        .await;
    place.put("neither", json!({"text": "tea"}), &[]).await;
    let both = Search {
        text: Some("rye".to_owned()),
        ..place.near([1.0, 0.0, 0.0])
    };
    let found = place.found(both.clone()).await;
    assert_eq!(found[0], "both");
    let mut others = found[1..].to_vec();
    others.sort();
    assert_eq!(others, ["vector", "word"]);
    let page = Search {
        limit: 1,
        offset: 1,
        ..both
    };
    assert_eq!(place.found(page).await, [found[1].clone()]);
}

async fn a_unit_of_work_takes_its_vectors_back(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    place.put("old", json!({}), &[[0.0, 1.0, 0.0]]).await;
    let unit = storage.begin().await.unwrap();
    let within = Place {
        store: unit.memory_store(),
        root: place.root.clone(),
    };
    within.put("new", json!({}), &[[1.0, 0.0, 0.0]]).await;
    let near = place.near([1.0, 0.0, 0.0]);
    assert_eq!(within.found(near.clone()).await, ["new", "old"]);
    drop((within, unit));
    assert_eq!(place.found(near).await, ["old"]);
}

async fn vectors_that_no_back_end_keeps_are_refused(storage: Arc<dyn Storage>) {
    let place = Place::with_vectors(&storage).await;
    for vector in [vec![], vec![f32::NAN, 0.0, 0.0], vec![0.0; 4_001]] {
        let mut item = NewItem::new(place.key("key"), &json!({})).unwrap();
        let field = "field".to_owned();
        let given = vector.clone();
        item.vectors = vec![FieldVector {
            field,
            vector: given,
        }];
        assert_invalid(
            place.store.batch(vec![Operation::Put(item)]).await,
            "vector",
        );
        let mut near = place.near([0.0; DIMENSIONS]);
        near.vector.as_mut().unwrap().vector = vector;
        assert_invalid(
            place.store.batch(vec![Operation::Search(near)]).await,
            "vector",
        );
    }
    for index in [
        VectorIndex::new(0),
        VectorIndex {
            precision: Precision::Single,
            kind: VectorKind::default(),
            ..VectorIndex::new(2_001)
        },
    ] {
        assert_invalid(place.store.prepare(&index).await, "dims");
    }
    assert_eq!(place.store.get(place.key("key")).await.unwrap(), None);
}
