//! The protocol as its users see it: golden bytes, properties, attacks, and the corpora of the fuzz targets.
#![forbid(unsafe_code)]

mod adversarial;
mod bounds;
mod corpus;
mod document;
mod golden;
mod properties;
mod scenario;
