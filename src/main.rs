//! The `builder` program: see [`builder::cli`].

fn main() {}
