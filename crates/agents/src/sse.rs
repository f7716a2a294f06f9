//! Server-sent events, from endpoints that are more or less compatible.

use reqwest::{Response, header::CONTENT_TYPE};
use yai_agentkit_engine::agent::AgentError;

/// Bytes of an answer as it comes over the wire, where each token has a few hundred.
const MAX_RESPONSE: usize = 64 << 20;
/// Bytes of one event, or of an answer that is not a stream.
const MAX_EVENT: usize = 8 << 20;

/// A piece of an answer.
pub(crate) enum Event {
    /// JSON: a chunk of a completion, or all of it.
    Data(String),
    /// That was all.
    Done,
}

/// Server-sent events, of which no more is kept than the one that is coming.
pub(crate) struct Answer {
    /// `None` once all of it has come.
    response: Option<Response>,
    received: usize,
    buffer: Vec<u8>,
    /// Where in the buffer the next line begins.
    position: usize,
    /// Up to where that line was searched for its end.
    searched: usize,
    event: String,
    /// Of an endpoint that does not stream.
    whole: Option<String>,
}

impl Answer {
    pub(crate) async fn begin(response: Response) -> Result<Self, AgentError> {
        let content_type = response.headers().get(CONTENT_TYPE);
        let is_stream = |text: &str| text.starts_with("text/event-stream");
        let is_stream = content_type.is_some_and(|value| value.to_str().is_ok_and(is_stream));
        let mut answer = Self {
            response: Some(response),
            received: 0,
            buffer: Vec::new(),
            position: 0,
            searched: 0,
            event: String::new(),
            whole: None,
        };
        if !is_stream {
            while answer.receive().await? {}
            if !answer.buffer.trim_ascii_start().starts_with(b"data:") {
                let whole = std::mem::take(&mut answer.buffer);
                answer.whole = Some(String::from_utf8_lossy(&whole).into_owned());
            }
        }
        Ok(answer)
    }

    /// The next event, `None` where the connection has ended without a last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, AgentError> {
        if let Some(whole) = self.whole.take() {
            return Ok(Some(Event::Data(whole)));
        }
        loop {
            while let Some(line) = self.line() {
                if !line.is_empty() {
                    self.add_line(&line)?;
                } else if let Some(event) = self.take_event() {
                    return Ok(Some(event));
                }
            }
            if !self.receive().await? {
                let rest = self.buffer.split_off(self.position);
                self.buffer.clear();
                (self.position, self.searched) = (0, 0);
                self.add_line(&String::from_utf8_lossy(&rest))?;
                return Ok(self.take_event());
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let unsearched = &self.buffer[self.searched..];
        let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let end = self.searched + end;
        let line = &self.buffer[self.position..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = String::from_utf8_lossy(line).into_owned();
        self.position = end + 1;
        self.searched = self.position;
        Some(line)
    }

    fn add_line(&mut self, line: &str) -> Result<(), AgentError> {
        if let Some(data) = line.strip_prefix("data:") {
            self.event.push_str(data.strip_prefix(' ').unwrap_or(data));
            self.event.push('\n');
        }
        if self.event.len() > MAX_EVENT {
            return Err(too_large(MAX_EVENT));
        }
        Ok(())
    }

    fn take_event(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        match event.trim() {
            "" => None,
            "[DONE]" => Some(Event::Done),
            _ => Some(Event::Data(event)),
        }
    }

    /// Waits for more. `false` at the end.
    async fn receive(&mut self) -> Result<bool, AgentError> {
        let Some(response) = &mut self.response else {
            return Ok(false);
        };
        let Some(bytes) = response.chunk().await.map_err(unreachable_endpoint)? else {
            self.response = None;
            return Ok(false);
        };
        self.buffer.drain(..self.position);
        self.searched -= self.position;
        self.position = 0;
        self.received += bytes.len();
        self.buffer.extend_from_slice(&bytes);
        if self.received > MAX_RESPONSE {
            return Err(too_large(MAX_RESPONSE));
        }
        if self.buffer.len() > MAX_EVENT + bytes.len() {
            return Err(too_large(MAX_EVENT));
        }
        Ok(true)
    }
}

fn too_large(most: usize) -> AgentError {
    AgentError::Refused {
        reason: format!("its answer has no end: more than {most} bytes"),
        source: None,
    }
}

/// What a broken connection is to who has asked.
pub(crate) fn unreachable_endpoint(error: reqwest::Error) -> AgentError {
    let reason = if error.is_connect() {
        "can't connect to it"
    } else {
        "the connection broke"
    };
    AgentError::Unavailable {
        reason: reason.to_owned(),
        source: Some(error.into()),
    }
}
