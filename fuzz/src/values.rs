use serde_json::Value as Json;
use yai_agentkit_core::Value;

/// As deep as JSON may be that serde_json reads.
const DEEPEST: usize = 127;

/// Values of checkpoints: the first byte chooses their type.
pub fn values(input: &[u8]) {
    let Some((tag, bytes)) = input.split_first() else {
        return;
    };
    let tags = ["msgpack", "json", "bytes", "null", "pickle"];
    let tag = tags[usize::from(*tag) % tags.len()];
    let value = Value::from_parts(tag, bytes.to_vec());
    let shown = value.to_json();
    assert!(depth(&shown) <= DEEPEST);
    if let Ok(decoded) = value.decode::<Json>() {
        let encoded = Value::encode(&decoded).unwrap();
        assert_eq!(encoded.decode::<Json>().unwrap(), decoded);
    }
}

fn depth(json: &Json) -> usize {
    match json {
        Json::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Json::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
