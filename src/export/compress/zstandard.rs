//! zstd, always in its multi-threaded mode: one worker and several give the same bytes.

use std::io::{self, Write};

use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder;
use zstd::zstd_safe::Strategy;

/// No level of zstd's own, but the program's default.
pub(super) const DEFAULT: i32 = 0;
/// Levels above would take windows that readers need not accept, and memory in proportion: RFC 8878 section 3.1.1.1.2
/// recommends 8 MiB.
const LAST_OF_SMALL_WINDOWS: i32 = 19;
const LARGEST_WINDOW: u32 = 23;
/// Each has a piece of the input.
const MOST_THREADS: usize = 64;

/// An encoder into `out`.
///
/// # Errors
/// When zstd refuses the level.
pub(super) fn encoder<W: Write>(level: i32, threads: usize, out: W) -> io::Result<Encoder<'static, W>> {
    let mut encoder = Encoder::new(out, level)?;
    if level == DEFAULT {
        set_default(&mut encoder)?;
    }
    if level > LAST_OF_SMALL_WINDOWS {
        encoder.window_log(LARGEST_WINDOW)?;
    }
    encoder.multithread(threads.min(MOST_THREADS) as u32)?;
    Ok(encoder)
}

/// The quick way of level 2 with a window of 4 MiB instead of one: layers are made of many files that are alike. It takes
/// four fifths of level 3's time for the same size, within three hundredths, and keeps pieces of 8 MiB for each thread.
fn set_default<W: Write>(encoder: &mut Encoder<'static, W>) -> io::Result<()> {
    for parameter in [
        CParameter::Strategy(Strategy::ZSTD_fast),
        CParameter::WindowLog(22),
        CParameter::HashLog(17),
        CParameter::MinMatch(6),
        CParameter::TargetLength(1),
        CParameter::JobSize(8 << 20),
        // Half of the window of the piece before.
        CParameter::OverlapSizeLog(8),
    ] {
        encoder.set_parameter(parameter)?;
    }
    Ok(())
}
