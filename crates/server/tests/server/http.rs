//! Requests without a library, which would repeat them or keep connections.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

/// The status and the body of the response, if it comes within `patience` and is whole. `headers`
/// are lines of further ones.
pub(crate) fn request_with(
    address: &str,
    patience: Duration,
    head: &str,
    headers: &str,
    body: &str,
) -> Option<(u16, Value)> {
    let mut connection = TcpStream::connect_timeout(&address.parse().unwrap(), patience).ok()?;
    connection.set_read_timeout(Some(patience)).ok()?;
    let request = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    connection.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).ok()?))
}
