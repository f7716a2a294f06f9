//! What a search asks, and in which order it answers.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use serde_json::Value as Json;

use super::{Filter, Item, ItemKey, Labels, VectorQuery, namespace};
use crate::{Result, validate};

/// Which items [`Operation::Search`](super::Operation::Search) finds: by a text or a vector those
/// that are most like it first, by both those that either ranks high, by neither the last put.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Search {
    /// Those of this namespace and of the namespaces within it.
    pub namespace: Labels,
    /// Those whose value it takes.
    pub filter: Filter,
    /// Those that have one of its words in a text of their value.
    pub text: Option<String>,
    /// Those that have vectors; what counts is the one that is most like it.
    pub vector: Option<VectorQuery>,
    /// How many at most.
    pub limit: u64,
    /// How many to pass over.
    pub offset: u64,
    /// Whether the time to live of those found begins anew.
    pub renews: bool,
}

/// By reciprocal rank fusion: how much the first places count more than those behind.
const FUSION: f64 = 60.0;

/// The fewest of two rankings that are fused.
const FUSED: u64 = 50;

impl Search {
    pub(super) fn validate(&self) -> Result<()> {
        namespace::validate(&self.namespace)?;
        if let Some(text) = &self.text {
            validate::text("text", text)?;
        }
        self.vector.as_ref().map_or(Ok(()), VectorQuery::validate)
    }

    /// Whether it asks for what is most like something.
    pub fn is_ranked(&self) -> bool {
        self.text.is_some() || self.vector.is_some()
    }

    /// How many of each ranking its page is made of.
    pub fn depth(&self) -> u64 {
        let end = self.offset.saturating_add(self.limit);
        if self.text.is_some() && self.vector.is_some() {
            end.saturating_mul(2).max(FUSED)
        } else {
            end
        }
    }

    /// How well a value answers its text: by how many of the words it has, and how often, in how few
    /// others.
    pub fn score_text(&self, value: &Json) -> Option<f64> {
        let wanted: HashSet<String> = words(self.text.as_ref()?).collect();
        let mut counts = HashMap::new();
        let mut all = 0.0;
        count(value, &mut |word| {
            all += 1.0;
            if let Some(word) = wanted.get(&word) {
                *counts.entry(word).or_insert(0.0) += 1.0;
            }
        });
        let found: f64 = counts.values().map(|count| count / (count + 1.0)).sum();
        (found > 0.0).then(|| found / f64::ln(all + 2.0))
    }

    /// Its page of what was found with a score, by its text and by its vector: the first
    /// [`depth`](Self::depth) of each at least. An item may be there several times.
    pub fn page(&self, by_text: Vec<Item>, by_vector: Vec<Item>) -> Vec<Item> {
        let (by_text, by_vector) = (ranked(by_text), ranked(by_vector));
        let found = match (&self.text, &self.vector) {
            (Some(_), Some(_)) => self.fused([by_text, by_vector]),
            (Some(_), None) => by_text,
            _ => by_vector,
        };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let page = found.into_iter().skip(size(self.offset));
        page.take(size(self.limit)).collect()
    }

    fn fused(&self, rankings: [Vec<Item>; 2]) -> Vec<Item> {
        let depth = usize::try_from(self.depth()).unwrap_or(usize::MAX);
        let mut fused: HashMap<ItemKey, Item> = HashMap::new();
        for ranking in rankings {
            for (place, mut item) in (1_u32..).zip(ranking.into_iter().take(depth)) {
                let score = 1.0 / (FUSION + f64::from(place));
                item.score = Some(score);
                let merged = fused.entry(item.key.clone());
                let merge = |seen: &mut Item| seen.score = seen.score.map(|seen| seen + score);
                merged.and_modify(merge).or_insert(item);
            }
        }
        ranked(fused.into_values().collect())
    }
}

/// The best first, each once.
fn ranked(mut items: Vec<Item>) -> Vec<Item> {
    items.sort_by(|a, b| {
        let score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        score.then_with(|| a.key.cmp(&b.key))
    });
    let mut seen = HashSet::new();
    items.retain(|item| seen.insert(item.key.clone()));
    items
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|character: char| !character.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The words of a value's texts.
fn count(value: &Json, seen: &mut dyn FnMut(String)) {
    match value {
        Json::String(text) => words(text).for_each(seen),
        Json::Array(items) => items.iter().for_each(|item| count(item, seen)),
        Json::Object(fields) => fields.values().for_each(|field| count(field, seen)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}
