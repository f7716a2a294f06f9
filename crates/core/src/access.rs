//! Who may call a server, and for whom.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{Entity, Error, Result, clock, validate};

/// The longest name of an owner, in characters.
pub const MAX_OWNER: usize = 255;

/// What the holder of a key may do: each also what those before it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look.
    Read,
    /// Talk, change and delete.
    #[default]
    Write,
    /// Erase all of an owner.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// The scope with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// What is stored of a key: nothing with which anybody could call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ApiKey {
    /// Ordered by time of creation. It is a part of the key.
    pub id: Uuid,
    /// What it is for, in at most 255 characters.
    pub name: String,
    /// SHA-256 of the whole key.
    pub digest: [u8; 32],
    /// What its holder may do.
    pub scope: Scope,
    /// Whose conversations its holder has; `None` is those of all.
    pub owner: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it is refused.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// The longest name, in characters.
    pub const MAX_NAME: usize = 255;

    /// A new key for the conversations of all, which does not expire.
    pub fn new(id: Uuid, name: impl Into<String>, digest: [u8; 32], scope: Scope) -> Self {
        Self {
            id,
            name: name.into(),
            digest,
            scope,
            owner: None,
            created_at: clock::now(),
            expires_at: None,
            revoked_at: None,
        }
    }

    /// Whether [`forget`](Self::forget) was called.
    pub fn is_forgotten(&self) -> bool {
        self.digest == [0; 32]
    }

    /// Revokes it, and makes it tell of nobody.
    pub fn forget(&mut self) {
        self.revoked_at.get_or_insert_with(clock::now);
        self.name = "erased".to_owned();
        self.owner = None;
        // Of no key.
        self.digest = [0; 32];
        self.scope = Scope::Read;
    }
}

/// Which keys; the default is all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ApiKeyFilter {
    /// Only those of this owner.
    pub owner: Option<String>,
}

impl ApiKeyFilter {
    /// The keys of `owner`.
    pub fn of(owner: impl Into<String>) -> Self {
        Self {
            owner: Some(owner.into()),
        }
    }
}

impl Entity for ApiKey {
    type Id = Uuid;
    type Filter = ApiKeyFilter;
    const NAME: &'static str = "key";

    fn id(&self) -> Uuid {
        self.id
    }

    fn validate(&self) -> Result<()> {
        validate::bounded("name", &self.name, Self::MAX_NAME)?;
        self.owner.as_deref().map_or(Ok(()), validate_owner)
    }
}

/// The namespace of the owners.
const OWNERS: Uuid = Uuid::from_u128(0x3f0c_9a52_7be1_4d06_8a97_51c2_e64d_b038);

/// The id of an owner, which tells the name to nobody who does not know it.
pub fn owner_id(owner: &str) -> Uuid {
    Uuid::new_v5(&OWNERS, owner.as_bytes())
}

/// Refuses what is no owner: an empty text, or a long one.
pub fn validate_owner(owner: &str) -> Result<()> {
    if owner.is_empty() {
        return Err(Error::invalid("owner", "must not be empty"));
    }
    validate::bounded("owner", owner, MAX_OWNER)
}

/// The longest name of a tenant, in bytes.
pub const MAX_TENANT: usize = 63;

/// Refuses what is no name of a tenant: letters and digits of ASCII, and within them `.`, `_` and `-`.
pub fn validate_tenant(tenant: &str) -> Result<()> {
    let within = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = tenant.starts_with(|first: char| first.is_ascii_alphanumeric());
    if begins && tenant.len() <= MAX_TENANT && tenant.bytes().all(within) {
        return Ok(());
    }
    let reason = "must be 1 to 63 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit";
    Err(Error::invalid("tenant", reason))
}
