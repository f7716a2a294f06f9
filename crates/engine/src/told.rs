//! Events with what is stored beside them: of a long result they tell where the state has it, of an
//! answer which message it is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use yai_agentkit_core::{
    Error, Namespace, Result, Role, Storage, ThreadId, ThreadState, Value, checkpoint::ValueKey,
    turn::EventBatch,
};

use crate::{
    agent::ChatMessage,
    event::{
        Published, TurnEvent,
        stored::{answer_of, json},
    },
};

/// The field of a tool's result that names where that is.
const AT: &str = "result_at";

/// Where a result is.
#[derive(Deserialize, Serialize)]
struct Place {
    thread: String,
    channel: String,
    version: String,
}

/// The event as it is stored with the state of `thread`.
pub(crate) fn stored(event: &TurnEvent, thread: &ThreadState) -> Json {
    let TurnEvent::ToolReturned { call_id, result } = event else {
        return json(event);
    };
    let message = ChatMessage {
        tool_call_id: Some(call_id.clone()),
        ..ChatMessage::new(Role::Tool, result.as_str())
    };
    match thread.stands_apart(&message) {
        Some(ValueKey { channel, version }) => {
            let thread = thread.id().to_string();
            let place = Place {
                thread,
                channel,
                version,
            };
            serde_json::json!({ "type": "tool_returned", "call_id": call_id, AT: place })
        }
        None => json(event),
    }
}

/// The events of these batches, with the results and answers that stand elsewhere.
pub async fn read_events(
    storage: &dyn Storage,
    batches: Vec<EventBatch>,
) -> Result<Vec<Published>> {
    let mut wanted: BTreeMap<ThreadId, BTreeSet<ValueKey>> = BTreeMap::new();
    for place in batches
        .iter()
        .flat_map(|batch| &batch.events)
        .filter_map(place)
    {
        let (thread, key) = place.into();
        wanted.entry(thread).or_default().insert(key);
    }
    let mut found = BTreeMap::new();
    for (thread, keys) in wanted {
        let checkpointer = storage.checkpointer();
        let root = Namespace::root();
        let values = checkpointer.values(&thread, &root, &keys).await?;
        found.insert(thread, values);
    }
    let with_result = |mut stored: Json| -> Result<Json> {
        if let Some((thread, key)) = place(&stored).map(Into::into) {
            let value = found.get(&thread).and_then(|values| values.get(&key));
            stored["result"] = result(value)?.into();
        }
        Ok(stored)
    };
    let mut published = Vec::new();
    for batch in batches {
        let answer = match answer_of(&batch.events) {
            Some(id) => {
                let id = batch.conversation_id.key(id);
                storage.messages().get(&id).await?
            }
            None => None,
        };
        let events = batch.events.into_iter().map(with_result);
        let events = events.collect::<Result<_>>()?;
        published.push(Published {
            sequence: batch.sequence,
            events: TurnEvent::read(events, answer.as_ref()),
        });
    }
    Ok(published)
}

fn place(event: &Json) -> Option<Place> {
    Place::deserialize(event.get(AT)?).ok()
}

impl From<Place> for (ThreadId, ValueKey) {
    fn from(place: Place) -> Self {
        let Place {
            thread,
            channel,
            version,
        } = place;
        (thread.into(), ValueKey { channel, version })
    }
}

/// What the tool has come to, as far as it is still there.
fn result(message: Option<&Value>) -> Result<String> {
    let Some(message) = message else {
        return Ok("(the result was deleted)".to_owned());
    };
    let message = message.decode::<ChatMessage>();
    let message = message.map_err(|error| Error::unreadable("the result of a tool", error))?;
    Ok(message.content)
}
