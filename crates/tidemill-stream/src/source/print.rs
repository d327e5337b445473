//! The print of a file: by it a restart knows that the bytes it goes on from are the bytes that were read.
//!
//! In: an open file and how many of its first bytes count. Out: a [`Print`] of them. Up to 4 MiB every byte is in it; of
//! more, 64 blocks of 64 KiB, evenly spread, the first and the last among them: enough for a file that was written anew,
//! while a byte changed between the blocks of a large file goes unseen. No clock is asked: a copy put back is as good.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use tidemill_base::{Error, Result, hash64};

use super::{object::is_address, words::thousands};

const BLOCK_BYTES: u64 = 64 << 10;
const BLOCKS_MAX: u64 = 64;

/// What the first bytes of a file were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    /// How many bytes, as they are stored.
    pub bytes: u64,
    /// Their hash (of evenly spread blocks where they are many).
    pub hash: u64,
}

impl Print {
    /// Refuses a partition whose print, taken over as many bytes, is now another.
    pub fn check(self, now: Option<Print>, partition: &str) -> Result<()> {
        let why = match now {
            Some(now) if now == self => return Ok(()),
            Some(now) if now.bytes != self.bytes => {
                format!("it has {} bytes, and had {} when it was read", thousands(now.bytes), thousands(self.bytes))
            }
            Some(_) if is_address(partition) => "it is not the one that was read (its ETag is another)".to_string(),
            Some(now) => format!(
                "its first {} bytes are not those that were read (print {:016x}, now {:016x})",
                thousands(self.bytes),
                self.hash,
                now.hash
            ),
            None => "it was a file when it was read".to_string(),
        };
        let what = if is_address(partition) { "object" } else { "file" };
        Err(Error::conflict(format!(
            "partition '{partition}': the {what} has changed: {why}; \
             put the {what} back, or start again with --from-scratch"
        )))
    }
}

/// The print of the first `bytes` bytes of a file, `None`: of all that are there. Of fewer where the file ends before.
pub(super) fn of(file: &File, path: &Path, bytes: Option<u64>) -> Result<Print> {
    let there = file.metadata().map_err(|e| Error::io("stat", path, e))?.len();
    let bytes = bytes.map_or(there, |b| b.min(there));
    let mut block = vec![0; BLOCK_BYTES as usize];
    let mut hash = bytes;
    for at in places(bytes) {
        let n = BLOCK_BYTES.min(bytes - at) as usize;
        file.read_exact_at(&mut block[..n], at).map_err(|e| Error::io("read", path, e))?;
        hash = hash64(&block[..n], hash);
    }
    Ok(Print { bytes, hash })
}

/// Where the blocks begin.
fn places(bytes: u64) -> impl Iterator<Item = u64> {
    let blocks = bytes.div_ceil(BLOCK_BYTES);
    let spread = blocks > BLOCKS_MAX;
    (0..blocks.min(BLOCKS_MAX)).map(move |i| match spread {
        false => i * BLOCK_BYTES,
        // The product of a length in bytes and a number below 64 fits as long as files are shorter than 2^58 bytes.
        true => i * (bytes - BLOCK_BYTES) / (BLOCKS_MAX - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(bytes: &[u8], of: Option<u64>) -> Print {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("tidemill-print-{}-{}", std::process::id(), bytes.len()));
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        file.write_all(bytes).unwrap();
        let print = super::of(&file, &path, of).unwrap();
        std::fs::remove_file(path).unwrap();
        print
    }

    /// Up to 4 MiB no byte can change unseen; what stands behind the counted bytes changes nothing.
    #[test]
    fn every_byte_of_a_small_file_counts_and_growth_does_not() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let whole = print(&bytes, None);
        assert_eq!(whole.bytes, 200_000);
        for at in [0, 1, 65_535, 65_536, 131_072, 199_999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(print(&other, None), whole, "byte {at}");
        }
        let mut grown = bytes.clone();
        grown.extend_from_slice(b"more");
        assert_eq!(print(&grown, Some(200_000)), whole);
        assert_eq!(print(&bytes[..100_000], Some(200_000)).bytes, 100_000);
    }

    /// Of a large file the blocks cover both ends, so that one whose rows moved is another.
    #[test]
    fn a_large_file_is_looked_at_from_end_to_end() {
        let places: Vec<u64> = places(100 << 20).collect();
        assert_eq!((places.len(), places[0], places[63]), (64, 0, (100 << 20) - BLOCK_BYTES));
        assert!(places.windows(2).all(|w| w[1] - w[0] >= BLOCK_BYTES));
    }
}
