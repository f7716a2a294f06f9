//! A turn that begins or changes as a transaction of the statements of its parts. On SQLite, which
//! has one writer, those that do so at once share a commit.

use sea_orm::DbErr;
use yai_agentkit_core::{
    Checkpointer, Entity, Fence, Repository, Result, Turn,
    turn::{Place, TurnBegin, TurnChange},
};

use crate::{
    branch,
    checkpointer::{NewRawCheckpoint, PUT_CHECKPOINT, SqlCheckpointer, write::New},
    coalescer::Call,
    connection::Connection,
    events::{self, SqlTurnEvents},
    lease::SqlLeases,
    repository::SqlRepository,
};

/// What happens to a turn.
#[derive(Clone)]
pub(crate) enum TurnCall {
    Begin(Box<TurnBegin>, Box<NewRawCheckpoint>),
    /// With its checkpoint, which is not in the change itself.
    Change(Box<TurnChange>, Option<Box<(NewRawCheckpoint, Fence)>>),
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
            Self::Change(change, new) => change_by_parts(connection, *change, new).await,
        }
    }
}

/// A transaction of the statements of its parts.
async fn begin_by_parts(
    connection: &Connection,
    begin: TurnBegin,
    new: NewRawCheckpoint,
) -> Result<Turn> {
    let TurnBegin {
        turn,
        mut message,
        place,
        key,
        queued,
        events,
        ..
    } = begin;
    let failed = |error| events::refused(PUT_CHECKPOINT, Some(&events), error);
    let transaction = connection.begin().await.map_err(failed)?;
    // First: the same request elsewhere waits here.
    if let Some(key) = key {
        let keys = SqlRepository::within(transaction.clone());
        keys.add(key).await?;
    }
    // The thread is locked before the turn, as by the statements.
    let raise = Some(Fence::Raise(turn.epoch));
    SqlCheckpointer::within(transaction.clone())
        .write(PUT_CHECKPOINT, New::Checkpoint(new), raise, Some(&events))
        .await?;
    let messages = SqlRepository::within(transaction.clone());
    let turn = match queued {
        Some(queued) => {
            messages.take_out(&message.id()).await?;
            let leases = SqlLeases(transaction.clone());
            leases.replace(&queued, turn).await?
        }
        None => {
            let turns = SqlRepository::within(transaction.clone());
            turns.add(turn).await?
        }
    };
    // One that has waited may have been left on another branch.
    message.is_chosen = true;
    let chosen = match place {
        Place::Last => None,
        Place::Behind(parent) => Some(parent),
        Place::Stored => Some(Some(message.id)),
    };
    if let Some(last) = chosen {
        branch::choose(&transaction, message.conversation_id, last).await?;
    }
    if place != Place::Stored {
        messages.add(message).await?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(turn)
}

/// A transaction of the statements of its parts.
async fn change_by_parts(
    connection: &Connection,
    change: TurnChange,
    new: Option<Box<(NewRawCheckpoint, Fence)>>,
) -> Result<Turn> {
    let events = change.events.as_ref();
    let failed = |error| events::refused(PUT_CHECKPOINT, events, error);
    let transaction = connection.begin().await.map_err(failed)?;
    // First: the same request elsewhere waits here.
    if let Some(key) = change.key {
        let keys = SqlRepository::within(transaction.clone());
        keys.add(key).await?;
    }
    let checkpointer = SqlCheckpointer::within(transaction.clone());
    let has_checkpoint = new.is_some();
    if let Some((new, fence)) = new.map(|new| *new) {
        let new = New::Checkpoint(new);
        checkpointer
            .write(PUT_CHECKPOINT, new, Some(fence), events)
            .await?;
    }
    if let Some((writes, mut fence)) = change.writes {
        for writes in writes {
            checkpointer.put_writes(writes, Some(fence)).await?;
            // The first has raised it.
            fence = Fence::Hold(fence.epoch());
        }
    }
    if let Some(answer) = change.answer {
        let messages = SqlRepository::within(transaction.clone());
        messages.add(answer).await?;
    }
    let leases = SqlLeases(transaction.clone());
    let turn = leases.replace(&change.seen, change.next).await?;
    if let Some(events) = events.filter(|_| !has_checkpoint) {
        SqlTurnEvents(transaction.clone()).append(events).await?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(turn)
}
