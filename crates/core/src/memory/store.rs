use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::{Access, State};
use crate::{
    Result,
    store::{
        Answer, FieldVector, Item, ItemKey, MemoryStore, NewItem, Operation, Search, VectorIndex,
    },
};

pub(super) type Items = BTreeMap<ItemKey, Row>;

#[derive(Clone, Debug)]
pub(super) struct Row {
    item: Item,
    vectors: Vec<FieldVector>,
    time_to_live: Option<Duration>,
    expires_at: Option<DateTime<Utc>>,
}

impl Row {
    fn is_alive(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_none_or(|expires_at| expires_at > now)
    }

    fn renew(&mut self, now: DateTime<Utc>) {
        let time = self
            .time_to_live
            .and_then(|time| TimeDelta::from_std(time).ok());
        self.expires_at = time.map(|time| now + time);
    }
}

pub(super) struct Store(pub(super) Access);

impl State {
    fn read(&mut self, operation: &Operation) -> Result<Answer> {
        let now = self.now();
        Ok(match operation {
            Operation::Get { key, renews } => {
                let row = self.items.get_mut(key).filter(|row| row.is_alive(now));
                Answer::Item(row.map(|row| {
                    if *renews {
                        row.renew(now);
                    }
                    row.item.clone()
                }))
            }
            Operation::Search(search) => Answer::Items(self.search(search, now)?),
            Operation::Namespaces(query) => {
                let alive = self.items.values().filter(|row| row.is_alive(now));
                Answer::Namespaces(query.page(alive.map(|row| row.item.key.namespace.clone())))
            }
            Operation::Put(_) | Operation::Delete(_) => Answer::Done,
        })
    }

    fn search(&mut self, search: &Search, now: DateTime<Utc>) -> Result<Vec<Item>> {
        let (mut found, mut by_text, mut by_vector) = (Vec::new(), Vec::new(), Vec::new());
        for (key, row) in &self.items {
            if !key.namespace.starts_with(&search.namespace) || !row.is_alive(now) {
                continue;
            }
            let value = row.item.decode()?;
            if !search.filter.matches(&value) {
                continue;
            }
            let scored = |score| row.item.scored(score);
            by_text.extend(search.score_text(&value).map(scored));
            if let Some(query) = &search.vector {
                let vectors = row.vectors.iter();
                let scores = vectors.filter_map(|vector| query.score(&vector.vector));
                by_vector.extend(scores.map(scored));
            }
            found.push(row.item.clone());
        }
        let page: Vec<Item> = if search.is_ranked() {
            search.page(by_text, by_vector)
        } else {
            // Of equal times those of the lesser key come first: the sort is stable.
            found.sort_by_key(|item| std::cmp::Reverse(item.updated_at));
            let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let page = found.into_iter().skip(size(search.offset));
            page.take(size(search.limit)).collect()
        };
        for item in page.iter().filter(|_| search.renews) {
            if let Some(row) = self.items.get_mut(&item.key) {
                row.renew(now);
            }
        }
        Ok(page)
    }

    fn put(&mut self, new: &NewItem) {
        let now = self.now();
        let before = self.items.get(&new.key).filter(|row| row.is_alive(now));
        let created_at = before.map_or(now, |row| row.item.created_at);
        let mut row = Row {
            item: Item::new(new.key.clone(), new.value.clone(), created_at, now),
            vectors: new.vectors.clone(),
            time_to_live: new.time_to_live,
            expires_at: None,
        };
        row.renew(now);
        self.items.insert(new.key.clone(), row);
    }
}

#[async_trait]
impl MemoryStore for Store {
    async fn batch(&self, operations: Vec<Operation>) -> Result<Vec<Answer>> {
        operations.iter().try_for_each(Operation::validate)?;
        self.0
            .write(|state| {
                let answers = operations.iter().map(|operation| state.read(operation));
                let answers = answers.collect::<Result<_>>()?;
                for operation in &operations {
                    match operation {
                        Operation::Put(new) => state.put(new),
                        Operation::Delete(key) => drop(state.items.remove(key)),
                        _ => {}
                    }
                }
                Ok(answers)
            })
            .await
    }

    async fn prepare(&self, index: &VectorIndex) -> Result<()> {
        index.validate()
    }

    async fn sweep(&self) -> Result<u64> {
        let sweep = |state: &mut State| {
            let (before, now) = (state.items.len(), state.now());
            state.items.retain(|_, row| row.is_alive(now));
            (before - state.items.len()) as u64
        };
        Ok(self.0.write(sweep).await)
    }
}
