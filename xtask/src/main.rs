//! memkv xtask
fn main() {}
