//! On SQLite, which has one writer, turns that begin or change at once share a commit.

use sea_orm::DbErr;
use yai_agentkit_core::{
    Result, Turn,
    turn::{TurnBegin, TurnChange},
};

use super::{
    NewRawCheckpoint,
    turn::{begin_by_parts, change_by_parts},
};
use crate::{coalescer::Call, connection::Connection};

/// What happens to a turn.
#[derive(Clone)]
pub(crate) enum TurnCall {
    Begin(Box<TurnBegin>, Box<NewRawCheckpoint>),
    Change(Box<TurnChange>),
}

impl Call for TurnCall {
    type Answer = Result<Turn>;
    type Key = ();

    /// Each happens or not, whatever the others do, until the commit.
    async fn run(connection: &Connection, calls: &[Self]) -> Result<Vec<Result<Turn>>, DbErr> {
        let transaction = connection.begin().await?;
        let mut turns = Vec::with_capacity(calls.len());
        for call in calls {
            let entered = transaction.begin().await?;
            entered.save().await?;
            let turn = call.clone().run_alone(&entered).await;
            if turn.is_err() {
                entered.undo_to_save().await?;
            }
            entered.release().await?;
            turns.push(turn);
        }
        transaction.commit().await?;
        Ok(turns)
    }
}

impl TurnCall {
    pub(super) async fn run_alone(self, connection: &Connection) -> Result<Turn> {
        match self {
            Self::Begin(begin, new) => begin_by_parts(connection, *begin, *new).await,
            Self::Change(change) => change_by_parts(connection, *change).await,
        }
    }
}
