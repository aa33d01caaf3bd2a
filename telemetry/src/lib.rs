//! Names and shapes of everything memkv emits.
