//! Names of partitions: which one, where it begins, and where it ends.
//!
//! In and out: `clicks/3@81220` or, for a bounded one, `clicks/3@81220-90000`. What was written is read back as it was.

use std::fmt;

use tidemill_base::{Error, Result};

/// A partition's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionName {
    /// Topic and partition number, or stream and subject.
    pub place: String,
    /// Number of its first event.
    pub first: u64,
    /// Number behind its last event, where it is bounded.
    pub end: Option<u64>,
}

impl PartitionName {
    /// Takes a name apart.
    pub fn parse(name: &str) -> Result<Self> {
        let read = || {
            let (place, range) = name.rsplit_once('@')?;
            let (first, end) = match range.split_once('-') {
                None => (range, None),
                Some((first, end)) => (first, Some(end.parse().ok()?)),
            };
            Some(Self { place: place.to_string(), first: first.parse().ok()?, end })
        };
        read().ok_or_else(|| {
            Error::conflict(format!(
                "partition '{name}' was read before by another connector; put that source back, or start again with \
                 --from-scratch"
            ))
        })
    }
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.place, self.first)?;
        self.end.map_or(Ok(()), |end| write!(f, "-{end}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_a_partition_begins_and_ends() {
        for name in ["clicks/3@81220", "clicks/0@0-90000", "EVENTS/shop.*.clicks@1", "a@b/7@5-5"] {
            assert_eq!(PartitionName::parse(name).unwrap().to_string(), name);
        }
        for bad in ["clicks.csv", "clicks@", "clicks@1-", "clicks@-1"] {
            assert!(PartitionName::parse(bad).is_err(), "{bad}");
        }
    }
}
