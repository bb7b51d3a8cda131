//! Which processor a program is for, and whether this machine runs programs for another.
//!
//! Owns what is read of ELF headers (elf(5)) and of the kernel's table of emulators (binfmt_misc). The kernel decides what
//! runs; this module says why it refused, and foresees that it will.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::oci::Platform;

/// As much of an ELF file as says what it is for.
const HEADER: usize = 20;
/// `e_type` of a program, as opposed to a library.
const EXECUTABLE: u8 = 2;
/// A handler's file is a few lines; more than this is none.
const LONGEST_HANDLER: u64 = 4096;
/// Handlers that are looked at, at most.
const MOST_HANDLERS: usize = 1024;
/// Where the kernel shows its emulators.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// Processors as OCI has them, as their users call them, and as ELF headers have them: class (1: 32 bits, 2: 64 bits), byte
/// order (1: little, 2: big), `e_machine`.
const PROCESSORS: [(&str, &str, u8, u8, u16); 16] = [
    ("386", "i386", 1, 1, 3),
    ("amd64", "x86_64", 2, 1, 62),
    ("arm", "arm", 1, 1, 40),
    ("arm64", "aarch64", 2, 1, 183),
    ("loong64", "loongarch64", 2, 1, 258),
    ("mips", "mips", 1, 2, 8),
    ("mipsle", "mipsel", 1, 1, 8),
    ("mips64", "mips64", 2, 2, 8),
    ("mips64le", "mips64el", 2, 1, 8),
    ("ppc64", "ppc64", 2, 2, 21),
    ("ppc64le", "ppc64le", 2, 1, 21),
    ("riscv", "riscv32", 1, 1, 243),
    ("riscv64", "riscv64", 2, 1, 243),
    ("s390x", "s390x", 2, 2, 22),
    ("sparc", "sparc", 1, 2, 2),
    ("sparc64", "sparc64", 2, 2, 43),
];

/// Whether programs for a platform run here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runs {
    /// They do, by the machine itself or by an emulator.
    Yes,
    /// No emulator is registered with the kernel.
    No,
    /// It is not to be seen from here.
    Unknown,
}

/// Whether programs for `platform` run here. What is unknown is best tried.
pub fn runs(platform: &Platform) -> Runs {
    runs_with(platform, &Platform::host(), Path::new(HANDLERS))
}

fn runs_with(platform: &Platform, host: &Platform, handlers: &Path) -> Runs {
    // Many processors run the programs of their 32-bit predecessors: those are tried.
    let own = [
        (host.architecture.as_str(), host.architecture.as_str()),
        ("amd64", "386"),
        ("arm64", "arm"),
    ];
    if own.contains(&(&host.architecture, &platform.architecture)) {
        return Runs::Yes;
    }
    let Some(header) = header(&platform.architecture) else {
        return Runs::Unknown;
    };
    match read_bounded(&handlers.join("status")).as_deref() {
        Some("enabled\n") => {}
        Some(_) => return Runs::No,
        // Not mounted here. The kernel may have emulators all the same: those of a container's host.
        None => return Runs::Unknown,
    }
    let Ok(entries) = std::fs::read_dir(handlers) else {
        return Runs::Unknown;
    };
    let mut handlers = entries.take(MOST_HANDLERS).flatten();
    let serves = |text: String| serves(&text, &header);
    match handlers.any(|entry| read_bounded(&entry.path()).is_some_and(serves)) {
        true => Runs::Yes,
        false => Runs::No,
    }
}

/// The beginning of a program for `architecture`.
fn header(architecture: &str) -> Option<[u8; HEADER]> {
    let (.., class, order, machine) = *PROCESSORS.iter().find(|(name, ..)| *name == architecture)?;
    let mut header = [0; HEADER];
    header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
    let (kind, machine) = match order {
        1 => ([EXECUTABLE, 0], machine.to_le_bytes()),
        _ => ([0, EXECUTABLE], machine.to_be_bytes()),
    };
    header[16..18].copy_from_slice(&kind);
    header[18..].copy_from_slice(&machine);
    Some(header)
}

fn read_bounded(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(LONGEST_HANDLER).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether the kernel would give a file that begins so to this handler.
fn serves(handler: &str, header: &[u8]) -> bool {
    let value = |name: &str| {
        let mut lines = handler.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let Some(magic) = value("magic").and_then(bytes_of) else {
        return false;
    };
    let mask = value("mask").and_then(bytes_of);
    let offset: usize = value("offset").and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some(bytes) = header.get(offset..).and_then(|rest| rest.get(..magic.len())) else {
        return false;
    };
    let mask = mask.unwrap_or_else(|| vec![0xff; magic.len()]);
    let same = |((byte, magic), mask): ((&u8, &u8), &u8)| byte & mask == magic & mask;
    handler.starts_with("enabled\n") && bytes.iter().zip(&magic).zip(&mask).all(same)
}

/// Of hexadecimal digits.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(byte).collect()
}

/// The processor that a program is for, where that is another than this machine's; of a script, its interpreter's.
pub(super) fn foreign(program: &[u8]) -> Option<String> {
    let (mut begin, read) = beginning(program)?;
    if begin[..read].starts_with(b"#!") {
        begin = beginning(interpreter(&begin[..read])?)?.0;
    }
    processor(&begin).filter(|name| name != std::env::consts::ARCH)
}

/// The program that runs a script which begins so.
pub(super) fn interpreter(begin: &[u8]) -> Option<&[u8]> {
    let line = begin.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t'));
    words.find(|word| !word.is_empty())
}

/// Whether a file that begins so is a program of the kernel's own format.
pub(super) fn is_elf(begin: &[u8]) -> bool {
    begin.starts_with(b"\x7fELF")
}

/// The processor that a program which begins so is for, where this machine's does not run it either.
pub(super) fn foreign_header(begin: &[u8]) -> Option<String> {
    let own = [
        std::env::consts::ARCH,
        if cfg!(target_arch = "x86_64") { "i386" } else { "arm" },
    ];
    processor(begin).filter(|name| !own.contains(&name.as_str()))
}

/// Whether the kernel may know programs of other formats than its own.
pub(super) fn has_emulators() -> bool {
    let handlers = std::fs::read_dir(HANDLERS).into_iter().flatten().flatten();
    handlers
        .into_iter()
        .any(|entry| read_bounded(&entry.path()).is_some_and(|text| text.starts_with("enabled\n") && text.len() > 8))
}

fn beginning(path: &[u8]) -> Option<([u8; 256], usize)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut begin = [0; 256];
    let mut read = 0;
    while read < begin.len() {
        match file.read(&mut begin[read..]) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some((begin, read))
}

/// The processor of an ELF file that begins so.
fn processor(begin: &[u8]) -> Option<String> {
    let (identity, machine) = (begin.get(..16)?, begin.get(18..HEADER)?);
    let rest = identity.strip_prefix(b"\x7fELF")?;
    let (class, order) = (rest[0], rest[1]);
    let machine = [machine[0], machine[1]];
    let machine = match order {
        2 => u16::from_be_bytes(machine),
        _ => u16::from_le_bytes(machine),
    };
    let known = PROCESSORS
        .iter()
        .find(|(.., of, by, number)| (*of, *by, *number) == (class, order, machine));
    Some(match known {
        Some((_, name, ..)) => (*name).to_owned(),
        None => format!("another processor (ELF machine {machine})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel shows what Debian's qemu-user-static registers for aarch64.
    const AARCH64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn programs_say_what_they_are_for() {
        for (oci, name, ..) in PROCESSORS {
            assert_eq!(processor(&header(oci).unwrap()).as_deref(), Some(name));
        }
        assert_eq!(processor(b"\x7fELF"), None);
        assert_eq!(processor(b"MZ\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), None);
        let itanium = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x32\0";
        assert_eq!(processor(itanium).unwrap(), "another processor (ELF machine 50)");
        assert_eq!(foreign(b"/proc/self/exe"), None);
        assert_eq!(foreign(b"/dev/null"), None);
        assert_eq!(foreign(b"/nonexistent"), None);
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, itanium).unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, format!("#! {} -e\nmore", program.display())).unwrap();
        for path in [program, script] {
            let said = foreign(path.to_str().unwrap().as_bytes());
            assert_eq!(said.as_deref(), Some("another processor (ELF machine 50)"));
        }
    }

    #[test]
    fn emulators_are_known_by_what_they_match() {
        let directory = tempfile::tempdir().unwrap();
        let [amd64, arm64, riscv64] = ["linux/amd64", "linux/arm64", "linux/riscv64"].map(|text| {
            let platform: Platform = text.parse().unwrap();
            platform
        });
        let on_amd64 = |platform: &Platform| runs_with(platform, &amd64, directory.path());
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(on_amd64(&amd64), Runs::Yes);
        assert_eq!(on_amd64(&"linux/386".parse().unwrap()), Runs::Yes);
        assert_eq!(on_amd64(&arm64), Runs::Unknown, "the table is not mounted");
        write("status", "enabled\n");
        write("register", "");
        assert_eq!(on_amd64(&arm64), Runs::No);
        write("by-another-name", AARCH64);
        write(
            "python",
            "enabled\ninterpreter /usr/bin/python3\nflags: \nextension .py\n",
        );
        assert_eq!(on_amd64(&arm64), Runs::Yes);
        assert_eq!(on_amd64(&riscv64), Runs::No);
        assert_eq!(on_amd64(&"linux/nosuch".parse().unwrap()), Runs::Unknown);
        write("by-another-name", &AARCH64.replacen("enabled", "disabled", 1));
        assert_eq!(on_amd64(&arm64), Runs::No);
        for hostile in [
            "offset 99999999999999999999",
            "offset 18446744073709551615",
            "magic 7",
            "mask ff",
        ] {
            let name = hostile.split(' ').next().unwrap();
            let line = AARCH64.lines().find(|line| line.starts_with(name)).unwrap();
            write("by-another-name", &AARCH64.replace(line, hostile));
            on_amd64(&arm64);
        }
        write("by-another-name", AARCH64);
        write("status", "disabled\n");
        assert_eq!(on_amd64(&arm64), Runs::No);
    }
}
