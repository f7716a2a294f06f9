//! TLS of the server itself, with a client that checks its certificate.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;

use crate::{
    crash::wait_for,
    process::{Server, agentkit, run, text},
};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A new certificate of `localhost` with its key, in place of the one before.
fn certify(directory: &Path) {
    let new = ["new.crt", "new.key"].map(|name| directory.join(name));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-addext"])
        .arg("subjectAltName=DNS:localhost,IP:127.0.0.1")
        .arg("-out")
        .arg(&new[0])
        .arg("-keyout")
        .arg(&new[1])
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    for (new, name) in new.iter().zip(["server.crt", "server.key"]) {
        std::fs::rename(new, directory.join(name)).unwrap();
    }
}

fn start(directory: &Path) -> Server {
    let mut command = agentkit(directory);
    command.args(["--bind", "127.0.0.1:0"]);
    command.args(["--tls-certificate", "server.crt", "--tls-key", "server.key"]);
    Server::spawn(&mut command)
}

/// A connection of a client that trusts the certificate that is now in the file.
fn connect(server: &Server, directory: &Path) -> Result<Stream, std::io::Error> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(directory.join("server.crt"));
    roots.add(certificate.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(client, TcpStream::connect(&server.address)?);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

/// The status of an answer that leaves the connection open.
fn get(stream: &mut Stream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = text(&answer).to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap();
    let length = length.split('\r').next().unwrap().parse().unwrap();
    stream.read_exact(&mut vec![0; length]).unwrap();
    head.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_new_certificate_is_served_without_a_restart_and_no_connection_is_dropped() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    certify(directory);
    let server = start(directory);
    let mut first = connect(&server, directory).unwrap();
    assert_eq!(get(&mut first, "/healthz"), "200");
    assert_eq!(get(&mut first, "/conversations"), "200");

    for by_signal in [false, true] {
        certify(directory);
        if by_signal {
            server.signal("-HUP");
        }
        let mut second = wait_for(|| connect(&server, directory).ok());
        assert_eq!(get(&mut second, "/healthz"), "200");
        assert_eq!(get(&mut first, "/healthz"), "200");
    }

    // One that can't be used changes nothing.
    let key = std::fs::read(directory.join("server.key")).unwrap();
    std::fs::write(directory.join("server.key"), "no key").unwrap();
    server.signal("-HUP");
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut second = connect(&server, directory).unwrap();
        assert_eq!(get(&mut second, "/healthz"), "200");
    }
    std::fs::write(directory.join("server.key"), key).unwrap();
    assert_eq!(get(&mut first, "/healthz"), "200");

    drop((first, connect(&server, directory)));
    server.signal("-TERM");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn who_speaks_no_tls_or_nothing_keeps_nobody_out() {
    let directory = TempDir::new().unwrap();
    certify(directory.path());
    let server = start(directory.path());
    let silent: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(&server.address).unwrap())
        .collect();
    let mut plain = TcpStream::connect(&server.address).unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // It may be reset.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let mut stream = connect(&server, directory.path()).unwrap();
    assert_eq!(get(&mut stream, "/healthz"), "200");
    drop(silent);
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_by_its_setting() {
    let directory = TempDir::new().unwrap();
    certify(directory.path());
    std::fs::write(directory.path().join("other.key"), "secret words").unwrap();
    let bind = ["--bind", "127.0.0.1:0"];
    let cases = [
        (vec!["--tls-certificate", "server.crt"], "--tls-certificate"),
        (vec!["--tls-key", "server.key"], "--tls-key"),
        (
            vec!["--tls-certificate", "none.crt", "--tls-key", "server.key"],
            "none.crt",
        ),
        (
            vec!["--tls-certificate", "server.crt", "--tls-key", "other.key"],
            "other.key",
        ),
    ];
    for (arguments, named) in cases {
        let output = run(directory.path(), &[&bind[..], &arguments].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains(named) && !error.contains("secret"),
            "{error}"
        );
    }
}
