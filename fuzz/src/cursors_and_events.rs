use std::{fmt::Display, str::FromStr};

use uuid::Uuid;
use yai_agentkit_core::storage::Cursor;
use yai_agentkit_engine::{OnBusy, TurnEvent};

/// Cursors, and stored events.
pub fn cursors_and_events(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    is_read_again::<Cursor<Uuid>>(&text);
    let _ = text.parse::<OnBusy>();
    if let Ok(stored) = serde_json::from_slice(input) {
        let _ = TurnEvent::read(vec![stored], None);
    }
}

fn is_read_again<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        assert!(
            written.parse::<T>().is_ok_and(|again| again == read),
            "{text:?}"
        );
    }
}
