//! Requests over HTTP: signed, and repeated where that can help and harms nobody.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, header::CONTENT_TYPE};
use sha2::Sha256;
use yai_agentkit_core::{Clock, Result};
use yai_agentkit_engine::agent::Context;

use super::{
    RemoteConfig,
    protocol::{Answer, Asked, Delta},
};
use crate::asking::{Failure, Patience, Speech};

/// The header with the time and the signature of a request: `t=SECONDS,v1=HEX`, the HMAC-SHA-256 of
/// `SECONDS.BODY` by the secret.
pub const SIGNATURE: &str = "agentkit-signature";
const KEY: &str = "idempotency-key";

/// Bytes of an answer.
const MAX_ANSWER: usize = 8 << 20;

pub(super) struct Transport {
    client: Client,
    config: RemoteConfig,
}

impl Transport {
    pub(super) fn new(config: RemoteConfig) -> Result<Self> {
        let client = crate::http_client()?;
        Ok(Self { client, config })
    }

    /// Asks until a whole answer has come, or for as long as the configuration says. One that
    /// `is_repeatable` is asked again whatever happened, another only where the program can't have
    /// heard of it.
    pub(super) async fn ask(
        &self,
        context: &Context,
        key: &str,
        asked: &Asked<'_>,
        is_repeatable: bool,
    ) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(asked);
        let body = body.map_err(|error| Failure::refused(error.to_string()))?;
        let mut speech = Speech::default();
        let mut patience = Patience::new(self.config.patience);
        loop {
            match self.ask_once(context, key, &body, &mut speech).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => patience.after(failure, is_repeatable).await?,
            }
        }
    }

    async fn ask_once(
        &self,
        context: &Context,
        key: &str,
        body: &[u8],
        speech: &mut Speech,
    ) -> Result<Answer, Failure> {
        let mut request = self.client.post(self.config.url.clone());
        request = request
            .timeout(self.config.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header(KEY, key);
        if let Some(secret) = &self.config.secret {
            let seconds = Clock::default().now().timestamp();
            request = request.header(SIGNATURE, signature(secret, seconds, body));
        }
        let response = request.body(body.to_vec()).send().await;
        let mut response = response.map_err(Failure::of)?;
        if !response.status().is_success() {
            return Err(Failure::status(response).await);
        }
        let (mut buffer, mut received) = (Vec::new(), 0);
        speech.begin();
        while let Some(chunk) = response.chunk().await.map_err(Failure::of)? {
            received += chunk.len();
            if received > MAX_ANSWER {
                let reason = format!("its answer has more than {MAX_ANSWER} bytes");
                return Err(Failure::refused(reason));
            }
            buffer.extend_from_slice(&chunk);
            if !chunk.contains(&b'\n') {
                continue;
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                // What is no delta is the last line, or part of JSON in several lines.
                let Ok(Delta { delta }) = serde_json::from_slice(&buffer[..end]) else {
                    break;
                };
                buffer.drain(..=end);
                context.say(&speech.hear(&delta)).await;
            }
        }
        serde_json::from_slice(&buffer).map_err(|error| match error.is_eof() {
            true => Failure::broken("its answer broke off"),
            false => Failure::refused(format!("its answer is no step: {error}")),
        })
    }
}

/// The value of [`SIGNATURE`].
pub fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length is a key");
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    let code = mac.finalize().into_bytes();
    let hex = code.iter().map(|byte| format!("{byte:02x}"));
    format!("t={seconds},v1={}", hex.collect::<String>())
}
