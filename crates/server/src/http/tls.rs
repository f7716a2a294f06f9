//! TLS of the server itself, whose certificate changes while it runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use yai_agentkit_core::error::BoxError;

/// How often one looks whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the certificate and its key are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Whether a file is another one: when it was changed, and how long it is.
type Seen = [Option<(SystemTime, u64)>; 2];

/// The certificate in use. A clone is the same.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files.
    pub fn read(files: TlsFiles) -> Result<Self, BoxError> {
        let current = Arc::new(RwLock::new(files.read()?));
        Ok(Self { files, current })
    }

    /// Takes connections with what is now in use; those under way keep theirs.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current).into()
    }

    /// Reads the files again whenever they have changed, or SIGHUP asks to. What can't be read leaves
    /// the certificate in use.
    pub async fn keep_up(self) -> io::Result<()> {
        let mut hangups = Hangups::register()?;
        let mut seen = self.files.seen();
        loop {
            tokio::select! {
                () = sleep_until(Instant::now() + LOOK_EVERY) => {
                    let now = self.files.seen();
                    // A file that is being written is looked at again once it is.
                    if now == seen {
                        continue;
                    }
                    seen = now;
                }
                () = hangups.next() => {}
            }
            match self.files.read() {
                Ok(read) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
                    tracing::info!("the certificate is read again");
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate stays: the new one can't be used");
                }
            }
        }
    }
}

impl TlsFiles {
    fn seen(&self) -> Seen {
        [&self.certificate, &self.key].map(|path| {
            let file = path.metadata().ok()?;
            Some((file.modified().ok()?, file.len()))
        })
    }

    /// An error names the file, and shows nothing of it.
    fn read(&self) -> Result<Arc<ServerConfig>, BoxError> {
        let failed = |path: &Path, error: &dyn std::fmt::Display| -> BoxError {
            format!("{} can't be read: {error}", path.display()).into()
        };
        let certificates = CertificateDer::pem_file_iter(&self.certificate);
        let certificates = certificates.and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.map_err(|error| failed(&self.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|error| failed(&self.key, &error))?;
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions()?;
        let config = config.with_no_client_auth();
        let mut config = config.with_single_cert(certificates, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// SIGHUP; elsewhere than on Unix, nothing.
struct Hangups {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangups {
    #[cfg(unix)]
    fn register() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = signal(SignalKind::hangup())?;
        Ok(Self { signal })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        self.signal.recv().await;
    }

    #[cfg(not(unix))]
    fn register() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        std::future::pending().await
    }
}
