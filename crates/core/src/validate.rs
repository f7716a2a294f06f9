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

/// What the parts of a key may have together: PostgreSQL's index takes 2,704 bytes a row, some for
/// itself.
pub const MAX_KEY_BYTES: usize = 2_600;

/// Refuses the `parts` of a key, fields and texts, that are too long together, naming the longest.
pub(crate) fn key(parts: &[(&'static str, &str)]) -> Result<()> {
    let bytes: usize = parts.iter().map(|(_, text)| text.len()).sum();
    match parts.iter().max_by_key(|(_, text)| text.len()) {
        Some((longest, _)) if bytes > MAX_KEY_BYTES => Err(Error::invalid(
            *longest,
            format!("is too long: its key has {bytes} bytes, at most {MAX_KEY_BYTES} are allowed"),
        )),
        _ => Ok(()),
    }
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

/// How many arrays and objects of any JSON may be in each other. What is deeper by a third could be
/// written, but not be read back: parsers of JSON stop at 127.
pub const MAX_DEPTH: usize = 100;

/// Refuses a NUL character in any key or string, and what is nested deeper than [`MAX_DEPTH`].
pub fn json(field: &'static str, value: &Json) -> Result<()> {
    json_depth(field, value)?;
    if has_nul(value) {
        return Err(Error::invalid(field, NUL));
    }
    Ok(())
}

/// Refuses what is nested deeper than [`MAX_DEPTH`].
pub(crate) fn json_depth(field: &'static str, value: &Json) -> Result<()> {
    if is_deeper(value, MAX_DEPTH) {
        let reason = format!("is nested deeper than {MAX_DEPTH} levels");
        return Err(Error::invalid(field, reason));
    }
    Ok(())
}

/// How many bytes JSON has as text.
pub(crate) fn json_bytes(value: Option<&Json>) -> usize {
    value.map_or(0, |value| value.to_string().len())
}

/// Whether more than `depth` arrays and objects are in each other.
pub fn is_deeper(value: &Json, depth: usize) -> bool {
    let Some(below) = depth.checked_sub(1) else {
        return value.is_array() || value.is_object();
    };
    match value {
        Json::Array(items) => items.iter().any(|item| is_deeper(item, below)),
        Json::Object(fields) => fields.values().any(|field| is_deeper(field, below)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
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
