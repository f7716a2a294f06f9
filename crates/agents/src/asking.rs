//! How programs behind a URL are asked: again, where that can help and harms nobody.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use tokio::time::Instant;
use yai_agentkit_engine::agent::AgentError;

const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(5);
const MAX_REASON: usize = 300;

/// For how long somebody who fails to answer is asked again.
pub(crate) struct Patience {
    most: Duration,
    failing_since: Option<Instant>,
    delay: Duration,
}

impl Patience {
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most,
            failing_since: None,
            delay: FIRST_DELAY,
        }
    }

    /// Waits until it is time to ask again, or returns the failure where that is to be the end. Who
    /// `is_repeatable` may be asked again whatever happened, another only where the program can't have
    /// heard of it.
    pub(crate) async fn after(
        &mut self,
        failure: Failure,
        is_repeatable: bool,
    ) -> Result<(), Failure> {
        let pause = failure.retry_after.unwrap_or_default().max(self.delay);
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let is_safe = is_repeatable || !failure.was_heard;
        if !failure.can_help || !is_safe || since.elapsed() + pause > self.most {
            return Err(failure);
        }
        tracing::warn!(reason = failure.reason, "another program is asked again");
        tokio::time::sleep(pause).await;
        self.delay = (self.delay * 2).min(MAX_DELAY);
        Ok(())
    }
}

/// What was said over all attempts: one that begins as the one before goes on from where that broke
/// off. What it says otherwise is not heard before the step has come whole.
#[derive(Default)]
pub(crate) struct Speech {
    said: String,
    of_attempt: String,
}

impl Speech {
    pub(crate) fn begin(&mut self) {
        self.of_attempt.clear();
    }

    pub(crate) fn hear(&mut self, delta: &str) -> String {
        self.of_attempt.push_str(delta);
        let new = self.of_attempt.strip_prefix(self.said.as_str());
        let new = new.unwrap_or_default().to_owned();
        self.said.push_str(&new);
        new
    }
}

/// Why a program did not do what it was asked to.
pub(crate) struct Failure {
    pub(crate) reason: String,
    /// Whether another attempt may succeed.
    pub(crate) can_help: bool,
    /// Whether the program may have begun to work.
    pub(crate) was_heard: bool,
    retry_after: Option<Duration>,
}

impl Failure {
    /// It can't have heard.
    pub(crate) fn unheard(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            can_help: true,
            was_heard: false,
            retry_after: None,
        }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self {
            can_help: false,
            ..Self::broken(reason)
        }
    }

    /// It may have done its work, and nothing came of that.
    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self {
            was_heard: true,
            ..Self::unheard(reason)
        }
    }

    pub(crate) fn of(error: reqwest::Error) -> Self {
        match () {
            () if error.is_connect() => Self::unheard("can't connect to it"),
            () if error.is_timeout() => Self::broken("it did not answer in time"),
            () => Self::broken("the connection broke"),
        }
    }

    pub(crate) async fn status(mut response: Response) -> Self {
        let (status, retry_after) = (response.status(), crate::retry_after(&response));
        let body = response.chunk().await.ok().flatten().unwrap_or_default();
        let body: String = String::from_utf8_lossy(&body)
            .trim()
            .chars()
            .take(MAX_REASON)
            .collect();
        Self {
            can_help: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            retry_after,
            ..Self::broken(format!("{status}: {body}"))
        }
    }
}

impl From<Failure> for AgentError {
    fn from(failure: Failure) -> Self {
        let (reason, source) = (failure.reason, None);
        match failure.can_help {
            true => Self::Unavailable { reason, source },
            false => Self::Refused { reason, source },
        }
    }
}
