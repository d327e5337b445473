//! Entries in the order of their keys that are found without being read in: lines of 64 bytes, each with five places.
//!
//! A key's home is the line that its bits point to, when all keys are spread over the homes in proportion. Entries stand in
//! the order of their keys, each in its home or, where that is full, behind it. So a look-up reads one line mostly, all
//! entries are read in order from front to end, and what is written depends on the entries only.
//!
//! ```text
//! line   five keys u64, 0 where a place is free | five words u32: the parameter's bits, or the number of the row | 0 u32
//! ```

use std::io::{self, Write};

/// Bytes of a line.
pub(crate) const LINE_BYTES: usize = 64;
const PLACES: usize = 5;
/// Entries a home has on average: enough room that few stand behind their home.
const ENTRIES_PER_HOME: u64 = 4;
const WORDS_AT: usize = PLACES * 8;

pub(crate) type Line = [u8; LINE_BYTES];

/// How many homes so many entries have.
pub(crate) fn homes(entries: u64) -> u64 {
    entries.div_ceil(ENTRIES_PER_HOME).max(1)
}

#[inline(always)]
pub(crate) fn home(key: u64, homes: u64) -> usize {
    ((u128::from(key) * u128::from(homes)) >> 64) as usize
}

/// Where each key stands, in their order: the number of its place, counted through all lines.
fn places(keys: &[u64], homes: u64) -> impl Iterator<Item = u64> + '_ {
    let mut next = 0;
    keys.iter().map(move |key| {
        let place = (home(*key, homes) as u64 * PLACES as u64).max(next);
        next = place + 1;
        place
    })
}

/// Lines that these keys take. The last ones may lie behind the last home.
pub(crate) fn count(keys: &[u64]) -> u64 {
    let homes = homes(keys.len() as u64);
    places(keys, homes).last().map_or(homes, |last| homes.max(last / PLACES as u64 + 1))
}

/// Writes the lines of ascending keys and their words.
pub(crate) fn write(keys: &[u64], word: impl Fn(usize) -> u32, out: &mut dyn Write) -> io::Result<()> {
    let mut line: Line = [0; LINE_BYTES];
    let mut number = 0;
    for (i, place) in places(keys, homes(keys.len() as u64)).enumerate() {
        while number < place / PLACES as u64 {
            out.write_all(&line)?;
            line = [0; LINE_BYTES];
            number += 1;
        }
        let at = (place % PLACES as u64) as usize;
        line[at * 8..at * 8 + 8].copy_from_slice(&keys[i].to_le_bytes());
        line[WORDS_AT + at * 4..WORDS_AT + at * 4 + 4].copy_from_slice(&word(i).to_le_bytes());
    }
    let end = count(keys);
    while number < end {
        out.write_all(&line)?;
        line = [0; LINE_BYTES];
        number += 1;
    }
    Ok(())
}

/// The keys and words of a line, as far as its places are taken.
pub(crate) fn entries(line: &Line) -> impl Iterator<Item = (u64, u32)> + '_ {
    (0..PLACES).map(|at| (key_at(line, at), word_at(line, at))).take_while(|(key, _)| *key != 0)
}

/// What a line says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Word(u32),
    Absent,
    /// The line is full of smaller keys.
    Behind,
}

/// Looks a key up in a line.
#[inline(always)]
pub(crate) fn find(line: &Line, key: u64) -> Found {
    for at in 0..PLACES {
        if key_at(line, at) == key {
            return Found::Word(word_at(line, at));
        }
    }
    match key_at(line, PLACES - 1) {
        last if last == 0 || last > key => Found::Absent,
        _ => Found::Behind,
    }
}

#[inline(always)]
fn key_at(line: &Line, at: usize) -> u64 {
    let (keys, _) = line.as_chunks::<8>();
    u64::from_le_bytes(keys[at])
}

#[inline(always)]
fn word_at(line: &Line, at: usize) -> u32 {
    let (words, _) = line[WORDS_AT..].as_chunks::<4>();
    u32::from_le_bytes(words[at])
}

#[cfg(test)]
mod tests {
    use tidemill_base::{Rng, rng::mix64};

    use super::*;

    fn look_up(lines: &[u8], keys: usize, key: u64) -> Option<u32> {
        let (lines, rest) = lines.as_chunks::<LINE_BYTES>();
        assert!(rest.is_empty());
        for line in lines.iter().skip(home(key, homes(keys as u64))) {
            match find(line, key) {
                Found::Word(word) => return Some(word),
                Found::Absent => return None,
                Found::Behind => {}
            }
        }
        None
    }

    fn check(keys: &[u64], absent: impl Iterator<Item = u64>) {
        let mut bytes = Vec::new();
        write(keys, |i| i as u32 + 7, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, count(keys) * LINE_BYTES as u64);
        for (i, key) in keys.iter().enumerate() {
            assert_eq!(look_up(&bytes, keys.len(), *key), Some(i as u32 + 7), "{key:x}");
        }
        for key in absent.filter(|key| keys.binary_search(key).is_err()) {
            assert_eq!(look_up(&bytes, keys.len(), key), None, "{key:x}");
        }
        let read: Vec<u64> = bytes.as_chunks::<LINE_BYTES>().0.iter().flat_map(entries).map(|(key, _)| key).collect();
        assert_eq!(read, keys, "in their order");
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        for n in [0, 1, 4, 5, 6, 1000, 100_000] {
            let mut keys: Vec<u64> = (0..n).map(|i| mix64(i) | 1).collect();
            keys.sort_unstable();
            keys.dedup();
            check(&keys, (0..1000).map(|i| mix64(1 << 40 | i) | 1));
        }
    }

    /// Keys that all have one home, at the front, in the middle and at the very end: lines behind the last home are made.
    #[test]
    fn crowded_homes_run_over_in_order() {
        let mut rng = Rng::seeded(5);
        for begin in [1, 1 << 63, u64::MAX - 999] {
            let keys: Vec<u64> = (0..1000).map(|i| begin + i).collect();
            check(&keys, (0..1000).map(|_| rng.next_u64() | 1));
        }
    }
}
