//! A server in place of the database.

use std::time::Duration;

use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::Value as Json;
use uuid::Uuid;
use yai_agentkit_agents::{Url, http_client};
use yai_agentkit_core::{Error, error::BoxError};

use crate::settings::Settings;

/// How long an answer may take that is no stream.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Remote {
    client: Client,
    base: Url,
    key: Option<String>,
}

impl Remote {
    /// The server that the settings name, if they name one.
    pub(super) fn of(settings: &Settings) -> Result<Option<Self>, Error> {
        let Some(base) = settings.server.clone() else {
            return Ok(None);
        };
        Ok(Some(Self {
            client: http_client()?,
            base,
            key: settings.api_key.clone(),
        }))
    }

    /// A request below the URL of the server.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// The answer, unless it is a problem.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, BoxError> {
        let response = request.send().await.map_err(|error| self.lost(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let problem = response.bytes().await.map_err(|error| self.lost(error))?;
        Err(self.problem(status, &problem))
    }

    /// The answer as JSON.
    pub(super) async fn json(&self, request: RequestBuilder) -> Result<Json, BoxError> {
        let response = self.send(request.timeout(PATIENCE)).await?;
        let body = response.bytes().await.map_err(|error| self.lost(error))?;
        serde_json::from_slice(&body).map_err(|_| self.stranger())
    }

    pub(super) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Json, BoxError> {
        self.json(self.request(Method::GET, path, query)).await
    }

    /// A POST of JSON.
    pub(super) fn post(&self, path: &str, body: &Json) -> RequestBuilder {
        let request = self.request(Method::POST, path, &[]);
        let request = request.header(CONTENT_TYPE, "application/json");
        request.body(body.to_string())
    }

    /// The same, answered by events.
    pub(super) fn watch(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(ACCEPT, "text/event-stream")
    }

    /// The id of the conversation with this id, or of the thread with this id.
    pub(super) async fn conversation(&self, id: Uuid) -> Result<Uuid, BoxError> {
        let found = match self.get(&format!("/conversations/{id}"), &[]).await {
            Ok(found) => found,
            Err(error) => {
                let of_thread = [("thread", id.to_string()), ("limit", "1".to_owned())];
                let page = self.get("/conversations", &of_thread).await?;
                let found = page["items"].get(0).cloned();
                found.ok_or(error)?
            }
        };
        let id = found["id"].as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| self.stranger())
    }

    fn lost(&self, error: reqwest::Error) -> BoxError {
        let what = match error.is_connect() {
            true => "can't be reached",
            false => "went away before it had answered",
        };
        Box::new(Lost {
            what: format!("the server {} {what}", self.shown()),
            source: Some(error.into()),
        })
    }

    fn stranger(&self) -> BoxError {
        format!("what answers at {} is no server of AgentKit", self.shown()).into()
    }

    /// Without what lets one in.
    fn shown(&self) -> Url {
        let mut shown = self.base.clone();
        if shown.password().is_some() {
            // One that can't have a password has none.
            let _ = shown.set_password(Some("***"));
        }
        shown
    }

    /// What a server says of a request that it does not do: of an argument as this program does.
    fn problem(&self, status: StatusCode, body: &[u8]) -> BoxError {
        let problem: Json = serde_json::from_slice(body).unwrap_or_default();
        let Some(detail) = problem["detail"].as_str() else {
            return format!("{} ({status})", self.stranger()).into();
        };
        match (problem["field"].as_str(), status) {
            (Some("cursor"), _) => {
                Error::configuration("--after", format!("is no place in this list: {detail}"))
                    .into()
            }
            (_, StatusCode::SERVICE_UNAVAILABLE) => Box::new(Lost {
                what: detail.to_owned(),
                source: None,
            }),
            (_, StatusCode::UNAUTHORIZED) => {
                format!("{detail}; AGENTKIT_API_KEY is where this program looks for it").into()
            }
            _ => detail.into(),
        }
    }
}

/// A server that does not answer, or not now.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(super) struct Lost {
    what: String,
    source: Option<BoxError>,
}

/// The events of a turn as they come.
pub(super) struct Events {
    response: Response,
    buffer: Vec<u8>,
}

/// An event, and what says where it stands.
pub(super) struct Told {
    pub(super) id: Option<String>,
    pub(super) event: Json,
}

impl Events {
    pub(super) fn of(response: Response) -> Self {
        Self {
            response,
            buffer: Vec::new(),
        }
    }

    /// `None` where the stream has ended, or broken.
    pub(super) async fn next(&mut self) -> Option<Told> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let block = String::from_utf8_lossy(&block);
                let field = |name: &str| {
                    let mut lines = block.lines();
                    lines
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::trim)
                };
                if let Some(event) = field("data:").and_then(|data| serde_json::from_str(data).ok())
                {
                    let id = field("id:").map(str::to_owned);
                    return Some(Told { id, event });
                }
            }
            let more = self.response.chunk().await.ok()??;
            self.buffer.extend_from_slice(&more);
        }
    }
}
