//! An owner who is erased again and again, while turns of hers run: nothing of her comes back.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    client::Clients,
    http::request_with,
    plan::{Plan, SAFE},
};

/// Who it is; her messages begin so too.
pub(crate) const GONE: &str = "gone";

/// A chat that was erased.
pub(crate) struct Erased {
    pub(crate) id: String,
    pub(crate) thread: String,
}

impl Clients<'_> {
    /// Talks and erases until the run is over, then erases for the last time. Returns the chats.
    pub(crate) fn erase(&self) -> Vec<Erased> {
        let mut chats = Vec::new();
        for round in 0.. {
            let last = self.is_over();
            if !last {
                let chat = self.request_of_gone("POST /conversations", &json!({}));
                let text = |field: &Value| field.as_str().map(str::to_owned);
                chats.extend(chat.and_then(|(_, body)| {
                    let id = text(&body["id"])?;
                    let thread = text(&body["checkpoint_thread_id"])?;
                    Some(Erased { id, thread })
                }));
            }
            let message =
                Plan::parse(&format!("{GONE}-m{round}: {SAFE}, {SAFE}, {SAFE}")).message();
            let talked = chats.last().filter(|_| !last).map(|chat| {
                let path = format!("POST /chats/{}/messages", chat.id);
                // Nobody waits for the answer: the turn goes on.
                self.request_of_gone(&path, &json!({"content": message}))
            });
            drop(talked);
            let erased = || self.request_of_gone(&format!("DELETE /owners/{GONE}"), &json!({}));
            while erased().is_none_or(|(status, _)| status != 200) {
                assert!(!self.has_no_patience(), "{GONE} is not erased");
                thread::sleep(Duration::from_millis(50));
            }
            if last {
                return chats;
            }
        }
        unreachable!("the run is over some time")
    }

    fn request_of_gone(&self, head: &str, body: &Value) -> Option<(u16, Value)> {
        let server = self.requests.load(Relaxed) % self.servers.count();
        let address = self.servers.address(server)?;
        let headers = format!("agentkit-owner: {GONE}\r\n");
        let patience = match head.ends_with("/messages") {
            true => Duration::from_millis(300),
            false => Duration::from_secs(10),
        };
        request_with(&address, patience, head, &headers, &body.to_string())
    }
}
