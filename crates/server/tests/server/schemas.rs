//! Whether what comes over the wire is what `openapi.json` says.

use std::sync::LazyLock;

use serde_json::Value;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let document = include_str!("../../../../openapi.json");
    serde_json::from_str(document).unwrap()
});

/// Panics where `value` is not what the schema with this name describes, or has a field more.
#[track_caller]
pub(crate) fn assert_is(name: &str, value: &Value) {
    let schema = &DOCUMENT["components"]["schemas"][name];
    assert!(schema.is_object(), "no schema is called {name}");
    assert!(describes(schema, value), "no {name}: {value}");
}

fn describes(schema: &Value, value: &Value) -> bool {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').unwrap();
        return describes(DOCUMENT.pointer(pointer).unwrap(), value);
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        return variants.iter().any(|variant| describes(variant, value));
    }
    let is_one = |list: &Value| list.as_array().is_none_or(|list| list.contains(value));
    is_one(&schema["enum"])
        && has_type(&schema["type"], value)
        && has_fields(schema, value)
        && value.as_array().is_none_or(|items| {
            let schema = &schema["items"];
            items.iter().all(|item| describes(schema, item))
        })
}

fn has_type(types: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("a type {other}"),
    };
    match types {
        Value::Null => true,
        Value::Array(types) => types.iter().any(is),
        one => is(one),
    }
}

fn has_fields(schema: &Value, value: &Value) -> bool {
    let (Some(known), Some(fields)) = (schema["properties"].as_object(), value.as_object()) else {
        return true;
    };
    let mut required = schema["required"].as_array().into_iter().flatten();
    required.all(|name| fields.contains_key(name.as_str().unwrap()))
        && fields.iter().all(|(name, field)| {
            let schema = known.get(name);
            schema.is_some_and(|schema| describes(schema, field))
        })
}
