//! What every back end of [`Storage`] must do, as tests that take the storage: the contracts of
//! `yai-agentkit-core`, and the rules that LangGraph relies on.
//!
//! A back end runs every one of [`cases`] as a test of its own. Each makes its own ids, so that
//! all of them can run at once on one database, beside whatever else it holds.

/// The cases of one topic. The functions are private: one that is not listed is dead code.
macro_rules! cases {
    ($topic:literal: $($name:ident),+ $(,)?) => {
        &[$($crate::Case {
            name: concat!($topic, "::", stringify!($name)),
            run: |storage| Box::pin($name(storage)),
        }),+]
    };
}

mod api_keys;
mod audit;
mod branches;
mod checkpoint_lists;
mod checkpoints;
mod concurrency;
mod conversations;
mod copying;
mod delta_channels;
mod events;
mod fencing;
mod fixtures;
mod isolation;
mod items;
mod leases;
mod ledger;
mod messages;
pub mod model;
mod pages;
mod pending_writes;
mod pruning;
mod ranking;
mod refusals;
mod retention;
mod runs;
mod search;
mod state;
mod threads;
mod turns;
mod unit_of_work;

use std::{pin::Pin, sync::Arc};

use yai_agentkit_core::Storage;

/// One behaviour of a storage.
#[derive(Debug)]
pub struct Case {
    /// The behaviour, as `topic::sentence`.
    pub name: &'static str,
    /// Panics where the storage behaves otherwise.
    pub run: fn(Arc<dyn Storage>) -> Run,
}

type Run = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Every case of every suite.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    let suites = [
        conversations::CASES,
        api_keys::CASES,
        audit::CASES,
        messages::CASES,
        branches::CASES,
        turns::CASES,
        events::CASES,
        leases::CASES,
        ledger::CASES,
        pages::CASES,
        checkpoints::CASES,
        checkpoint_lists::CASES,
        pending_writes::CASES,
        threads::CASES,
        isolation::CASES,
        delta_channels::CASES,
        refusals::CASES,
        concurrency::CASES,
        fencing::CASES,
        pruning::CASES,
        retention::CASES,
        runs::CASES,
        search::CASES,
        copying::CASES,
        items::CASES,
        ranking::BY_TEXT,
        ranking::BY_VECTOR,
        unit_of_work::CASES,
        state::CASES,
        model::CASES,
    ];
    suites.into_iter().flatten()
}
