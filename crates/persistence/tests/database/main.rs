//! What a database handle promises beside the contracts: connecting, lost connections, group
//! commit, limits of time, faults, schemas, migrations, TLS, closing. `./test` provides the servers.

mod audit;
mod catalogue;
mod classes;
mod closing;
mod connecting;
mod encryption;
mod faults;
mod fixture;
mod group_commit;
mod limits;
mod lost_connections;
mod migrating;
mod presence;
mod proxy;
mod schemas;
mod sqlite;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod support;
mod tenants;
mod tls;
