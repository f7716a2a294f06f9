//! By which names the server may be called, and from which pages: a page in a user's browser must
//! not reach it under a name that the page's owner makes point to it (DNS rebinding).

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header, uri::Authority},
};
use tower_http::cors::{Any, CorsLayer};

use super::{caller, connection::AmbiguousLength, jwt::JwtConfig, problem::Problem, rate::Quota};
use crate::mcp::McpAccess;

/// The names of the server and the pages of others that may call it.
#[derive(Clone, Debug)]
pub struct Access {
    /// The address that the server listens on.
    pub address: IpAddr,
    /// Its names besides those of the loopback interface and the address.
    pub hosts: AllowedHosts,
    /// The origins of pages that may call it from a browser.
    pub origins: CorsOrigins,
    /// Whether all may call it from other machines too, as long as there is no key.
    pub without_keys: bool,
    /// What an owner may ask for, or a caller without one.
    pub quota: Quota,
    /// What all of a tenant may ask for together; where there are no tenants, all.
    pub tenant_quota: Quota,
    /// Whose tokens let somebody in, besides keys.
    pub jwt: Option<JwtConfig>,
    /// What agents of others may do with what is remembered, by MCP.
    pub mcp: McpAccess,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            hosts: AllowedHosts::default(),
            origins: CorsOrigins::default(),
            without_keys: false,
            quota: Quota::default(),
            tenant_quota: Quota::default(),
            jwt: None,
            mcp: McpAccess::Read,
        }
    }
}

/// Names in lower case; `.example.com` is every name below that one, `*` is every name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<String>);

/// Origins as browsers send them; `*` is every page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorsOrigins(Vec<HeaderValue>);

/// The text has a name that is none, or an origin that is none.
#[derive(Debug, thiserror::Error)]
#[error("not a list of names")]
pub struct NotAList;

impl FromStr for AllowedHosts {
    type Err = NotAList;

    fn from_str(text: &str) -> Result<Self, NotAList> {
        let name = |name: &str| match name.trim_start_matches('.').parse::<Authority>() {
            _ if name == "*" => Ok(name.to_owned()),
            Ok(authority) if authority.port().is_none() && !authority.as_str().contains('@') => {
                Ok(name.to_ascii_lowercase())
            }
            _ => Err(NotAList),
        };
        list(text).map(name).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for CorsOrigins {
    type Err = NotAList;

    fn from_str(text: &str) -> Result<Self, NotAList> {
        let origin = |origin: &str| {
            let is_origin = origin == "*" || authority_of(origin).is_some();
            let value = HeaderValue::from_str(&origin.to_ascii_lowercase()).ok();
            value.filter(|_| is_origin).ok_or(NotAList)
        };
        list(text).map(origin).collect::<Result<_, _>>().map(Self)
    }
}

impl CorsOrigins {
    fn is_any(&self) -> bool {
        self.0.iter().any(|origin| origin == "*")
    }

    /// Lets browsers show the answers to these pages, if there are any.
    pub(super) fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
            .allow_headers([
                header::ACCEPT,
                header::AUTHORIZATION,
                header::CONTENT_TYPE,
                caller::OWNER,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("last-event-id"),
            ])
            .expose_headers([
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                HeaderName::from_static("x-request-id"),
            ]);
        Some(match self.is_any() {
            true => layer.allow_origin(Any),
            false => layer.allow_origin(self.0.clone()),
        })
    }
}

impl Access {
    /// Whether nobody may call it without a key or a token, even where there is no key.
    pub(crate) fn needs_key(&self) -> bool {
        self.jwt.is_some() || (!self.address.is_loopback() && !self.without_keys)
    }

    /// Refuses requests that call the server by another name, or come from the page of another.
    pub(super) fn admit(&self, request: &Request) -> Result<(), Problem> {
        if request.extensions().get::<AmbiguousLength>().is_some() {
            let reason = "can't go with content-length";
            return Err(Problem::invalid("transfer-encoding", reason));
        }
        let Some(host) = host(request)? else {
            return Ok(());
        };
        if !self.is_served(&host) {
            let detail = format!(
                "this server is not called `{}`; AGENTKIT_ALLOWED_HOSTS lists names that it has \
                 besides its address and localhost",
                host.host()
            );
            let status = StatusCode::MISDIRECTED_REQUEST;
            return Err(Problem::new(status, "host-not-allowed", detail));
        }
        match request.headers().get(header::ORIGIN) {
            Some(origin) if !self.is_welcome(origin, &host) => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "origin-not-allowed",
                "pages of this origin may not call this server; AGENTKIT_CORS_ORIGINS lists those \
                 that may",
            )),
            _ => Ok(()),
        }
    }

    fn is_served(&self, host: &Authority) -> bool {
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        if self.hosts.has(&name) || name == "localhost" || name.ends_with(".localhost") {
            return true;
        }
        let address = name.trim_start_matches('[').trim_end_matches(']');
        // Where the server listens on all addresses of the machine, any may be one of them. No
        // browser takes an address for a name.
        address.parse::<IpAddr>().is_ok_and(|given| {
            given.is_loopback() || given == self.address || self.address.is_unspecified()
        })
    }

    /// Whether a page may call: one of the server's own, or one that the settings name.
    fn is_welcome(&self, origin: &HeaderValue, host: &Authority) -> bool {
        if self.origins.is_any() || self.origins.0.contains(origin) {
            return true;
        }
        let origin = origin.to_str().ok().and_then(authority_of);
        origin.is_some_and(|origin| {
            // Behind a proxy the name that the server is called by may be another.
            origin.as_str().eq_ignore_ascii_case(host.as_str())
                || self.hosts.has(&origin.host().to_ascii_lowercase())
        })
    }
}

impl AllowedHosts {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| {
            let is_below = allowed.starts_with('.') && name.ends_with(allowed.as_str());
            allowed == "*" || allowed == name || is_below
        })
    }
}

/// The name that a request calls the server by; HTTP/1.0 needs none.
fn host(request: &Request) -> Result<Option<Authority>, Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let given = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Problem::invalid("host", "must be there once")),
        (None, _) if request.version() >= Version::HTTP_11 => {
            return Err(Problem::invalid("host", "must be there"));
        }
        (given, _) => given,
    };
    let host = given.map(|given| {
        let host: Option<Authority> = given.to_str().ok().and_then(|text| text.parse().ok());
        let host = host.filter(|host| !host.as_str().contains('@'));
        host.ok_or_else(|| Problem::invalid("host", "must be a name or an address"))
    });
    let host = host.transpose()?;
    // A proxy's form of the request line goes before the header.
    Ok(request.uri().authority().cloned().or(host))
}

fn authority_of(origin: &str) -> Option<Authority> {
    let uri: Uri = origin.parse().ok()?;
    let is_page = matches!(uri.scheme_str(), Some("http" | "https"));
    // The parser adds the slash that an origin does not have.
    let is_origin = is_page && !origin.ends_with('/') && uri.path_and_query()?.as_str() == "/";
    uri.authority().filter(|_| is_origin).cloned()
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}
