//! Who calls: by a key of the server, or as a layer around the router says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request},
    http::{HeaderMap, HeaderName, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use uuid::Uuid;
use yai_agentkit_core::{
    Conversation, ConversationId, Error, Storage,
    access::{Scope, owner_id, validate_owner},
    audit::Actor,
    storage::Tenants,
};

use super::{
    App,
    host::Access,
    jwt::Tokens,
    problem::Problem,
    rate::{Quotas, begins_turn},
};
use crate::keys::{self, Token};

/// For whom a caller acts who may act for all.
pub(super) const OWNER: HeaderName = HeaderName::from_static("agentkit-owner");

/// For how long nobody asks again whether a key exists, while none does.
const OPEN_FOR: Duration = Duration::from_secs(1);

/// Of how many keys one knows whose they are.
const MOST_KEYS: usize = 100_000;

/// Who sent a request. Whoever authenticates it in a layer around the router adds this to the
/// request's extensions; else the server asks for one of its keys, if there are any.
#[derive(Clone, Debug)]
pub struct Caller {
    name: String,
    scope: Scope,
    owner: Option<String>,
    tenant: Option<Arc<str>>,
}

impl Caller {
    /// A caller with this name, which nobody else has, who may do what `scope` says in the
    /// conversations of all.
    pub fn new(name: impl Into<String>, scope: Scope) -> Self {
        Self {
            name: name.into(),
            scope,
            owner: None,
            tenant: None,
        }
    }

    /// Of this tenant, which must be named where a server is that of several.
    #[must_use]
    pub fn of_tenant(self, tenant: impl Into<Arc<str>>) -> Self {
        Self {
            tenant: Some(tenant.into()),
            ..self
        }
    }

    /// Only in the conversations of `owner`, where there is one.
    #[must_use]
    pub fn with_owner(self, owner: Option<String>) -> Self {
        Self { owner, ..self }
    }

    /// Whether it may do what needs this.
    pub(super) fn may(&self, scope: Scope) -> bool {
        self.scope >= scope
    }

    /// Whose conversations it has; `None` is those of all.
    pub(super) fn owner(&self) -> Option<String> {
        self.owner.clone()
    }

    /// Who shares one quota with it.
    pub(super) fn quota(&self) -> String {
        let who = self.owner.as_deref().unwrap_or(&self.name);
        match &self.tenant {
            // No name of a tenant has a space.
            Some(tenant) => format!("{tenant} {who}"),
            None => who.to_owned(),
        }
    }

    /// Who it is in the audit log; where no key is asked for, anybody.
    pub(super) fn actor(&self) -> Actor {
        let anybody = self.name.is_empty();
        Actor {
            who: if anybody { "anybody" } else { &self.name }.to_owned(),
            owner: self.owner.as_deref().map(owner_id),
        }
    }

    /// Of the idempotency keys that belong to no conversation.
    pub(super) fn scope_of_keys(&self) -> Uuid {
        self.within(match &self.owner {
            Some(owner) => owner_id(owner),
            None => Uuid::new_v5(&Uuid::nil(), self.name.as_bytes()),
        })
    }

    /// What is called so in all tenants, as this one's: the ids of conversations, and what a process
    /// knows of requests under way, are those of all.
    fn within(&self, all: Uuid) -> Uuid {
        let own = |tenant: &Arc<str>| Uuid::new_v5(&all, tenant.as_bytes());
        self.tenant.as_ref().map_or(all, own)
    }

    /// Of which tenant it is, where there are some.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// In which the names of threads mean one conversation each.
    pub(super) fn scope_of_threads(&self, all: Uuid) -> Uuid {
        let all = self.within(all);
        let own = |owner: &String| Uuid::new_v5(&all, owner.as_bytes());
        self.owner.as_ref().map_or(all, own)
    }

    /// Lets nobody but its owner see a conversation.
    pub(super) fn may_see(&self, conversation: &Conversation) -> Result<(), Error> {
        match &self.owner {
            Some(_) if self.owner != conversation.owner => {
                Err(Error::not_found("conversation", conversation.id))
            }
            _ => Ok(()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let caller = parts.extensions.get().cloned();
        let unasked = || Problem::internal("a route that asks for no key").into_response();
        caller.ok_or_else(unasked)
    }
}

/// Lets in who may come in.
pub(super) struct Gate {
    app: App,
    /// Where the server is that of several.
    tenants: Option<Arc<dyn Tenants>>,
    /// Whose the keys are that were sent.
    tenants_of_keys: Mutex<HashMap<Uuid, Arc<str>>>,
    /// Whether nobody may come in without a key although there is none.
    needs_key: bool,
    /// What is known of the keys.
    known: Mutex<Known>,
    tokens: Option<Tokens>,
    quotas: Quotas,
}

#[derive(Clone, Copy)]
enum Known {
    /// Nothing.
    Nothing,
    /// There was none then.
    None(Instant),
    /// There are some, and will be.
    Some,
}

impl Gate {
    pub(super) fn new(app: App, access: &Access) -> Self {
        let tenants = app.storage.tenants();
        Self {
            needs_key: access.needs_key() || tenants.is_some(),
            app,
            tenants,
            tenants_of_keys: Mutex::default(),
            known: Mutex::new(Known::Nothing),
            tokens: access.jwt.clone().map(Tokens::new),
            quotas: Quotas::new(access.quota, access.tenant_quota),
        }
    }

    /// The request with who sends it, if that may be, and without the key.
    pub(super) async fn admit(&self, request: Request) -> Result<Request, Refusal> {
        let (mut parts, body) = request.into_parts();
        self.check(&mut parts).await?;
        Ok(Request::from_parts(parts, body))
    }

    async fn check(&self, parts: &mut Parts) -> Result<(), Refusal> {
        let route = parts.extensions.get::<MatchedPath>().cloned();
        let route = route.as_ref().map_or("", MatchedPath::as_str);
        let key = parts.headers.remove(header::AUTHORIZATION);
        if is_open(route) {
            return Ok(());
        }
        let mut caller = match parts.extensions.get::<Caller>() {
            Some(caller) => caller.clone(),
            None if self.is_open().await? => Caller::new("", Scope::Admin),
            None => {
                let key = key.as_ref().and_then(|key| key.to_str().ok());
                self.caller(key.and_then(bearer)).await?
            }
        };
        // Who comes without a key, where none is asked for, has no name.
        if !caller.name.is_empty() {
            tracing::Span::current().record("caller", &caller.name);
        }
        let scope = needed(&parts.method, route);
        if caller.scope < scope {
            return Err(Refusal::Scope(scope));
        }
        caller.owner = acts_for(caller.owner, &parts.headers)?;
        let storage = self.storage_of(&mut caller, parts)?;
        self.quotas.admit(&caller)?;
        self.check_path(&*storage, &caller, parts).await?;
        if begins_turn(&parts.method, route) {
            self.quotas.admit_turn(&caller, &*storage).await?;
        }
        parts.extensions.insert(caller);
        Ok(())
    }

    /// What the caller's tenant has, which is what the request works on.
    fn storage_of(
        &self,
        caller: &mut Caller,
        parts: &mut Parts,
    ) -> Result<Arc<dyn Storage>, Refusal> {
        let none = Refusal::Key("is none of a tenant of this server");
        let Some(tenants) = &self.tenants else {
            let own = self.app.storage.tenant();
            if caller.tenant.is_some() && own.is_some() && caller.tenant.as_deref() != own {
                return Err(none);
            }
            caller.tenant = own.map(Into::into);
            return Ok(Arc::clone(&self.app.storage));
        };
        let storage = tenants.storage(caller.tenant.as_deref().ok_or(none)?)?;
        parts.extensions.insert(App {
            storage: Arc::clone(&storage),
            turns: Arc::new(self.app.turns.on(Arc::clone(&storage))),
        });
        Ok(storage)
    }

    /// Whether anybody may come in: as long as there is no key.
    async fn is_open(&self) -> Result<bool, Error> {
        if self.needs_key {
            return Ok(false);
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = *known();
        match seen {
            Known::Some => return Ok(false),
            Known::None(since) if since.elapsed() < OPEN_FOR => return Ok(true),
            _ => {}
        }
        let asked = Instant::now();
        let exist = keys::exist(&*self.app.storage).await?;
        *known() = if exist {
            Known::Some
        } else {
            Known::None(asked)
        };
        Ok(!exist)
    }

    /// The holder of a key. What is wrong with it is told only to whoever has all of it.
    async fn caller(&self, key: Option<&str>) -> Result<Caller, Refusal> {
        let token = key.ok_or(Refusal::NoKey)?;
        if let Some(tokens) = &self.tokens
            && !keys::is_like_one(token)
        {
            let caller = tokens.caller(token).await?;
            return caller.ok_or(Refusal::Key("is none that counts here"));
        }
        let token = Token::parse(token).ok_or(Refusal::Key("is none of this server"))?;
        let none = || Refusal::Key("is none of this server");
        let tenant = match &self.tenants {
            Some(tenants) => Some(
                self.tenant_of_key(&**tenants, token.id)
                    .await?
                    .ok_or_else(none)?,
            ),
            None => None,
        };
        let keys = match (&self.tenants, &tenant) {
            (Some(tenants), Some(tenant)) => tenants.storage(tenant)?.api_keys(),
            _ => self.app.storage.api_keys(),
        };
        let stored = keys.get(&token.id).await?;
        let key = stored.filter(|key| token.is_of(key)).ok_or_else(none)?;
        if key.revoked_at.is_some() {
            return Err(Refusal::Key("was revoked"));
        }
        if key.expires_at.is_some_and(|at| at <= Utc::now()) {
            return Err(Refusal::Key("has expired"));
        }
        let caller = Caller::new(key.id.to_string(), key.scope).with_owner(key.owner);
        Ok(Caller { tenant, ..caller })
    }

    /// Whose a key is, which it stays: asked for once.
    async fn tenant_of_key(
        &self,
        tenants: &dyn Tenants,
        id: Uuid,
    ) -> Result<Option<Arc<str>>, Error> {
        let known = || {
            let known = self.tenants_of_keys.lock();
            known.unwrap_or_else(PoisonError::into_inner)
        };
        let seen = known().get(&id).cloned();
        if seen.is_some() {
            return Ok(seen);
        }
        let Some(tenant) = tenants.of_key(id).await? else {
            return Ok(None);
        };
        let (tenant, mut known) = (Arc::<str>::from(tenant), known());
        if known.len() >= MOST_KEYS {
            known.clear();
        }
        known.insert(id, Arc::clone(&tenant));
        Ok(Some(tenant))
    }

    /// What the path names must be the owner's own, and the tenant's: what this process knows of a
    /// conversation, as that it is busy, it knows of those of all.
    async fn check_path(
        &self,
        storage: &dyn Storage,
        caller: &Caller,
        parts: &mut Parts,
    ) -> Result<(), Refusal> {
        if caller.owner.is_none() && self.tenants.is_none() {
            return Ok(());
        }
        // Without any there is nothing to extract.
        let Ok(parameters) = RawPathParams::from_request_parts(parts, &()).await else {
            return Ok(());
        };
        for (name, value) in &parameters {
            match name {
                "id" | "chat_id" => {
                    // The handler refuses what is no id.
                    let Ok(id) = value.parse::<ConversationId>() else {
                        continue;
                    };
                    let found = storage.conversations().get(&id).await?;
                    let found = found.ok_or_else(|| Error::not_found("conversation", id))?;
                    caller.may_see(&found)?;
                }
                "owner" if caller.owner.as_deref().is_some_and(|own| own != value) => {
                    return Err(Error::not_found("owner", value).into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The routes that tell nothing of anybody.
pub(super) fn is_open(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz" | "/openapi.json") || route.starts_with("/docs")
}

/// What one must be allowed to do.
fn needed(method: &Method, route: &str) -> Scope {
    match *method {
        _ if route.starts_with("/owners/") || route == "/audit" => Scope::Admin,
        Method::GET | Method::HEAD => Scope::Read,
        // Each of its tools asks for itself.
        _ if route == super::mcp::PATH => Scope::Read,
        _ if matches!(
            route,
            "/agui/connect" | "/store/items/search" | "/store/namespaces"
        ) =>
        {
            Scope::Read
        }
        _ => Scope::Write,
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// The owner of the caller; of one who may act for all, the one that the header names.
fn acts_for(own: Option<String>, headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(named) = headers.get(OWNER) else {
        return Ok(own);
    };
    let named = str::from_utf8(named.as_bytes());
    let named = named.map_err(|_| Problem::invalid(OWNER.as_str(), "must be UTF-8"))?;
    validate_owner(named).map_err(|error| Problem::invalid(OWNER.as_str(), error))?;
    match own {
        Some(own) if own != named => Err(Refusal::Owner),
        _ => Ok(Some(named.to_owned())),
    }
}

/// Why somebody is not let in.
pub(super) enum Refusal {
    NoKey,
    Key(&'static str),
    Scope(Scope),
    Owner,
    Other(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        const REALM: &str = "Bearer realm=\"agentkit\"";
        let unauthorized = |detail| Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        let forbidden = |detail| Problem::new(StatusCode::FORBIDDEN, "forbidden", detail);
        let (challenge, problem) = match self {
            Self::NoKey => {
                let detail = "send a key, as in `authorization: Bearer agk_…`; `agentkit keys \
                              create` makes one";
                (REALM.to_owned(), unauthorized(detail.to_owned()))
            }
            Self::Key(fault) => (
                format!("{REALM}, error=\"invalid_token\""),
                unauthorized(format!("the key {fault}")),
            ),
            Self::Scope(scope) => {
                let scope = scope.as_str();
                (
                    format!("{REALM}, error=\"insufficient_scope\", scope=\"{scope}\""),
                    forbidden(format!("this needs a key with the scope `{scope}`")),
                )
            }
            Self::Owner => {
                let detail = "the key is for another owner than `agentkit-owner` names";
                return forbidden(detail.to_owned()).into_response();
            }
            Self::Other(problem) => return problem.into_response(),
        };
        ([(header::WWW_AUTHENTICATE, challenge)], problem).into_response()
    }
}
