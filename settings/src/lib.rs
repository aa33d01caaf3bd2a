//! Typed configuration: YAML and environment in, checked fields with their provenance out.
//!
//! A configuration is declared once, with [`section!`]: each field's name, type, default,
//! environment variables, rule and documentation. Everything else derives from that declaration:
//! which keys are known (and which is meant by a misspelt one), how they are read, the table of
//! effective values, the documented example files.
//!
//! ```
//! use memkv_settings::{ByteSize, Environment, LoadOptions, Setting, load, section};
//!
//! section! {
//!     /// Pinned memory.
//!     pub struct Memory {
//!         /// Bytes of the pool.
//!         max_size: Setting<ByteSize> = ByteSize::gib(1), env ["APP_MAX_SIZE"];
//!     }
//! }
//!
//! let yaml = memkv_settings::Document::parse("app.yaml", b"maxSize: 2 GiB\n").unwrap();
//! let loaded = load::<Memory>(Some(&yaml), &Environment::default(), &LoadOptions::default()).unwrap();
//! assert_eq!(loaded.value.max_size.value, ByteSize::gib(2));
//! assert_eq!(loaded.value.max_size.source.to_string(), "app.yaml:1");
//! ```
//!
//! What it promises: every problem of a file is reported, not only the first; a message names
//! field, value, bound and remedy and never holds a secret; memory and time are bounded by the
//! file's size (at most 1 MiB), whatever it holds.
//!
//! What it doesn't do: read the environment (callers hand in an [`Environment`]), or resolve what
//! only the machine knows.
#![forbid(unsafe_code)]

pub mod dev_key;
mod endpoint;
mod environment;
#[doc(hidden)]
pub mod fuzzing;
mod problem;
pub mod reference;
mod render;
mod secret;
mod section;
mod size;
mod source;
mod suggest;
mod value;
mod variables;
pub mod yaml;

pub use endpoint::{check_bind, check_otlp_endpoint};
pub use environment::Environment;
pub use problem::{Problem, Problems, Wrong};
pub use render::{Effective, FieldDoc, effective_json, effective_of, effective_table, field_docs};
pub use secret::{AuthKey, Secret};
pub use section::{
    Check, Field, FieldSpec, LoadOptions, Loaded, Override, Section, SectionReader, Setting,
    Visitor, load, load_all,
};
pub use size::ByteSize;
pub use source::Source;
pub use suggest::nearest;
pub use value::{Choice, Value, range};
pub use variables::{VARIABLES, misspelt_variables};
pub use yaml::Document;

#[doc(hidden)]
pub fn __join(prefix: &str, name: &str) -> String {
    section::join(prefix, name)
}
