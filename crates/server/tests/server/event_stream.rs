//! A client of server-sent events, without a library. Each is to be what `openapi.json` says of events.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::schemas::assert_is;

/// One event, with its id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// The events of a stream that has ended.
pub(crate) fn parse(stream: &str) -> Vec<Event> {
    let mut parser = Parser::default();
    stream
        .lines()
        .filter_map(|line| parser.line(line))
        .collect()
}

/// A connection on which events come.
pub(crate) struct Reader {
    connection: BufReader<TcpStream>,
    parser: Parser,
}

impl Reader {
    /// Watches a turn from behind an event.
    pub(crate) async fn get(
        address: &str,
        chat: &str,
        turn: &str,
        last_event_id: Option<&str>,
    ) -> Self {
        let header = last_event_id.map(|id| format!("last-event-id: {id}\r\n"));
        let header = header.unwrap_or_default();
        let head = format!("GET /chats/{chat}/turns/{turn}/events HTTP/1.0\r\n{header}\r\n");
        Self::open(address, head).await
    }

    /// Watches a chat from behind an event.
    pub(crate) async fn chat(address: &str, chat: &str, last_event_id: Option<&str>) -> Self {
        let header = last_event_id.map(|id| format!("last-event-id: {id}\r\n"));
        let header = header.unwrap_or_default();
        let head = format!("GET /chats/{chat}/events HTTP/1.0\r\n{header}\r\n");
        Self::open(address, head).await
    }

    /// Sends a message, and watches its turn.
    pub(crate) async fn post(address: &str, chat: &str, content: &str) -> Self {
        let body = json!({ "content": content }).to_string();
        let head = format!(
            "POST /chats/{chat}/messages HTTP/1.0\r\ncontent-type: application/json\r\n\
             accept: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Self::open(address, head).await
    }

    /// In HTTP/1.0 a body comes as it is, and ends with its connection.
    async fn open(address: &str, request: String) -> Self {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut reader = Self {
            connection: BufReader::new(connection),
            parser: Parser::default(),
        };
        let status = reader.line().await.expect("an answer");
        assert!(
            status.contains(" 200 ") || status.contains(" 204 "),
            "{status}"
        );
        while reader.line().await.is_some_and(|line| !line.is_empty()) {}
        reader
    }

    /// The next event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let line = self.line().await?;
            if let Some(event) = self.parser.line(&line) {
                return Some(event);
            }
        }
    }

    /// All events up to one of this type.
    pub(crate) async fn until(&mut self, kind: &str) -> Vec<Event> {
        let mut events = Vec::new();
        while events
            .last()
            .is_none_or(|event: &Event| event.data["type"] != kind)
        {
            events.push(self.next().await.expect("the stream goes on"));
        }
        events
    }

    /// All events to the end.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        // A server that is killed may reset the connection.
        match self.connection.read_line(&mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }
}

#[derive(Default)]
struct Parser {
    id: String,
    data: Option<Value>,
}

impl Parser {
    /// The event that `line` completes.
    fn line(&mut self, line: &str) -> Option<Event> {
        match line.split_once(": ") {
            Some(("id", id)) => id.clone_into(&mut self.id),
            Some(("data", data)) => {
                let data = serde_json::from_str(data).unwrap();
                assert_is("Event", &data);
                self.data = Some(data);
            }
            _ if line.is_empty() => {
                let (id, data) = (self.id.clone(), self.data.take()?);
                return Some(Event { id, data });
            }
            // A heartbeat.
            _ => assert!(line.starts_with(':'), "{line}"),
        }
        None
    }
}
