//! memkv benches
fn main() {}
