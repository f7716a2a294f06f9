//! A condition on a value, as SQL.

use serde_json::Value as Json;
use yai_agentkit_core::store::{Comparison, Condition, Step, Test};

use crate::sql::{Parameter, Query};

/// Adds the condition on `s.value`.
pub(super) fn push(query: &mut Query, condition: &Condition) {
    let text = if query.is_for_postgres() {
        let path = query.column(&condition.path, |step| match step {
            Step::Field(name) => name.clone(),
            Step::Item(place) => place.to_string(),
        });
        on_postgres(query, path, &condition.test)
    } else {
        let path = condition.path.iter().fold("$".to_owned(), below);
        on_sqlite(query, &path, &condition.test)
    };
    query.push(text);
}

fn on_postgres(query: &mut Query, path: Parameter, test: &Test) -> String {
    let found = format!("s.value #> {path}");
    match test {
        Test::Is(wanted) => {
            let wanted = query.bind(wanted.to_string());
            format!("coalesce({found}, 'null') = {wanted}::jsonb")
        }
        Test::IsNot(wanted) => {
            let wanted = query.bind(wanted.to_string());
            format!("coalesce({found}, 'null') <> {wanted}::jsonb")
        }
        Test::IsObject => format!("jsonb_typeof({found}) = 'object'"),
        Test::IsArray(length) => {
            let length = query.bind(i32::try_from(*length).unwrap_or(i32::MAX));
            format!(
                "CASE WHEN jsonb_typeof({found}) = 'array'
            THEN jsonb_array_length({found}) = {length} ELSE false END"
            )
        }
        Test::Compares(comparison, Json::String(text)) => {
            let (text, operator) = (query.bind(text.as_str()), comparison.as_str());
            format!(
                "(jsonb_typeof({found}) = 'string' AND (s.value #>> {path}) COLLATE \"C\" {operator} {text})"
            )
        }
        // Numbers as they are: a cast could meet a text first.
        Test::Compares(comparison, number) => {
            let (number, operator) = (query.bind(number.to_string()), comparison.as_str());
            format!("(jsonb_typeof({found}) = 'number' AND {found} {operator} {number}::jsonb)")
        }
    }
}

/// The path of a step further, whose names are those of JSON.
fn below(path: String, step: &Step) -> String {
    match step {
        Step::Field(name) => format!("{path}.{}", Json::from(name.as_str())),
        Step::Item(place) => format!("{path}[{place}]"),
    }
}

fn on_sqlite(query: &mut Query, path: &str, test: &Test) -> String {
    match test {
        Test::Is(wanted) => is_on_sqlite(query, path, wanted),
        // What is not there has no type, with which nothing compares.
        Test::IsNot(wanted) => {
            format!("NOT coalesce({}, false)", is_on_sqlite(query, path, wanted))
        }
        Test::IsObject => {
            let path = query.bind(path);
            format!("json_type(s.value, {path}) IS 'object'")
        }
        Test::IsArray(length) => {
            let (path, length) = (query.bind(path), bind_count(query, *length));
            format!(
                "(json_type(s.value, {path}) IS 'array' AND json_array_length(s.value, {path}) = {length})"
            )
        }
        Test::Compares(comparison, wanted) => compares_on_sqlite(query, path, *comparison, wanted),
    }
}

fn compares_on_sqlite(
    query: &mut Query,
    path: &str,
    comparison: Comparison,
    wanted: &Json,
) -> String {
    let (path, operator) = (query.bind(path), comparison.as_str());
    let types = match wanted {
        Json::String(_) => "'text'",
        _ => "'integer', 'real'",
    };
    let wanted = bind_scalar(query, wanted);
    format!("(json_type(s.value, {path}) IN ({types}) AND s.value ->> {path} {operator} {wanted})")
}

/// SQLite compares no arrays and objects: part by part.
fn is_on_sqlite(query: &mut Query, path: &str, wanted: &Json) -> String {
    let found = query.bind(path);
    let kind = format!("json_type(s.value, {found})");
    match wanted {
        Json::Null => format!("coalesce({kind}, 'null') = 'null'"),
        Json::Bool(flag) => format!("{kind} IS '{flag}'"),
        Json::Number(_) => {
            let wanted = bind_scalar(query, wanted);
            format!("({kind} IN ('integer', 'real') AND s.value ->> {found} = {wanted})")
        }
        Json::String(_) => {
            let wanted = bind_scalar(query, wanted);
            format!("({kind} IS 'text' AND s.value ->> {found} = {wanted})")
        }
        Json::Array(items) => {
            let length = bind_count(query, items.len());
            let mut text =
                format!("({kind} IS 'array' AND json_array_length(s.value, {found}) = {length}");
            for (place, item) in items.iter().enumerate() {
                let path = below(path.to_owned(), &Step::Item(place));
                text += &format!(" AND {}", is_on_sqlite(query, &path, item));
            }
            text + ")"
        }
        Json::Object(fields) => {
            let count = bind_count(query, fields.len());
            let mut text = format!(
                "({kind} IS 'object' AND (SELECT count(*) FROM json_each(s.value, {found})) = {count}"
            );
            for (name, field) in fields {
                let path = below(path.to_owned(), &Step::Field(name.clone()));
                let is_there = query.bind(path.as_str());
                let is_field = is_on_sqlite(query, &path, field);
                text += &format!(" AND json_type(s.value, {is_there}) IS NOT NULL AND {is_field}");
            }
            text + ")"
        }
    }
}

fn bind_scalar(query: &mut Query, value: &Json) -> Parameter {
    match (value.as_str(), value.as_i64(), value.as_f64()) {
        (Some(text), ..) => query.bind(text),
        (None, Some(integer), _) => query.bind(integer),
        (None, None, float) => query.bind(float.unwrap_or(f64::NAN)),
    }
}

fn bind_count(query: &mut Query, count: usize) -> Parameter {
    query.bind(i64::try_from(count).unwrap_or(i64::MAX))
}
