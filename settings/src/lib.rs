//! Typed settings with units, provenance and errors that name field, value, bound and remedy.
