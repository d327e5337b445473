//! How much a shard may hold, from what the table may.
//!
//! Every shard has its own share, decided before the first key comes, so that what fits does not depend on how shards are
//! kept in parts. The shares are such that all that is ever taken stays below `bytes_max`: pages, rows, directories, the
//! lists of what changed, sketches.

use tidemill_base::{Error, Result};

use super::{
    SHARDS, TableSpec,
    bucket::{PAGE_PLACES, PAGES_MAX},
    packed::Packed,
    rows::stride,
};

/// Keys for each page that a list of changed keys has room for.
pub(super) const CHANGED_PER_PAGE: usize = 32;
/// Keys for each page that the list of removed keys has room for: one in twelve may leave before it is too long.
pub(super) const REMOVED_PER_PAGE: usize = 128;
/// A page, its share of the directory while that doubles (192), of the lists, of which there are two for changed keys, and
/// of what is known of each page.
const PAGE_BYTES: usize =
    PAGE_PLACES * size_of::<Packed>() + 192 + (2 * CHANGED_PER_PAGE + REMOVED_PER_PAGE) * size_of::<u64>() + 32;
/// What a shard takes without any entry.
const SHARD_BYTES: usize = 1_024;
/// A bucket is at least 53% full once it has two pages.
const ENTRIES_PER_PAGE: usize = PAGE_PLACES * 53 / 100;
/// 2^32 places in 64 shards.
const SHARD_PAGES_MAX: usize = (1 << 32) / SHARDS / PAGE_PLACES - 1;

/// Bytes that an entry of so many words takes at most, where there are many: its row, and its share of a page.
pub fn bytes_of_entry(words: usize) -> usize {
    let row = if words > 2 { stride(words) * size_of::<f32>() + 2 * size_of::<u32>() } else { 0 };
    row + PAGE_BYTES.div_ceil(ENTRIES_PER_PAGE)
}

/// What one shard may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries_max: usize,
    pub(super) pages_max: usize,
    /// Bits of its directory. Two beyond what even keys need: uneven ones make it deeper.
    pub(super) depth_max: u32,
}

impl Limits {
    pub(super) fn of(spec: &TableSpec) -> Result<Self> {
        let share = spec.bytes_max / SHARDS;
        let fixed = SHARD_BYTES + spec.sketch_bytes / SHARDS;
        let room = share.saturating_sub(fixed);
        let mut entries_max = (spec.entries_max / SHARDS).max(1);
        let mut pages = room / PAGE_BYTES;
        let row = stride(spec.words) * size_of::<f32>() + 2 * size_of::<u32>();
        let per_row = bytes_of_entry(spec.words);
        if spec.words > 2 {
            let beside = room.saturating_sub(PAGE_BYTES);
            entries_max = entries_max.min(beside / per_row);
            pages = room.saturating_sub(entries_max * row) / PAGE_BYTES;
        }
        if pages == 0 || entries_max == 0 {
            let least = (fixed + PAGE_BYTES + if spec.words > 2 { per_row } else { 0 }) * SHARDS;
            return Err(Error::invalid(format!(
                "train.bytes_max = {} is too little for the parameter table; give it at least {least}",
                spec.bytes_max
            )));
        }
        // Addresses are reserved for four times what even keys would take.
        let pages_max = pages.min(entries_max / (PAGE_PLACES / 4) + PAGES_MAX + 5).min(SHARD_PAGES_MAX);
        Ok(Self { entries_max, pages_max, depth_max: pages_max.next_power_of_two().trailing_zeros() + 2 })
    }
}
