use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use yai_agentkit_engine::agent::ToolOutcome;

/// What a result says, as text: of what is none, what it is.
pub(super) fn outcome(result: CallToolResult) -> ToolOutcome {
    let said: Vec<String> = result.content.into_iter().map(text).collect();
    let text = match (&said[..], result.structured_content) {
        ([], Some(structured)) => structured.to_string(),
        _ => said.join("\n"),
    };
    let text = text.replace('\0', "\u{fffd}");
    match result.is_error {
        Some(true) => ToolOutcome::failed(text),
        _ => ToolOutcome::Result(text),
    }
}

fn text(block: ContentBlock) -> String {
    match block {
        ContentBlock::Text(content) => content.text,
        ContentBlock::Image(content) => left_out("image", Some(content.mime_type), &content.data),
        ContentBlock::Audio(content) => left_out("audio", Some(content.mime_type), &content.data),
        ContentBlock::ResourceLink(resource) => format!("{}: {}", resource.name, resource.uri),
        ContentBlock::Resource(embedded) => match embedded.resource {
            ResourceContents::TextResourceContents { text, .. } => text,
            ResourceContents::BlobResourceContents {
                uri,
                mime_type,
                blob,
                ..
            } => left_out(&uri, mime_type, &blob),
            _ => "[a resource of an unknown kind]".to_owned(),
        },
        _ => "[content of an unknown kind]".to_owned(),
    }
}

/// Of what a model is not told.
fn left_out(what: &str, mime_type: Option<String>, base64: &str) -> String {
    let mime_type = mime_type.unwrap_or_default();
    format!("[{what} {mime_type}, {} bytes]", base64.len() / 4 * 3)
}
