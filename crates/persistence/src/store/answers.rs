//! What a batch answers, from the rows that it read.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sea_orm::{DbErr, QueryResult};
use yai_agentkit_core::store::{Answer, Item, ItemKey, Operation, Search};

use super::{joined, labels, vectors};

/// The answers of a batch as its rows come.
pub(super) struct Answers<'a> {
    operations: &'a [&'a Operation],
    answers: Vec<Answer>,
    /// What was found with a score, by the place of its search.
    ranked: Vec<Ranked>,
    /// The places whose time begins anew.
    renewed: Vec<(String, String)>,
}

#[derive(Clone, Default)]
struct Ranked {
    by_text: Vec<Item>,
    by_vector: Vec<Item>,
    renewable: HashSet<ItemKey>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(operations: &'a [&'a Operation]) -> Self {
        let answer = |operation: &&Operation| match operation {
            Operation::Get { .. } => Answer::Item(None),
            Operation::Search(_) => Answer::Items(Vec::new()),
            Operation::Namespaces(_) => Answer::Namespaces(Vec::new()),
            Operation::Put(_) | Operation::Delete(_) => Answer::Done,
        };
        Self {
            operations,
            answers: operations.iter().map(answer).collect(),
            ranked: vec![Ranked::default(); operations.len()],
            renewed: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: &QueryResult) -> Result<(), DbErr> {
        let operation: i32 = row.try_get_by_index(0)?;
        let prefix: String = row.try_get_by_index(1)?;
        let renews: bool = row.try_get_by_index(6)?;
        let place = usize::try_from(operation).unwrap_or(usize::MAX);
        match (self.operations.get(place), self.answers.get_mut(place)) {
            (Some(Operation::Search(search)), _) if search.is_ranked() => {
                return self.ranked[place].add(search, row, &prefix, renews);
            }
            (_, Some(Answer::Namespaces(listed))) => listed.push(labels(&prefix)),
            (_, Some(Answer::Item(item))) => *item = Some(read_item(row, &prefix)?),
            (_, Some(Answer::Items(items))) => items.push(read_item(row, &prefix)?),
            (_, Some(Answer::Done) | None) => {}
        }
        if renews {
            self.renewed.push((prefix, row.try_get_by_index(2)?));
        }
        Ok(())
    }

    /// The answers, and the places whose time begins anew.
    pub(super) fn finish(mut self, lists_all: bool) -> (Vec<Answer>, Vec<(String, String)>) {
        let all = self.answers.iter_mut().zip(self.operations);
        for ((answer, operation), ranked) in all.zip(self.ranked) {
            match (answer, operation) {
                (Answer::Items(items), Operation::Search(search)) if search.is_ranked() => {
                    *items = search.page(ranked.by_text, ranked.by_vector);
                    let keys = items.iter().map(|item| &item.key);
                    let renewed = keys.filter(|key| ranked.renewable.contains(key));
                    let place = |key: &ItemKey| (joined(&key.namespace), key.key.clone());
                    self.renewed.extend(renewed.map(place));
                }
                (Answer::Items(items), _) => items.sort_by(|a, b| {
                    let (newest, key) = (b.updated_at.cmp(&a.updated_at), a.key.cmp(&b.key));
                    newest.then(key)
                }),
                (Answer::Namespaces(listed), Operation::Namespaces(query)) if lists_all => {
                    *listed = query.page(std::mem::take(listed));
                }
                (Answer::Namespaces(listed), _) => listed.sort(),
                _ => {}
            }
        }
        (self.answers, self.renewed)
    }
}

impl Ranked {
    /// PostgreSQL says how well a row answers; of SQLite's rows that is found out here.
    fn add(
        &mut self,
        search: &Search,
        row: &QueryResult,
        prefix: &str,
        renews: bool,
    ) -> Result<(), DbErr> {
        let item = read_item(row, prefix)?;
        if renews {
            self.renewable.insert(item.key.clone());
        }
        let is_by_text: Option<bool> = row.try_get_by_index(7)?;
        let scored = |score| item.scored(score);
        match is_by_text {
            Some(true) => self.by_text.push(scored(row.try_get_by_index(8)?)),
            Some(false) => self.by_vector.push(scored(row.try_get_by_index(8)?)),
            None => {
                let vector: Option<Vec<u8>> = row.try_get_by_index(8)?;
                let is_first = self.by_text.last().is_none_or(|last| last.key != item.key);
                if search.text.is_some() && is_first {
                    let value = item
                        .decode()
                        .map_err(|error| DbErr::Type(error.to_string()))?;
                    self.by_text.extend(search.score_text(&value).map(scored));
                }
                if let (Some(query), Some(vector)) = (&search.vector, vector) {
                    let score = query.score(&vectors::from_blob(&vector));
                    self.by_vector.extend(score.map(scored));
                }
            }
        }
        Ok(())
    }
}

fn read_item(row: &QueryResult, prefix: &str) -> Result<Item, DbErr> {
    let time = |column| -> Result<DateTime<Utc>, DbErr> {
        let micros: i64 = row.try_get_by_index(column)?;
        let time = DateTime::from_timestamp_micros(micros);
        time.ok_or_else(|| DbErr::Type(format!("{micros} is no time")))
    };
    let key = ItemKey::new(labels(prefix), row.try_get_by_index::<String>(2)?);
    let value = row.try_get_by_index(3)?;
    Ok(Item::new(key, value, time(4)?, time(5)?))
}
