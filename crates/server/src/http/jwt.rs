//! Tokens of an identity provider (OpenID Connect): JWTs, by its public keys.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, Jwk, JwkSet},
};
use serde_json::{Map, Value as Json};
use tokio::sync::Mutex;
use uuid::Uuid;
use yai_agentkit_agents::{Url, http_client};
use yai_agentkit_core::{
    Error, Result,
    access::{Scope, validate_owner, validate_tenant},
    error::Outcome,
};

use super::Caller;

/// For how long keys are not asked for again, while each token names one that is known.
const KEEP: Duration = Duration::from_secs(600);

/// For how long they are used where nobody can be asked.
const KEEP_WITHOUT_ANSWER: Duration = Duration::from_secs(86_400);

/// How often a token that names an unknown key makes one ask: anybody can send such.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// How long the answer may take, and how many bytes it may have.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 1 << 20;

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 30;

/// None of a secret that both sides have: the public key could be taken for one.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Whose tokens let somebody in, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// Who makes them: the claim `iss`.
    pub issuer: String,
    /// For whom they are: in the claim `aud`.
    pub audience: String,
    /// Where the issuer's public keys are; else the issuer is a URL, and says so itself (OpenID Connect
    /// Discovery).
    pub keys: Option<Url>,
    /// The claim that names the owner.
    pub owner_claim: String,
    /// The claim that names the tenant, where a server is that of several.
    pub tenant_claim: String,
    /// The claim that has the scopes: a list, or names with spaces between them.
    pub scope_claim: String,
}

/// Knows tokens.
pub(super) struct Tokens {
    config: JwtConfig,
    known: RwLock<Known>,
    /// Held while one asks, so that others who need the answer wait for it.
    asking: Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Arc<Jwk>>,
    answered: Option<Instant>,
    asked: Option<Instant>,
    /// Why the last question had no answer.
    failed: Option<String>,
}

impl Known {
    /// The key of this name, if it counts.
    fn key(&self, id: &str) -> Option<Arc<Jwk>> {
        let key = self.keys.get(id).cloned();
        key.filter(|_| is_within(self.answered, KEEP_WITHOUT_ANSWER))
    }

    fn is_fresh(&self) -> bool {
        is_within(self.answered, KEEP)
    }
}

fn is_within(at: Option<Instant>, time: Duration) -> bool {
    at.is_some_and(|at| at.elapsed() < time)
}

impl Tokens {
    pub(super) fn new(config: JwtConfig) -> Self {
        Self {
            config,
            known: RwLock::default(),
            asking: Mutex::default(),
        }
    }

    /// Who holds this token; `None` where it is none that counts here. Why not is in the log, without the
    /// token: who sends it need not know.
    pub(super) async fn caller(&self, token: &str) -> Result<Option<Caller>> {
        let Ok(header) = decode_header(token) else {
            return Ok(None);
        };
        let refused = |reason: &str| {
            tracing::info!(reason, "a token is refused");
            Ok(None)
        };
        if !ALGORITHMS.contains(&header.alg) {
            return refused("its algorithm is none of public keys");
        }
        let Some(id) = &header.kid else {
            return refused("it names no key");
        };
        let Some(jwk) = self.key(id).await? else {
            return refused("its key is none of the issuer's");
        };
        let is_for = jwk.common.key_algorithm.map(|known| known.to_string());
        if is_for.is_some_and(|known| known != format!("{:?}", header.alg)) {
            return refused("its key is for another algorithm");
        }
        let Ok(key) = DecodingKey::from_jwk(&jwk) else {
            return refused("its key can't be used");
        };
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY;
        let claims = match decode::<Map<String, Json>>(token, &key, &validation) {
            Ok(decoded) => decoded.claims,
            Err(error) => return refused(&error.to_string()),
        };
        match self.caller_of(&claims) {
            Some(caller) => Ok(Some(caller)),
            None => refused("it names no owner"),
        }
    }

    fn caller_of(&self, claims: &Map<String, Json>) -> Option<Caller> {
        let owner = claims.get(&self.config.owner_claim)?.as_str()?;
        validate_owner(owner).ok()?;
        let subject = claims.get("sub").and_then(Json::as_str).unwrap_or(owner);
        // Names of people are in no log.
        let name = format!("{} {subject}", self.config.issuer);
        let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
        let scope = scope(claims.get(&self.config.scope_claim));
        let caller = Caller::new(format!("token {name}"), scope).with_owner(Some(owner.to_owned()));
        let tenant = claims.get(&self.config.tenant_claim).and_then(Json::as_str);
        let tenant = tenant.filter(|tenant| validate_tenant(tenant).is_ok());
        Some(match tenant {
            Some(tenant) => caller.of_tenant(tenant),
            None => caller,
        })
    }

    /// The issuer's key of this name. Whose key is known waits for nobody else's question.
    async fn key(&self, id: &str) -> Result<Option<Arc<Jwk>>> {
        let (key, is_fresh) = {
            let known = self.known();
            (known.key(id), known.is_fresh())
        };
        if key.is_some() && is_fresh {
            return Ok(key);
        }
        let _asking = match (self.asking.try_lock(), key) {
            (Ok(asking), _) => asking,
            (Err(_), Some(key)) => return Ok(Some(key)),
            (Err(_), None) => self.asking.lock().await,
        };
        self.ask(id).await;
        let known = self.known();
        let key = known.key(id);
        if key.is_none() && (known.failed.is_some() || known.answered.is_none()) {
            let what = "ask for the keys of the issuer of tokens";
            let reason = known.failed.clone();
            let reason = reason.unwrap_or_else(|| "no answer yet".to_owned());
            return Err(Error::unavailable(what, Outcome::NotDone, reason));
        }
        Ok(key)
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_know(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the keys, unless another has just done so, or has learnt this one.
    async fn ask(&self, id: &str) {
        {
            let mut known = self.to_know();
            if known.is_fresh() && known.key(id).is_some() || is_within(known.asked, ASK_EVERY) {
                return;
            }
            known.asked = Some(Instant::now());
        }
        let answer = ask(&self.config).await;
        let mut known = self.to_know();
        match answer {
            Ok(keys) => {
                known.keys = keys;
                known.answered = Some(Instant::now());
                known.failed = None;
            }
            Err(reason) => {
                tracing::warn!(reason, issuer = self.config.issuer, "no keys of the issuer");
                known.failed = Some(reason);
            }
        }
    }
}

/// The highest of those that the claim has; without any, to read.
fn scope(claim: Option<&Json>) -> Scope {
    let names: Vec<&str> = match claim {
        Some(Json::String(names)) => names.split_whitespace().collect(),
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    let known = |name: &str| Scope::named(name.strip_prefix("agentkit:").unwrap_or(name));
    let scopes = names.into_iter().filter_map(known);
    scopes.max().unwrap_or(Scope::Read)
}

async fn ask(config: &JwtConfig) -> Result<HashMap<String, Arc<Jwk>>, String> {
    let asked = async {
        let url = match &config.keys {
            Some(url) => url.clone(),
            None => discover(&config.issuer).await?,
        };
        let bytes = get(url).await?;
        read(&bytes).map_err(|error| format!("the answer is no set of keys: {error}"))
    };
    let answered = tokio::time::timeout(TIMEOUT, asked).await;
    answered.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// Where the issuer says that its keys are. Its document must be its own, and lead nowhere that others
/// can listen to.
async fn discover(issuer: &str) -> Result<Url, String> {
    #[derive(serde::Deserialize)]
    struct Document {
        issuer: String,
        jwks_uri: String,
    }
    let at = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    let at: Url = at.parse().map_err(|_| "the issuer is no URL".to_owned())?;
    let document = get(at.clone()).await?;
    let document: Document = serde_json::from_slice(&document)
        .map_err(|error| format!("the answer is no configuration: {error}"))?;
    if document.issuer != issuer {
        return Err("the configuration is another issuer's".to_owned());
    }
    let keys = document.jwks_uri.parse().ok();
    let keys = keys.filter(|keys: &Url| keys.scheme() == "https" || keys.scheme() == at.scheme());
    keys.ok_or_else(|| "the configuration names no address of keys that is safe".to_owned())
}

async fn get(url: Url) -> Result<Vec<u8>, String> {
    let client = http_client().map_err(|error| error.to_string())?;
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let mut response = client.get(url).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("the answer has the status {}", response.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BYTES {
            return Err("the answer is too long".to_owned());
        }
    }
    Ok(bytes)
}

/// The public keys that have names. Of kinds that are not known here there may be others.
fn read(bytes: &[u8]) -> Result<HashMap<String, Arc<Jwk>>, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<Json>,
    }
    let set: Set = serde_json::from_slice(bytes)?;
    let keys = set.keys.into_iter();
    let keys = keys.filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys = JwkSet {
        keys: keys.collect(),
    };
    let public = keys
        .keys
        .into_iter()
        .filter(|key| !matches!(key.algorithm, AlgorithmParameters::OctetKey(_)));
    let named = public.filter_map(|key| Some((key.common.key_id.clone()?, Arc::new(key))));
    Ok(named.collect())
}
