//! memkv cli
fn main() {}
