use serde::Serialize;
use utoipa::ToSchema;
use yai_agentkit_core::storage::Page;

use super::problem::Problem;

/// The most rows of one page.
pub(super) const MAX_LIMIT: u64 = 1000;

/// How many bytes of texts a page has, if it has more than one row.
pub(super) const MAX_BYTES: u64 = 4 << 20;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List<T: ToSchema> {
    /// The rows.
    pub(super) items: Vec<T>,
    /// Where the next page starts; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<String>,
}

impl<T: ToSchema> List<T> {
    pub(super) fn of<E: Into<T>, Cursor: ToString>(page: Page<E, Cursor>) -> Self {
        Self {
            items: page.items.into_iter().map(Into::into).collect(),
            next_cursor: page.next.map(|cursor| cursor.to_string()),
        }
    }
}

/// `limit`, if it is within bounds.
pub(super) fn limit(limit: u64, maximum: u64) -> Result<u64, Problem> {
    if (1..=maximum).contains(&limit) {
        return Ok(limit);
    }
    let reason = format!("must be between 1 and {maximum}");
    Err(Problem::invalid("limit", reason))
}
