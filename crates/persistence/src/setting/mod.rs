//! Settings, each declared once: where it is given, its type and range, its default, what it is
//! for. Reading, `--help`, the README's table and the messages come from the declaration.
//!
//! ```
//! use yai_agentkit_persistence::setting::{Number, Sources, settings};
//!
//! settings! {
//!     /// How a kitchen works.
//!     pub struct Kitchen {
//!         /// how many dishes are cooked at once
//!         pub dishes: u32 = "4", Number { from: 1, to: 9, unit: "dishes" },
//!             "KITCHEN_DISHES", "kitchen.dishes", "kitchen-dishes";
//!     }
//! }
//!
//! # fn main() -> yai_agentkit_core::Result<()> {
//! let mut sources = Sources::new(Kitchen::SETTINGS);
//! sources.variables(|name| (name == "KITCHEN_DISHES").then(|| "12".to_owned()));
//! let error = Kitchen::read(&sources).err().expect("too many");
//! let expected = "KITCHEN_DISHES: `12` is not allowed; it must be a number of dishes from 1 to 9";
//! assert_eq!(error.to_string(), expected);
//! # Ok(()) }
//! ```

mod kind;
mod sources;

pub use crate::settings;
pub use kind::{Choice, Described, FilePath, Kind, Number, Parsed, Seconds, Text, Texts};
pub use sources::{Sources, nearest};

/// What is declared of a setting.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Its environment variable, which names it in the program too; in a table `[key.NAME]` its key.
    pub variable: &'static str,
    /// Its key in `agentkit.toml`, as in `database.url`; empty where it has none. In a table
    /// `[key.NAME]` the key there.
    pub key: &'static str,
    /// Its flag without the dashes; empty where it has none, as what is secret.
    pub flag: &'static str,
    /// The default as one would write it, or as a word says it.
    pub default: &'static str,
    /// What it is for, in one line that begins in lower case.
    pub help: &'static str,
    /// What it may be.
    pub kind: &'static dyn Described,
}

impl Setting {
    /// What it is for and what it may be.
    pub fn description(&self) -> String {
        let help = self.help.trim();
        match self.kind.range() {
            Some(range) => format!("{help}; {range}"),
            None => help.to_owned(),
        }
    }
}

/// Declares settings: a struct with a field for each, `SETTINGS` with what is declared of them, and
/// `read`. A field is `name: type = "default", kind, "VARIABLE", "key", "flag";`, or
/// `name: Option<type> | "what holds without it", kind, …`. Its documentation is its help.
#[macro_export]
macro_rules! settings {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $Name:ident {
            $(
                $(#[doc = $help:literal])+
                $field_visibility:vis $field:ident: $type:ty $(= $default:literal)? $(| $absent:literal)?,
                    $kind:expr, $variable:literal, $key:literal, $flag:literal;
            )*
        }
    ) => {
        $(#[$meta])*
        $visibility struct $Name {
            $( $(#[doc = $help])+ $field_visibility $field: $type, )*
        }

        impl $Name {
            /// What is declared of each.
            $visibility const SETTINGS: &'static [$crate::setting::Setting] = &[
                $( $crate::setting::Setting {
                    variable: $variable,
                    key: $key,
                    flag: $flag,
                    default: concat!($($default)? $($absent)?),
                    help: concat!($($help),+),
                    kind: &$kind,
                }, )*
            ];

            /// Reads all of them.
            $visibility fn read(
                sources: &$crate::setting::Sources,
            ) -> ::yai_agentkit_core::Result<Self> {
                Ok(Self {
                    $( $field: $crate::settings!(@read sources, $variable, $kind, $($default)?), )*
                })
            }
        }
    };
    (@read $sources:ident, $variable:literal, $kind:expr, $default:literal) => {
        $sources.get($variable, &$kind, $default)?
    };
    (@read $sources:ident, $variable:literal, $kind:expr,) => {
        $sources.find($variable, &$kind)?
    };
}
