use std::{collections::HashSet, sync::Arc};

use tokio::sync::watch;
use uuid::Uuid;

/// What only one at a time may do in this process, by id. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(Arc<watch::Sender<HashSet<Uuid>>>);

/// The right to do it, until dropped.
#[derive(Debug)]
pub(super) struct Entry {
    entries: Entries,
    id: Uuid,
}

impl Entries {
    /// Waits until nobody else has entered.
    pub(super) async fn enter(&self, id: Uuid) -> Entry {
        let mut entered = self.0.subscribe();
        loop {
            if let Some(entry) = self.try_enter(id) {
                return entry;
            }
            let left = entered.wait_for(|ids| !ids.contains(&id)).await;
            left.expect("the sender is alive, `self` holds it");
        }
    }

    /// `None` where somebody else has entered.
    pub(super) fn try_enter(&self, id: Uuid) -> Option<Entry> {
        let mut is_free = false;
        self.0.send_if_modified(|ids| {
            is_free = ids.insert(id);
            // Nobody waits for an entry.
            false
        });
        is_free.then(|| Entry {
            entries: self.clone(),
            id,
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.entries.0.send_if_modified(|ids| ids.remove(&self.id));
    }
}
