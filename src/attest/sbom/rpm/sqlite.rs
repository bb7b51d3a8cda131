//! rpm's database in SQLite: one table of packages, each a header.
//!
//! The file is an image's, and so is its schema: it is opened read-only and as one that nobody changes, only a real table
//! is read, no function of the schema runs, and whoever computes for too long is stopped. SQLite, "Defense Against The
//! Dark Arts".

use std::fs::File;
use std::os::fd::AsRawFd;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::super::Broken;

/// Packages that are read.
const MOST_ROWS: usize = 100_000;
/// Bytes of one header.
const LARGEST_HEADER: i32 = 64 << 20;
/// SQLite's instructions between two looks at how much has been done, and how many looks there may be.
const STEP: i32 = 100_000;
const MOST_STEPS: u32 = 10_000;

/// Hands every package's header to `add`.
pub(super) fn each(file: File, add: &mut dyn FnMut(&[u8])) -> Result<(), Broken> {
    rows(&file, add).map_err(|_| Broken::Malformed("SQLite cannot read it"))
}

fn rows(file: &File, add: &mut dyn FnMut(&[u8])) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // By its descriptor: no path of the image is resolved here.
    let address = format!("file:/proc/self/fd/{}?immutable=1", file.as_raw_fd());
    let mut connection = Connection::open_with_flags(address, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.execute_batch("PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0;")?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LARGEST_HEADER)?;
    limit(&mut connection)?;
    let is_table: bool = connection.query_row(
        "SELECT count(*) = 1 FROM sqlite_master WHERE name = 'Packages' AND type = 'table' AND sql NOT LIKE '%virtual%'",
        (),
        |row| row.get(0),
    )?;
    if !is_table {
        return Err(rusqlite::Error::QueryReturnedNoRows);
    }
    let mut statement = connection.prepare("SELECT blob FROM Packages")?;
    let mut rows = statement.query(())?;
    for _ in 0..MOST_ROWS {
        let Some(row) = rows.next()? else { break };
        if let Ok(blob) = row.get_ref(0)?.as_blob() {
            add(blob);
        }
    }
    Ok(())
}

/// Stops who computes for too long.
fn limit(connection: &mut Connection) -> rusqlite::Result<()> {
    let mut steps = 0;
    connection.progress_handler(
        STEP,
        Some(move || {
            steps += 1;
            steps > MOST_STEPS
        }),
    )
}
