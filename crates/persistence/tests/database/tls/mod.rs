mod as_libpq;

use crate::{
    fixture::{PASSWORD, assert_configuration, config, connect, refusal, texts},
    proxy::Proxy,
    support::{PostgresDatabase, environment, server},
};

#[tokio::test]
async fn a_server_with_a_certificate_of_a_trusted_authority_is_verified() {
    let postgres = PostgresDatabase::create("tls").await;
    let mut by_name: url::Url = postgres.url.parse().unwrap();
    by_name.set_host(Some("localhost")).unwrap();
    for url in [&*postgres.url, by_name.as_str()] {
        let database = connect(&verifying(url)).await;
        let encrypted =
            "SELECT bool_and(ssl)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
            WHERE application_name = 'agentkit' AND datname = current_database()";
        assert_eq!(texts(&postgres.url, encrypted).await, ["true"]);
        database.close().await;
    }
    postgres.remove().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    // Those that everybody trusts.
    let url = with_password(&format!("{}?sslrootcert=system", server()));
    assert_configuration(&refusal(&config(&url)).await, "UnknownIssuer");
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused() {
    let proxy = Proxy::start_at("127.0.0.2:0", &server()).await;
    let url = with_password(&verifying(&proxy.url()));
    let error = refusal(&config(&url)).await;
    assert_configuration(&error, "not valid for name");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let url = environment("AGENTKIT_TEST_PGBOUNCER_URL");
    let url = with_password(&format!("{url}?sslmode=require"));
    assert_configuration(&refusal(&config(&url)).await, "TLS");
}

fn verifying(url: &str) -> String {
    let authority = environment("AGENTKIT_TEST_TLS_CA");
    format!("{url}?sslmode=verify-full&sslrootcert={authority}")
}

fn with_password(url: &str) -> String {
    let mut url: url::Url = url.parse().unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.into()
}
