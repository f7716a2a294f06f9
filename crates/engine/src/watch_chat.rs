use std::sync::Arc;

use futures::{Stream, StreamExt, stream, stream::BoxStream};
use yai_agentkit_core::{ConversationId, ListQuery, Result, Turn, TurnId, turn::TurnFilter};

use super::{TurnEngine, event::Published, subscriptions::Subscription};

impl TurnEngine {
    /// The events of all turns of a conversation, one turn after the other in the order in which they
    /// were stored, each batch with its turn: behind a sequence of one turn, or from the first one on.
    /// Then those to come, whoever runs them. A turn that waits for a person is waited for. Ends when
    /// the conversation is deleted, and when this engine stops.
    pub fn watch_chat(
        &self,
        conversation_id: ConversationId,
        after: Option<(Turn, u64)>,
    ) -> impl Stream<Item = Result<(Arc<Turn>, Published)>> + use<> {
        let watcher = ChatWatcher {
            began: self.subscriptions.subscribe_to_chat(conversation_id),
            last: None,
            current: after.map(|(turn, read)| Watched::new(self, Arc::new(turn), read)),
            engine: self.clone(),
            conversation_id,
        };
        stream::unfold(watcher, |mut watcher| async move {
            let batch = watcher.next().await.transpose()?;
            Some((batch, watcher))
        })
    }
}

struct ChatWatcher {
    engine: TurnEngine,
    conversation_id: ConversationId,
    /// Is notified where a turn may have begun.
    began: Subscription,
    current: Option<Watched>,
    /// The turn before it.
    last: Option<TurnId>,
}

/// The turn that is told.
struct Watched {
    turn: Arc<Turn>,
    batches: BoxStream<'static, Result<Published>>,
    read: u64,
    /// Whether something was read since it was looked for.
    has_more: bool,
}

impl Watched {
    fn new(engine: &TurnEngine, turn: Arc<Turn>, read: u64) -> Self {
        let batches = engine.watch(turn.conversation_id, turn.id, read).boxed();
        Self {
            turn,
            batches,
            read,
            has_more: false,
        }
    }
}

impl ChatWatcher {
    async fn next(&mut self) -> Result<Option<(Arc<Turn>, Published)>> {
        loop {
            if let Some(watched) = &mut self.current {
                if let Some(batch) = watched.batches.next().await.transpose()? {
                    watched.read = batch.sequence;
                    watched.has_more = true;
                    return Ok(Some((Arc::clone(&watched.turn), batch)));
                }
                if self.engine.is_stopping() {
                    return Ok(None);
                }
                self.go_on().await?;
                continue;
            }
            self.began.progress.borrow_and_update();
            if let Some(turn) = self.following().await? {
                self.current = Some(Watched::new(&self.engine, Arc::new(turn), 0));
                continue;
            }
            let conversations = self.engine.storage.conversations();
            if !conversations.exists(&self.conversation_id).await? {
                return Ok(None);
            }
            tokio::select! {
                _ = self.began.progress.changed() => {}
                () = self.engine.stopped() => return Ok(None),
            }
        }
    }

    /// The events of the current turn have come to an end: it waits for a person, or has ended.
    async fn go_on(&mut self) -> Result<()> {
        let Some(watched) = self.current.take() else {
            return Ok(());
        };
        let id = self.conversation_id.key(watched.turn.id);
        let turn = self.engine.storage.turns().get(&id).await?;
        // It may have gone on since the last event was read.
        let may_go_on = turn.is_some_and(|turn| watched.has_more || !turn.status.is_final());
        if may_go_on {
            self.current = Some(Watched::new(&self.engine, watched.turn, watched.read));
        } else {
            self.last = Some(watched.turn.id);
        }
        Ok(())
    }

    /// The turn that was stored next.
    async fn following(&mut self) -> Result<Option<Turn>> {
        let of_chat = TurnFilter::default().of(self.conversation_id);
        let mut next = ListQuery::filtered(of_chat).oldest_first().limit(1);
        if let Some(last) = self.last {
            next = next.after(self.conversation_id.key(last));
        }
        Ok(self.engine.storage.turns().list(&next).await?.items.pop())
    }
}
