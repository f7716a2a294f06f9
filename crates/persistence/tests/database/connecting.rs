use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use yai_agentkit_core::{Conversation, Error, Storage, Stores};
use yai_agentkit_persistence::{Database, DatabaseConfig};

use crate::{
    fixture::{PASSWORD, assert_configuration, assert_unavailable, config, connect, refusal},
    proxy::{Proxy, unused_port},
    support::{PostgresDatabase, server},
};

/// What a busy machine adds to a timeout.
const SLACK: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_server_that_starts_late_is_waited_for() {
    let postgres = PostgresDatabase::create("connecting").await;
    let port = unused_port().await;
    let late = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        Proxy::start_at(("127.0.0.1", port), &postgres.url).await
    };
    let url = with(&postgres.url, |url| url.set_port(Some(port)).unwrap());
    let config = config(&url);
    let (database, _proxy) = tokio::join!(Database::connect(&config), late);
    let database = database.unwrap();
    database.ping().await.unwrap();
    database.close().await;
    postgres.remove().await;
}

/// One that finds out about the server, and that of the pool.
#[tokio::test]
async fn a_new_database_takes_two_connections() {
    let postgres = PostgresDatabase::create("connecting").await;
    for state in ["new", "migrated"] {
        let proxy = Proxy::start(&postgres.url).await;
        let database = connect(&proxy.url()).await;
        database.ping().await.unwrap();
        assert_eq!(proxy.accepted(), 2, "{state}");
        database.close().await;
    }
    postgres.remove().await;
}

#[tokio::test]
async fn a_server_that_never_starts_is_unavailable_after_the_timeout() {
    let port = unused_port().await;
    is_unavailable_after_the_timeout(port).await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_unavailable_after_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    is_unavailable_after_the_timeout(silent.local_addr().unwrap().port()).await;
}

async fn is_unavailable_after_the_timeout(port: u16) {
    let timeout = Duration::from_secs(1);
    let url = format!("postgresql://agent:{PASSWORD}@127.0.0.1:{port}/agents");
    let config = config(&url).start_timeout(timeout).unwrap();
    let started = Instant::now();
    assert_unavailable::<()>(Err(refusal(&config).await));
    let elapsed = started.elapsed();
    assert!(elapsed > timeout * 9 / 10, "gave up after {elapsed:?}");
    assert!(elapsed < timeout + SLACK, "gave up after {elapsed:?}");
}

#[tokio::test]
async fn a_database_or_role_that_does_not_exist_is_refused_at_once() {
    let no_database = with(&server(), |url| url.set_path("no_such_database"));
    let no_role = with(&server(), |url| url.set_username("no_such_role").unwrap());
    for (url, name) in [(no_database, "no_such_database"), (no_role, "no_such_role")] {
        let url = with(&url, |url| url.set_password(Some(PASSWORD)).unwrap());
        assert_configuration(&refusal_at_once(&config(&url)).await, name);
    }
}

#[tokio::test]
async fn of_several_servers_the_first_that_answers_is_used_and_another_once_that_is_gone() {
    let postgres = PostgresDatabase::create("several").await;
    let user = postgres.url.parse::<url::Url>().unwrap();
    let (user, name) = (user.username(), user.path());
    let closed = unused_port().await;
    let (first, one) = relay(&postgres.url).await;
    let (_second, other) = relay(&postgres.url).await;
    let url = format!(
        "postgresql://{user}@127.0.0.1:{closed},127.0.0.1:{one},127.0.0.1:{other}{name}\
         ?target_session_attrs=read-write"
    );
    let database = connect(&url).await;
    database.ping().await.unwrap();
    first.abort();
    let conversation = Conversation::titled("kept");
    let added = database.conversations().add(conversation).await;
    added.expect("the other server answers");
    database.close().await;

    let read_only = "ALTER DATABASE {} SET default_transaction_read_only = on";
    let read_only = read_only.replace("{}", name.trim_start_matches('/'));
    crate::support::execute(&server(), &read_only).await;
    let error = refusal(&config(&url).start_timeout(Duration::from_secs(1)).unwrap()).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    postgres.remove().await;
}

/// Another port of the server, until the task is aborted.
async fn relay(url: &str) -> (tokio::task::JoinHandle<()>, u16) {
    let url: url::Url = url.parse().unwrap();
    let server = ("127.0.0.1", url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (task, port)
}

/// The test server trusts everybody, so that this one only says what a server says.
#[tokio::test]
async fn a_wrong_password_is_refused_at_once() {
    const WRONG_PASSWORD: &[u8] =
        b"E\0\0\0\x3aSFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut startup = [0; 1024];
            assert!(client.read(&mut startup).await.unwrap() > 0);
            client.write_all(WRONG_PASSWORD).await.unwrap();
        }
    });
    let url = format!("postgresql://agent:{PASSWORD}@127.0.0.1:{port}/agents?sslmode=disable");
    let error = refusal_at_once(&config(&url)).await;
    assert_configuration(&error, "password authentication failed");
}

async fn refusal_at_once(config: &DatabaseConfig) -> Error {
    let started = Instant::now();
    let error = refusal(config).await;
    let elapsed = started.elapsed();
    assert!(elapsed < SLACK, "refused after {elapsed:?}");
    error
}

fn with(url: &str, change: impl FnOnce(&mut url::Url)) -> String {
    let mut url: url::Url = url.parse().unwrap();
    change(&mut url);
    url.into()
}
