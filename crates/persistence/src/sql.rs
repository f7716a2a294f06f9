//! Our own statements: a text whose parameters are counted as they are bound.
//!
//! A text that stands as it is, is an [`Sql`]; its values are bound in the order of their numbers.
//! One that is made of fragments is written to a [`Query`], where [`bind`](Query::bind) gives each
//! value its [`Parameter`]: nobody writes a number. What the calls send in the end stands in the
//! directory `sql`, see `golden`.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write},
};

use chrono::{DateTime, SecondsFormat, Utc};
use sea_orm::{DbErr, Statement};
use sea_query_sqlx::SqlxValues;
use sqlx::{
    Arguments as _, Encode, IntoArguments, Postgres, Sqlite, Type, error::BoxDynError,
    postgres::PgArguments, sqlite::SqliteArguments,
};

use crate::{connection::Connection, error::from_sqlx};

/// A statement on both databases. Both number their parameters `$1`, `$2`, ….
#[derive(Clone, Copy)]
pub(crate) struct Sql {
    pub(crate) postgres: &'static str,
    pub(crate) sqlite: &'static str,
}

impl Sql {
    /// One text for both.
    pub(crate) const fn same(sql: &'static str) -> Self {
        Self {
            postgres: sql,
            sqlite: sql,
        }
    }

    pub(crate) fn on(self, connection: &Connection) -> &'static str {
        if connection.is_postgres() {
            self.postgres
        } else {
            self.sqlite
        }
    }

    /// The statement, without values yet.
    pub(crate) fn query(self, connection: &Connection) -> Query {
        Query::new(connection, self.on(connection))
    }
}

/// A statement with its values.
#[derive(Clone)]
#[must_use]
pub(crate) struct Query {
    text: Cow<'static, str>,
    arguments: Arguments,
    /// A value that could not be encoded.
    error: Option<DbErr>,
    /// As they are declared to PostgreSQL.
    #[cfg(test)]
    types: Vec<String>,
}

#[derive(Clone)]
enum Arguments {
    Postgres(PgArguments),
    Sqlite(SqliteArguments),
}

/// Where a value stands in a text, in any number of places.
#[derive(Clone, Copy)]
pub(crate) struct Parameter(usize);

impl Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.0)
    }
}

/// A value that both databases store.
pub(crate) trait Bind<'q>:
    Encode<'q, Postgres> + Type<Postgres> + Encode<'q, Sqlite> + Type<Sqlite>
{
}

impl<'q, T> Bind<'q> for T where
    T: Encode<'q, Postgres> + Type<Postgres> + Encode<'q, Sqlite> + Type<Sqlite>
{
}

impl Query {
    /// On the database of `connection`.
    pub(crate) fn new(connection: &Connection, text: impl Into<Cow<'static, str>>) -> Self {
        let arguments = if connection.is_postgres() {
            Arguments::Postgres(PgArguments::default())
        } else {
            Arguments::Sqlite(SqliteArguments::default())
        };
        Self::with_arguments(text.into(), arguments)
    }

    /// An empty one for PostgreSQL.
    pub(crate) fn on_postgres() -> Self {
        // Most of ours fit.
        let text = String::with_capacity(3072);
        Self::with_arguments(text.into(), Arguments::Postgres(PgArguments::default()))
    }

    /// What SeaORM has made.
    pub(crate) fn of(connection: &Connection, statement: Statement) -> Self {
        let values = statement.values.map(|values| values.0).unwrap_or_default();
        #[cfg(test)]
        let types = values.iter().map(|value| match value {
            sea_orm::Value::String(_) => "text".to_owned(),
            // The server finds out.
            _ => "unknown".to_owned(),
        });
        #[cfg(test)]
        let types = types.collect();
        let values = SqlxValues(sea_orm::sea_query::Values(values));
        let arguments = if connection.is_postgres() {
            Arguments::Postgres(IntoArguments::<Postgres>::into_arguments(values))
        } else {
            Arguments::Sqlite(IntoArguments::<Sqlite>::into_arguments(values))
        };
        Self {
            #[cfg(test)]
            types,
            ..Self::with_arguments(statement.sql.into(), arguments)
        }
    }

    fn with_arguments(text: Cow<'static, str>, arguments: Arguments) -> Self {
        Self {
            text,
            arguments,
            error: None,
            #[cfg(test)]
            types: Vec::new(),
        }
    }

    /// Adds to the text.
    pub(crate) fn push(&mut self, text: impl Display) -> &mut Self {
        let written = write!(self.text.to_mut(), "{text}");
        written.expect("a string takes any text");
        self
    }

    /// The same, of what need not be formatted, which costs several times as much.
    pub(crate) fn push_str(&mut self, text: &str) -> &mut Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// The parameter of `value`.
    pub(crate) fn bind<'q, T: Bind<'q>>(&mut self, value: T) -> Parameter {
        #[cfg(test)]
        self.declare::<T>();
        let bound = match &mut self.arguments {
            Arguments::Postgres(arguments) => arguments.add(value),
            Arguments::Sqlite(arguments) => arguments.add(value),
        };
        self.bound(bound)
    }

    /// Adds `value` where the text has got to. On SQLite by its place, which is cheaper to find.
    pub(crate) fn push_bind<'q>(&mut self, value: impl Bind<'q>) -> &mut Self {
        let parameter = self.bind(value);
        match self.arguments {
            Arguments::Postgres(_) => self.push(parameter),
            Arguments::Sqlite(_) => self.push_str("?"),
        }
    }

    /// The parameter of a time: on SQLite a text whose order is that of time.
    pub(crate) fn bind_time(&mut self, time: DateTime<Utc>) -> Parameter {
        if self.is_for_postgres() {
            self.bind(time)
        } else {
            self.bind(time_text(time))
        }
    }

    /// With the next value of a text that stands as it is.
    pub(crate) fn with<'q>(mut self, value: impl Bind<'q>) -> Self {
        self.bind(value);
        self
    }

    /// The parameter of an array of what `column` takes from each of `rows`; on PostgreSQL.
    pub(crate) fn column<'q, R, T>(
        &mut self,
        rows: impl IntoIterator<Item = R>,
        column: impl Fn(R) -> T,
    ) -> Parameter
    where
        Vec<T>: Encode<'q, Postgres> + Type<Postgres>,
    {
        #[cfg(test)]
        self.declare::<Vec<T>>();
        let bound = match &mut self.arguments {
            Arguments::Postgres(arguments) => {
                arguments.add(rows.into_iter().map(column).collect::<Vec<_>>())
            }
            Arguments::Sqlite(_) => Err("SQLite has no arrays".into()),
        };
        self.bound(bound)
    }

    fn bound(&mut self, bound: Result<(), BoxDynError>) -> Parameter {
        if let Err(error) = bound {
            let error = from_sqlx(sqlx::Error::Encode(error));
            self.error.get_or_insert(error);
        }
        Parameter(match &self.arguments {
            Arguments::Postgres(arguments) => arguments.len(),
            Arguments::Sqlite(arguments) => arguments.len(),
        })
    }

    pub(crate) fn is_for_postgres(&self) -> bool {
        matches!(self.arguments, Arguments::Postgres(_))
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text and the values for PostgreSQL.
    pub(crate) fn for_postgres(self) -> Result<(Cow<'static, str>, PgArguments), DbErr> {
        match (self.error, self.arguments) {
            (Some(error), _) => Err(error),
            (None, Arguments::Postgres(arguments)) => Ok((self.text, arguments)),
            (None, Arguments::Sqlite(_)) => Err(of_another_database()),
        }
    }

    /// The text and the values for SQLite.
    pub(crate) fn for_sqlite(self) -> Result<(Cow<'static, str>, SqliteArguments), DbErr> {
        match (self.error, self.arguments) {
            (Some(error), _) => Err(error),
            (None, Arguments::Sqlite(arguments)) => Ok((self.text, arguments)),
            (None, Arguments::Postgres(_)) => Err(of_another_database()),
        }
    }
}

/// A time as SQLite holds it.
pub(crate) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn of_another_database() -> DbErr {
    DbErr::Custom("the statement is for the other database".to_owned())
}

#[cfg(test)]
impl Query {
    fn declare<T: Type<Postgres>>(&mut self) {
        use sqlx::TypeInfo;
        self.types.push(T::type_info().name().to_owned());
    }

    /// As they are declared to PostgreSQL.
    pub(crate) fn types(&self) -> &[String] {
        &self.types
    }

    /// With `prefix` before the text.
    pub(crate) fn prefixed(mut self, prefix: &str) -> Self {
        self.text = format!("{prefix} {}", self.text).into();
        self
    }
}
