//! SQLite fails at each statement of a unit of work and of what is written together: nothing half is
//! stored, what was acknowledged stays, and the only writer goes on at once.

mod process;
mod sqlite;
mod work;
