/// One migration of the schema.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Its name.
    pub name: String,
    /// Whether the database has it.
    pub state: MigrationState,
    /// The SQL that it runs.
    pub sql: String,
}

/// Whether a database has a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationState {
    /// It has.
    Applied,
    /// Not yet.
    Pending,
}
