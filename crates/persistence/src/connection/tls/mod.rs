//! TLS to PostgreSQL as libpq has it, where sqlx's own is not.
//! <https://www.postgresql.org/docs/current/libpq-ssl.html>

mod name;
mod relay;
mod verify;

use std::{io, net::Ipv4Addr, sync::Arc};

use rustls::{
    ClientConfig, Error,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::conninfo::{Host, Place, Tls};

pub(super) use relay::{Relay, unwrapped};
use verify::Verifier;

/// The length of the message, and that it asks for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Connects to `host`, which must speak TLS and be whom `tls` wants.
async fn connect(host: &Host, tls: &Tls) -> Result<TlsStream<TcpStream>, sqlx::Error> {
    let Place::Network { name, address } = &host.place else {
        return Err(refusal("a socket needs no TLS"));
    };
    // Read anew for each connection: who renews a certificate replaces its file.
    let connector = TlsConnector::from(Arc::new(configuration(name, tls)?));
    let address = address.as_ref().unwrap_or(name);
    let mut stream = TcpStream::connect((&**address, host.port)).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&SSL_REQUEST).await?;
    if stream.read_u8().await? != b'S' {
        return Err(refusal("the server does not support TLS"));
    }
    // What is no name of DNS is not told to the server; the certificate is compared with it as it is.
    let server = ServerName::try_from(name.clone())
        .unwrap_or_else(|_| ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()));
    let connected = connector.connect(server, stream).await;
    connected.map_err(|error| match error.kind() {
        // How rustls gives its own.
        io::ErrorKind::InvalidData => refusal(error),
        _ => error.into(),
    })
}

fn configuration(name: &str, tls: &Tls) -> Result<ClientConfig, sqlx::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(name, tls, provider.signature_verification_algorithms)?;
    let configuration = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refusal)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match &tls.client {
        None => configuration.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| refusal(format!("{}: {error}", key.display())))?;
            configuration.with_client_cert_resolver(identity(chain, key).map_err(refusal)?)
        }
    })
}

fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<dyn ResolvesClientCert>, Error> {
    let key = ring::sign::any_supported_type(&key)?;
    Ok(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        chain, key,
    ))))
}

/// Those of a PEM file.
fn certificates(file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, sqlx::Error> {
    let read = |error| refusal(format!("{}: {error}", file.display()));
    let certificates = CertificateDer::pem_file_iter(file).map_err(read)?;
    certificates.map(|each| each.map_err(read)).collect()
}

fn refusal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Tls(error.into())
}
