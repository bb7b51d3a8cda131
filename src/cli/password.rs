//! Passwords of private keys: from the environment, or typed, and then shown nowhere.

use std::io::{BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::failure::Failure;

/// As cosign takes it.
const VARIABLE: &str = "COSIGN_PASSWORD";
/// Bytes of a password that is typed.
const LONGEST: usize = 4 << 10;

/// The password of a key that there is.
pub(super) fn of_key() -> Result<Zeroizing<Vec<u8>>, Failure> {
    match from_environment() {
        Some(password) => Ok(password),
        None => ask("Password of the private key: "),
    }
}

/// A password for a key that is being made, typed twice.
pub(super) fn of_new_key() -> Result<Zeroizing<Vec<u8>>, Failure> {
    if let Some(password) = from_environment() {
        return Ok(password);
    }
    let password = ask("Password for the private key: ")?;
    match *ask("The same once more: ")? == *password {
        true => Ok(password),
        false => Err(Failure::usage("the two passwords are not the same")),
    }
}

fn from_environment() -> Option<Zeroizing<Vec<u8>>> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(VARIABLE).map(|password| Zeroizing::new(password.into_vec()))
}

fn ask(question: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(
            Failure::usage("the private key has a password, and there is no terminal to ask for it on")
                .hint(format!("give it in {VARIABLE}; an empty one counts")),
        );
    }
    let failed = |error: std::io::Error| Failure::environment(format!("cannot ask for the password: {error}"));
    let _quiet = Quiet::begin().map_err(failed)?;
    let mut errors = std::io::stderr();
    write!(errors, "{question}")
        .and_then(|()| errors.flush())
        .map_err(failed)?;
    // Room for all of it at once: a buffer that grows would leave copies behind.
    let mut typed = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut input = std::io::Read::take(input.lock(), LONGEST as u64);
    input.read_until(b'\n', &mut typed).map_err(failed)?;
    let _ = writeln!(errors);
    while matches!(typed.last(), Some(b'\n' | b'\r')) {
        typed.pop();
    }
    Ok(typed)
}

/// What is typed is not shown for as long as this value lives.
struct Quiet(rustix::termios::Termios);

impl Quiet {
    fn begin() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone needs no setting.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
