//! The `builder` program: see [`builder::cli`].

fn main() {
    // First, while there is one thread: this may be the start of a sandbox.
    builder::executor::sandbox::run_if_sandbox();
}
