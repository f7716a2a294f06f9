//! Installations that are divided among tenants, whose rows PostgreSQL keeps apart.
//!
//! The rows of all tenants are seen by the system alone, which is for: migrations; the question for the
//! role that connects; the index of the search, which takes in the messages of all; vacuum; and a server
//! of all tenants, where it asks whose a key or a conversation is, which turns are due, and what is
//! forgotten by age.

use std::sync::Arc;

use sea_orm::DbErr;
use uuid::Uuid;
use yai_agentkit_core::{Error, Result, access::validate_tenant};

use crate::{
    connection::{Connection, retrying},
    error::storage_error,
    sql::Query,
};

/// What the session is that sees all.
const SYSTEM: &str = "*";

/// Of an index that begins with the tenant. The policies alone, which the system may pass too, lead to
/// none.
pub(crate) const IS_MINE: &str = "tenant = current_setting('agentkit.tenant', true)";

/// One look into the index for each of them.
const TENANTS: &str = "WITH RECURSIVE t AS (
    (SELECT tenant FROM agent_conversations ORDER BY tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT c.tenant FROM agent_conversations c WHERE c.tenant > t.tenant
        ORDER BY c.tenant LIMIT 1)
    FROM t WHERE t.tenant IS NOT NULL
)
SELECT tenant FROM t WHERE tenant IS NOT NULL";

const BYPASSES: &str = "SELECT bool_or(rolsuper OR rolbypassrls) FROM pg_catalog.pg_roles
WHERE rolname IN (current_user, session_user)";

/// Whose rows a connection sees.
#[derive(Clone)]
pub(crate) enum Tenancy {
    /// There are no tenants.
    Undivided,
    /// Nobody's, as long as no tenant is named.
    Unnamed,
    Named(Arc<Named>),
}

/// A tenant, or the system.
pub(crate) struct Named {
    name: String,
    /// For the statements of a session.
    pub(crate) set: String,
    /// The same for those of a transaction.
    pub(crate) begin: Arc<str>,
}

impl Tenancy {
    /// The rows of `tenant`, in transactions that begin with `begin`.
    fn named(name: &str, begin: &str) -> Self {
        // A name has no quote.
        Self::Named(Arc::new(Named {
            name: name.to_owned(),
            set: format!("SET agentkit.tenant = '{name}'"),
            begin: format!("{begin}; SET LOCAL agentkit.tenant = '{name}'").into(),
        }))
    }

    /// An error where no tenant is named, but must be.
    pub(crate) fn check(&self) -> Result<Option<&Arc<Named>>, DbErr> {
        match self {
            Self::Undivided => Ok(None),
            Self::Named(named) => Ok(Some(named)),
            Self::Unnamed => Err(DbErr::Custom(
                "the installation is divided among tenants, and none is named".to_owned(),
            )),
        }
    }
}

impl Named {
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }

    /// Whether it is one tenant.
    fn is_tenant(&self) -> bool {
        self.name != SYSTEM
    }
}

impl Connection {
    fn tenancy(&self) -> &Tenancy {
        match self {
            Self::Postgres(postgres) => &postgres.tenancy,
            Self::Sqlite(_) => &Tenancy::Undivided,
        }
    }

    pub(crate) fn is_divided(&self) -> bool {
        !matches!(self.tenancy(), Tenancy::Undivided)
    }

    /// Whether it sees the rows of one tenant.
    pub(crate) fn is_of_tenant(&self) -> bool {
        self.tenant_name().is_some()
    }

    /// Whose rows it sees, where that is one.
    pub(crate) fn tenant_name(&self) -> Option<&str> {
        match self.tenancy() {
            Tenancy::Named(named) if named.is_tenant() => Some(&named.name),
            _ => None,
        }
    }

    /// The same for the rows of one tenant.
    pub(crate) fn of_tenant(&self, name: &str) -> Result<Self> {
        validate_tenant(name)?;
        Ok(self.see(name))
    }

    /// The same for those of all.
    pub(crate) fn of_system(&self) -> Self {
        self.see(SYSTEM)
    }

    fn see(&self, name: &str) -> Self {
        match self {
            Self::Postgres(postgres) if self.is_divided() => {
                let begin = postgres.pooler_begin.as_deref().unwrap_or("BEGIN");
                let mut other = postgres.clone();
                other.tenancy = Tenancy::named(name, begin);
                Self::Postgres(other)
            }
            undivided => undivided.clone(),
        }
    }

    /// The tenants that have conversations.
    pub(crate) async fn tenants(&self) -> Result<Vec<String>> {
        let system = self.of_system();
        self.names(Query::new(&system, TENANTS)).await
    }

    pub(crate) async fn tenant_of_key(&self, id: Uuid) -> Result<Option<String>> {
        let query = "SELECT tenant FROM agent_api_keys WHERE id = $1";
        Ok(self.names(Query::new(self, query).with(id)).await?.pop())
    }

    pub(crate) async fn tenant_of_conversation(&self, id: Uuid) -> Result<Option<String>> {
        let query = "SELECT tenant FROM agent_conversations WHERE id = $1";
        Ok(self.names(Query::new(self, query).with(id)).await?.pop())
    }

    async fn names(&self, query: Query) -> Result<Vec<String>> {
        let system = self.of_system();
        let rows = retrying!(system, query.clone().rows(&system));
        let names = rows.and_then(|rows| rows.iter().map(|row| row.try_get_by_index(0)).collect());
        names.map_err(|error| storage_error("find tenants", error))
    }

    /// Refuses to work as a role that no policy holds.
    pub(crate) async fn refuse_bypass(&self) -> Result<()> {
        let system = self.of_system();
        let rows = retrying!(system, Query::new(&system, BYPASSES).rows(&system));
        let bypasses = rows.and_then(|rows| match rows.first() {
            Some(row) => row.try_get_by_index(0),
            None => Ok(true),
        });
        if !bypasses.map_err(|error| storage_error("ask for the role", error))? {
            return Ok(());
        }
        let reason = "is true, but row-level security does not hold the role that connects: it is a \
                      superuser or has BYPASSRLS";
        Err(Error::configuration("DB_TENANTS", reason))
    }
}
