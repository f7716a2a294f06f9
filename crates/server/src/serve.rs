//! The server as a whole, for `agentkit serve` and for programs with an agent of their own.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, signal};
use yai_agentkit_core::{Storage, error::BoxError};
use yai_agentkit_persistence::Database;

use crate::{
    cli::log,
    http::{self, App, connection, tls::Tls},
    keys,
    settings::Settings,
};
use yai_agentkit_engine::{TurnEngine, agent::Agents};

/// Serves HTTP with `agents`, which answer in place of the one that the settings name, and says on
/// stdout where. Starts the log, unless the program has one. Keeps the turns of all servers on the same database going. Returns when SIGTERM or
/// SIGINT asks to stop and running turns have reached their next checkpoint, or when the time for
/// that is over. An error is one of the settings, of the database, or of the network.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use yai_agentkit_core::error::BoxError;
/// use yai_agentkit_agents::offline::OfflineAgent;
/// use yai_agentkit_server::{
///     serve::serve,
///     settings::{Flags, Settings},
/// };
///
/// # async fn run() -> Result<(), BoxError> {
/// let settings = Settings::read(&Flags::default())?;
/// serve(settings, Arc::new(OfflineAgent::new())).await
/// # }
/// ```
pub async fn serve(settings: Settings, agents: impl Into<Agents>) -> Result<(), BoxError> {
    log::start(&settings, log::SERVING)?;
    if settings.database.lacks_tenant() && settings.access.without_keys {
        let reason = "must say which tenant this server works for, since AGENTKIT_WITHOUT_KEYS is \
                      true: a caller without a key is of none";
        return Err(settings.refused("DB_TENANT", reason.to_owned()).into());
    }
    let mut signals = StopSignals::register()?;
    let refused = |error: BoxError| settings.refused("AGENTKIT_TLS_CERTIFICATE", error.to_string());
    let tls = settings.tls.clone().map(Tls::read).transpose();
    let tls = tls.map_err(refused)?;
    tracing::debug!(database = settings.database.display_url(), "connecting");
    let database = tokio::select! {
        () = signals.next() => return Ok(()),
        database = Database::connect(&settings.database) => database?,
    };
    // Where there are tenants, and the server is that of no one, each request works on what its caller's
    // has, and what runs by itself on that of all.
    let of_all = match database.tenants() {
        Some(_) => database.of_all_tenants(),
        None => database.clone(),
    };
    let has_tokens = settings.access.jwt.is_some();
    if settings.access.needs_key() && !has_tokens && !keys::exist(&of_all).await? {
        let reason = format!(
            "others can reach {}, and there is no key that keeps them out: make one with `agentkit \
             keys create NAME`, set AGENTKIT_JWT_ISSUER, or AGENTKIT_WITHOUT_KEYS=true where \
             something else does",
            settings.bind
        );
        return Err(settings.refused("AGENTKIT_BIND", reason).into());
    }
    let turns = TurnEngine::new(Arc::new(of_all), agents)
        .with_limits(settings.limits.clone())
        .with_retention(settings.retention.clone())
        .with_search(settings.search_index);
    let listener = TcpListener::bind(settings.bind).await.map_err(|error| {
        let reason = format!("can't listen on {}: {error}", settings.bind);
        settings.refused("AGENTKIT_BIND", reason)
    })?;
    announce(listener.local_addr()?, tls.is_some())?;

    let keeper = turns.clone();
    tokio::spawn(async move { keeper.keep().await });

    let storage = Arc::new(database.clone());
    let app = App {
        turns: Arc::new(turns.on(storage.clone())),
        storage,
    };
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move {
            if let Err(error) = tls.keep_up().await {
                tracing::error!(%error, "the certificate is not read again");
            }
        });
    }
    let router = http::router(app, settings.access, settings.body_limit);
    let stop = turns.clone();
    let server = tokio::spawn(connection::serve(
        listener,
        router,
        settings.connections,
        tls,
        async move { stop.stopped().await },
    ));

    signals.next().await;
    tracing::info!(limit = ?settings.shutdown_timeout, "stopping");
    let stopped = async {
        turns.shutdown(settings.shutdown_timeout).await;
        server.await?;
        database.close().await;
        Ok::<_, BoxError>(())
    };
    tokio::select! {
        stopped = stopped => {
            stopped?;
            tracing::info!("stopped");
        }
        () = tokio::time::sleep(settings.shutdown_timeout) => {
            tracing::warn!("not everything stopped in time; turns go on after the next start");
        }
        () = signals.next() => {
            tracing::warn!("asked twice to stop; turns go on after the next start");
        }
    }
    Ok(())
}

/// Says on stdout where the server listens and how to see it remember.
fn announce(address: SocketAddr, has_tls: bool) -> io::Result<()> {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let scheme = if has_tls { "https" } else { "http" };
    let url = format!("{scheme}://{reachable}");
    let json = "-H 'content-type: application/json'";
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "AgentKit listens on {scheme}://{address}, with a page to try it at {url}/docs\n\
         See it remember:\n\n  \
         id=$(curl -s {url}/conversations {json} -d '{{}}' | cut -d '\"' -f 4); \
         for text in 'My name is Ada.' 'What is my name?'; do \
         curl -s {url}/chats/$id/messages {json} -d \"{{\\\"content\\\":\\\"$text\\\"}}\"; echo; done\n"
    )?;
    stdout.flush()
}

/// SIGTERM and SIGINT; elsewhere than on Unix, Ctrl-C.
struct StopSignals {
    #[cfg(unix)]
    signals: [signal::unix::Signal; 2],
}

impl StopSignals {
    /// From now on the signals do not end the process by themselves.
    #[cfg(unix)]
    fn register() -> io::Result<Self> {
        use signal::unix::{SignalKind, signal};
        let signals = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ];
        Ok(Self { signals })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        let [terminate, interrupt] = &mut self.signals;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn register() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if let Err(error) = signal::ctrl_c().await {
            tracing::error!(%error, "can't wait for Ctrl-C");
            std::future::pending().await
        }
    }
}
