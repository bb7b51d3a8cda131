//! Which parts of a block are worth being compressed: noise (compressed or encrypted files, as a rule) is stored.
//!
//! Whole numbers only, and nothing but the bytes themselves: the same answer on every machine.

/// What is judged at a time.
pub(super) const CELL: usize = 16 << 10;
/// Shorter noise is compressed with what is around it: to change over costs more than it saves.
const SHORTEST_NOISE: usize = 2;
/// Of each cell, this many stretches of so many bytes are counted.
const STRETCHES: usize = 4;
const STRETCH: usize = 1 << 10;
/// How far deflate looks back.
const REACH: usize = 32 << 10;
/// Places that are remembered when repetitions are looked for, one in so many bytes.
const STEP: usize = 16;
const PLACES: usize = 4096;
/// Stretches that are looked up in these places.
const LOOKED_UP: usize = 256;

/// A part of a block, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub start: usize,
    pub end: usize,
    pub noise: bool,
}

/// Divides a block into noise and the rest.
pub(super) fn parts(block: &[u8]) -> Vec<Part> {
    let cells: Vec<bool> = (0..block.len())
        .step_by(CELL)
        .map(|start| is_noise(block, start))
        .collect();
    let mut parts: Vec<Part> = Vec::new();
    let mut cell = 0;
    while cell < cells.len() {
        let run = cells[cell..].iter().take_while(|noise| **noise == cells[cell]).count();
        let noise = cells[cell] && run >= SHORTEST_NOISE;
        let (start, end) = (cell * CELL, block.len().min((cell + run) * CELL));
        match parts.last_mut() {
            Some(last) if last.noise == noise => last.end = end,
            _ => parts.push(Part { start, end, noise }),
        }
        cell += run;
    }
    parts
}

fn is_noise(block: &[u8], start: usize) -> bool {
    let cell = &block[start..block.len().min(start + CELL)];
    // A cell at the end of a block may be short: too little to be judged.
    cell.len() == CELL && is_even(cell) && !repeats(block, start)
}

/// Whether all bytes are about equally frequent. Of two bytes taken at random from noise one in 256 pairs is alike; of
/// anything that loses a thousandth when it is compressed, more.
fn is_even(cell: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    for stretch in 0..STRETCHES {
        let start = stretch * (CELL / STRETCHES);
        for byte in &cell[start..start + STRETCH] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let counted = (STRETCHES * STRETCH) as u64;
    let alike: u64 = counts
        .iter()
        .map(|count| u64::from(*count) * u64::from(count.saturating_sub(1)))
        .sum();
    // Six hundredths more than by chance; chance itself strays by half a hundredth.
    alike * 256 * 100 <= counted * (counted - 1) * 106
}

/// Whether something in the cell was there shortly before: even bytes repeated are no noise.
fn repeats(block: &[u8], start: usize) -> bool {
    let from = start.saturating_sub(REACH);
    let window = &block[from..start + CELL];
    let mut places = [0u16; PLACES];
    for at in (STEP..window.len() - 8).step_by(STEP) {
        let place = &mut places[slot(window, at)];
        // The first of equal ones: the last may be the one that is looked up.
        *place = if *place == 0 { at as u16 } else { *place };
    }
    let cell = start - from;
    [cell + CELL / 4, cell + CELL * 3 / 4].into_iter().any(|stretch| {
        (stretch..stretch + LOOKED_UP).any(|at| {
            let place = usize::from(places[slot(window, at)]);
            place != 0 && place != at && window[place..place + 8] == window[at..at + 8]
        })
    })
}

/// Where eight bytes are remembered.
fn slot(window: &[u8], at: usize) -> usize {
    let mut eight = [0; 8];
    eight.copy_from_slice(&window[at..at + 8]);
    (u64::from_le_bytes(eight).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The same noise every time.
    pub(in crate::export::compress) fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(next).collect()
    }

    fn is_all(block: &[u8], noise: bool) -> bool {
        parts(block).iter().all(|part| part.noise == noise)
    }

    #[test]
    fn noise_is_noise_and_nothing_else_is() {
        let noise = noise(1 << 20);
        assert!(is_all(&noise, true));
        let compressed = zstd::encode_all(
            noise
                .iter()
                .map(|byte| b"etaoin shrdlu.\n"[usize::from(*byte) % 15])
                .collect::<Vec<_>>()
                .as_slice(),
            3,
        )
        .unwrap();
        assert!(compressed.len() > 4 * CELL);
        assert!(is_all(&compressed[..compressed.len() / CELL * CELL], true));
        let text: Vec<u8> = noise.iter().map(|byte| byte % 64 + 32).collect();
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let numbers: Vec<u8> = (0u32..200_000)
            .flat_map(|number| (number * 7919).to_le_bytes())
            .collect();
        for other in [&text, &program[..1 << 20], &numbers, &vec![0; 1 << 20]] {
            assert!(
                parts(other)
                    .iter()
                    .filter(|part| part.noise)
                    .map(|part| part.end - part.start)
                    .sum::<usize>()
                    * 20
                    < other.len()
            );
        }
    }

    #[test]
    fn noise_that_repeats_is_none() {
        for length in [300, 1000, 4096, 10_000, 30_000] {
            let piece = noise(length);
            let block: Vec<u8> = piece.iter().copied().cycle().take(1 << 20).collect();
            let parts = parts(&block);
            let stored: usize = parts
                .iter()
                .filter(|part| part.noise)
                .map(|part| part.end - part.start)
                .sum();
            assert!(stored <= 2 * CELL, "{length}: {parts:?}");
        }
    }

    #[test]
    fn parts_cover_the_block_in_their_order() {
        let (noise, text) = (noise(1 << 20), vec![b'a'; 1 << 20]);
        for length in [0, 1, CELL - 1, CELL, 7 * CELL + 3, 1 << 20] {
            let block: Vec<u8> = (0..length)
                .map(|at| if at / 50_000 % 2 == 0 { noise[at] } else { text[at] })
                .collect();
            let parts = parts(&block);
            let mut end = 0;
            for part in &parts {
                assert!(part.start == end && part.end > part.start);
                end = part.end;
            }
            assert_eq!(end, length);
            assert!(parts.windows(2).all(|two| two[0].noise != two[1].noise));
        }
    }
}
