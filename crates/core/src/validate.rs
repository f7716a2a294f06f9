//! What every back end refuses alike, before anything is sent to a database.

use serde_json::Value as Json;

use crate::{Error, Result};

const NUL: &str = "must not contain a NUL character (\\u0000)";

/// Refuses a NUL character, which PostgreSQL can't store in text.
pub fn text(field: &'static str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::invalid(field, NUL));
    }
    Ok(())
}

/// Refuses more than `maximum` characters, or a NUL character.
pub(crate) fn bounded(field: &'static str, value: &str, maximum: usize) -> Result<()> {
    text(field, value)?;
    let length = value.chars().count();
    if length > maximum {
        return Err(Error::invalid(
            field,
            format!("has {length} characters, at most {maximum} are allowed"),
        ));
    }
    Ok(())
}

/// Refuses a NUL character in any key or string.
pub fn json(field: &'static str, value: &Json) -> Result<()> {
    if has_nul(value) {
        return Err(Error::invalid(field, NUL));
    }
    Ok(())
}

fn has_nul(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains('\0'),
        Json::Array(items) => items.iter().any(has_nul),
        Json::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || has_nul(value)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}
