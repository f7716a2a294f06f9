use yai_agentkit_persistence::DatabaseConfig;

const PASSWORD: &str = "hunter2";

/// Connection strings, as they are and with a password in them.
pub fn connection_strings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = shown(&text);
    // Wherever the password stands, nobody shows it.
    for with_password in [
        format!("postgresql://user:{PASSWORD}@host/{text}"),
        format!("postgresql://host/?password={PASSWORD}&{text}"),
        format!("password={PASSWORD} {text}"),
    ] {
        let shown = shown(&with_password);
        assert!(
            !shown.contains(PASSWORD),
            "{with_password:?} shows {shown:?}"
        );
    }
}

/// What people see of it.
fn shown(text: &str) -> String {
    match DatabaseConfig::new(text) {
        Ok(config) => format!("{} {config:?}", config.display_url()),
        Err(error) => format!("{error} {error:?}"),
    }
}
