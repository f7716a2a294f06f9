//! A server whose database is encrypted.

use crate::files::Files;

#[test]
fn a_key_that_is_wrong_ends_a_server_with_a_line_that_names_the_setting() {
    let mut files = Files::of_sqlite();
    let variables = &mut files.installation.variables;
    variables.push(("DB_ENCRYPTION_KEY", "env:MASTER_KEY".to_owned()));
    variables.push(("MASTER_KEY", "07".repeat(32)));
    files.run(&["migrate"]);
    files.run(&["conversations"]);
    for (key, expected) in [
        ("08".repeat(32), "names another master key"),
        ("08".repeat(31), "names a key that is not 32 bytes"),
    ] {
        files.installation.variables[1].1 = key.clone();
        let mut command = files.installation.command("0", "1");
        let output = command.arg("conversations").output().unwrap();
        let error = crate::process::text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains("DB_ENCRYPTION_KEY") && error.contains(expected),
            "{error}"
        );
        assert!(!error.contains(&key));
    }
}
