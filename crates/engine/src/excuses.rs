use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use yai_agentkit_core::TurnId;

/// How many attempts at each turn have failed because the storage did, and do not count. A clone is
/// the same.
#[derive(Clone, Default)]
pub(super) struct Excuses(Arc<Mutex<HashMap<TurnId, u32>>>);

/// More turns than a process has at once; what others have finished since then is not heard of.
const MOST: usize = 10_000;

impl Excuses {
    pub(super) fn of(&self, turn: TurnId) -> u32 {
        self.lock().get(&turn).copied().unwrap_or_default()
    }

    pub(super) fn excuse(&self, turn: TurnId) {
        let mut excuses = self.lock();
        if excuses.len() >= MOST {
            excuses.clear();
        }
        *excuses.entry(turn).or_default() += 1;
    }

    pub(super) fn forget(&self, turn: TurnId) {
        self.lock().remove(&turn);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
