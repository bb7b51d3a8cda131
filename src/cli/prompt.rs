//! Questions to a person at a terminal, and secrets on standard input.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::failure::Failure;

/// No answer is read beyond this many bytes.
const LONGEST: u64 = 64 << 10;
const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// Whether somebody can be asked.
pub(super) fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and gives the answer without its line's end.
pub(super) fn ask(question: &str) -> Result<String, Failure> {
    put(question);
    let mut answer = String::new();
    let mut input = std::io::stdin().lock().take(LONGEST);
    input.read_line(&mut answer).map_err(unreadable)?;
    Ok(answer.trim_end_matches(['\n', '\r']).trim().to_owned())
}

/// Asks for what nobody is to see: the terminal does not show the answer.
pub(super) fn ask_for_secret(question: &str) -> Result<String, Failure> {
    let input = std::io::stdin();
    let _silent = Silence::begin(&input)?;
    put(question);
    let answer = read_secret(&mut input.lock());
    put("\n");
    answer
}

/// All of standard input but the end of its last line.
pub(super) fn secret_from_input() -> Result<String, Failure> {
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(LONGEST + 1);
    let length = input.read_to_string(&mut text).map_err(unreadable)?;
    if length as u64 > LONGEST {
        return Err(Failure::usage(format!(
            "standard input has more than {LONGEST} bytes, which is no password"
        )));
    }
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn put(text: &str) {
    let mut out = std::io::stderr();
    // Nobody need listen.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::usage(format!("standard input cannot be read: {error}"))
}

/// Reads key by key, since the terminal no longer makes lines of them.
fn read_secret(input: &mut impl Read) -> Result<String, Failure> {
    let mut answer = Vec::new();
    let mut key = [0];
    loop {
        let length = match input.read(&mut key) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(unreadable)?,
        };
        match (length, key[0]) {
            (0, _) | (_, b'\n' | b'\r' | END) => break,
            (_, INTERRUPT) => return Err(Failure::usage("cancelled")),
            (_, BACKSPACE | DELETE) => {
                // The whole of a character.
                while answer.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            (_, KILL_LINE) => answer.clear(),
            (_, byte) if (answer.len() as u64) < LONGEST => answer.push(byte),
            _ => {}
        }
    }
    String::from_utf8(answer).map_err(|_| Failure::usage("the answer is not UTF-8"))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silence<'a> {
    terminal: &'a std::io::Stdin,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn begin(terminal: &'a std::io::Stdin) -> Result<Self, Failure> {
        let failed =
            |error: rustix::io::Errno| Failure::environment(format!("the terminal cannot be silenced: {error}"));
        let before = tcgetattr(terminal.as_fd()).map_err(failed)?;
        let mut silent = before.clone();
        // Without ISIG an interrupt comes as a key, so that nothing leaves the terminal silent.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal.as_fd(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // What cannot be set back cannot be helped.
        let _ = tcsetattr(self.terminal.as_fd(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_make_an_answer() {
        let read = |keys: &[u8]| read_secret(&mut &keys[..]).map_err(|failure| failure.message().to_owned());
        for (keys, expected) in [
            (&b"secret\n"[..], "secret"),
            (b"secret\rmore", "secret"),
            (b"no end", "no end"),
            (b"seX\x7fcreX\x08t\n", "secret"),
            ("x\u{e4}\x7f\n".as_bytes(), "x"),
            (b"wrong\x15right\n", "right"),
            (b"\x7f\x7fa\x04b", "a"),
        ] {
            assert_eq!(read(keys).as_deref(), Ok(expected), "{keys:?}");
        }
        assert_eq!(read(b"sec\x03ret\n"), Err("cancelled".into()));
        assert!(read(b"\xff\n").is_err());
    }
}
