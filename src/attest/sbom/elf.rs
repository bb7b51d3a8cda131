//! Programs that tell what they are made of: sections that Go and `cargo auditable` put into ELF files.
//!
//! System V ABI, "Object Files". Only headers are read, and the two sections; every offset is an image's word, and
//! nothing is believed that does not fit into the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::package::Package;
use super::{Broken, cargo, go};
use crate::snapshot::{ContainerPath, Rootfs};

const MAGIC: &[u8] = b"\x7fELF";
/// Sections of a file that are looked at.
const MOST_SECTIONS: u64 = 4096;
/// Bytes of the names of sections.
const LARGEST_NAMES: u64 = 1 << 20;
/// Bytes of a section that is read.
const LARGEST_SECTION: u64 = 16 << 20;

/// A section: where its bytes are in the file, and where in memory.
#[derive(Clone, Copy)]
struct Section {
    name: u64,
    address: u64,
    offset: u64,
    size: u64,
}

/// An ELF file.
pub(super) struct Elf {
    file: File,
    wide: bool,
    big: bool,
    sections: Vec<Section>,
    names: Vec<u8>,
}

/// The packages that a program was made of; none where it does not tell.
pub(super) fn read(view: &Rootfs, path: &ContainerPath) -> Result<Vec<Package>, Broken> {
    // What is no ELF file is nobody's mistake, and neither is one with odd headers.
    let Some(elf) = view.open_regular(path).ok().and_then(Elf::open) else {
        return Ok(Vec::new());
    };
    if let Some(section) = elf.section(b".go.buildinfo") {
        return Ok(go::packages(&elf, &section, path));
    }
    match elf.section(b".dep-v0") {
        Some(section) => cargo::audited(&section, path),
        None => Ok(Vec::new()),
    }
}

impl Elf {
    fn open(file: File) -> Option<Self> {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0).ok()?;
        if !head.starts_with(MAGIC) {
            return None;
        }
        let mut elf = Self {
            file,
            wide: head[4] == 2,
            big: head[5] == 2,
            sections: Vec::new(),
            names: Vec::new(),
        };
        let (table, sizes) = match elf.wide {
            true => (elf.number(&head[0x28..0x30]), &head[0x3a..0x40]),
            false => (elf.number(&head[0x20..0x24]), &head[0x2e..0x34]),
        };
        let entry = elf.number(&sizes[..2]);
        let count = elf.number(&sizes[2..4]).min(MOST_SECTIONS);
        let names = elf.number(&sizes[4..6]);
        let expected = if elf.wide { 64 } else { 40 };
        if entry != expected {
            return None;
        }
        let headers = elf.bytes(table, count * entry)?;
        let sections = headers.chunks_exact(usize::try_from(entry).ok()?);
        elf.sections = sections.map(|header| elf.header(header)).collect();
        let names = elf.sections.get(usize::try_from(names).ok()?)?;
        elf.names = elf.bytes(names.offset, names.size.min(LARGEST_NAMES))?;
        Some(elf)
    }

    fn header(&self, header: &[u8]) -> Section {
        let part = |from: usize, to: usize| self.number(&header[from..to]);
        match self.wide {
            true => Section {
                name: part(0, 4),
                address: part(0x10, 0x18),
                offset: part(0x18, 0x20),
                size: part(0x20, 0x28),
            },
            false => Section {
                name: part(0, 4),
                address: part(0xc, 0x10),
                offset: part(0x10, 0x14),
                size: part(0x14, 0x18),
            },
        }
    }

    /// A number of the file's own byte order.
    pub(super) fn number(&self, bytes: &[u8]) -> u64 {
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self.big {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }

    /// Bytes that must be in the file.
    fn bytes(&self, offset: u64, size: u64) -> Option<Vec<u8>> {
        let length = self.file.metadata().ok()?.len();
        if size > LARGEST_SECTION || offset.checked_add(size)? > length {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// The content of the section that is called so.
    fn section(&self, name: &[u8]) -> Option<Vec<u8>> {
        let is_called = |section: &&Section| {
            let start = usize::try_from(section.name).ok()?;
            let own = self.names.get(start..)?;
            (own.starts_with(name) && own.get(name.len()) == Some(&0)).then_some(())
        };
        let found = self.sections.iter().find(|section| is_called(section).is_some())?;
        self.bytes(found.offset, found.size)
    }

    /// What lies at an address in memory, from there to the section's end or as far as it is wanted.
    pub(super) fn at(&self, address: u64, size: u64) -> Option<Vec<u8>> {
        let holds = |section: &&Section| {
            section.address != 0 && address >= section.address && address - section.address < section.size
        };
        let section = self.sections.iter().find(holds)?;
        let start = address - section.address;
        let size = size.min(section.size - start);
        self.bytes(section.offset.checked_add(start)?, size)
    }

    /// How many bytes an address has.
    pub(super) fn width(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }
}
