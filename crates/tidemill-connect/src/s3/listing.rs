//! Which objects a source's path means, and how a store is asked for them.
//!
//! In: `s3://BUCKET/` and behind it a pattern, a key, or a prefix. Out: the objects that are there, each with what tells it from
//! any other that had its name before. Empty objects are passed over (consoles and writers leave them as marks), and where
//! all below a prefix is meant, names that begin with `_` or `.`, as is the custom.

use std::sync::Arc;

use futures_util::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as Key};
use tidemill_base::{Error, Result, hash64};
use tidemill_stream::source::{Print, object::SCHEME};

/// What a pattern's `*` does not stand for: the `/` between names.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// The objects that a path means.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub bucket: String,
    /// Where the store is listed: all that can be meant is below.
    below: String,
    which: Which,
}

#[derive(Clone, Debug)]
enum Which {
    /// Keys that match.
    Matching(Pattern),
    /// The object of this key, or all below it.
    At(String),
}

/// An object, as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub key: String,
    pub bytes: u64,
    /// What the store calls its contents, where it does.
    pub tag: Option<String>,
    /// When it came, epoch milliseconds.
    pub came_ms: i64,
}

impl Wanted {
    /// Takes a path apart.
    pub fn parse(path: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::invalid(format!("path '{path}': {why}; write s3://BUCKET/PREFIX or s3://BUCKET/a/*.csv"))
        };
        let rest = path.strip_prefix(SCHEME).unwrap_or(path);
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            // Not the path: it holds a secret.
            return Err(Error::invalid(
                "credentials do not belong into a path; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ));
        }
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || !bucket.chars().all(is_good) {
            return Err(bad("the bucket's name may hold letters, digits, '-', '.', '_'".into()));
        }
        let bucket = bucket.to_string();
        let key = key.trim_end_matches('/');
        let Some(wild) = key.find(['*', '?', '[']) else {
            return Ok(Self { bucket, below: key.to_string(), which: Which::At(key.to_string()) });
        };
        let pattern = Pattern::new(key).map_err(|e| bad(e.to_string()))?;
        let below = key[..wild].rsplit_once('/').map_or("", |(below, _)| below);
        Ok(Self { bucket, below: below.to_string(), which: Which::Matching(pattern) })
    }

    /// The objects that are there now, by key.
    pub async fn list(&self, store: Arc<dyn ObjectStore>) -> object_store::Result<Vec<Found>> {
        if let Which::At(key) = &self.which
            && !key.is_empty()
        {
            match store.head(&Key::parse(key)?).await {
                Ok(meta) => return Ok(self.keep(vec![meta])),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let below = Key::parse(&self.below)?;
        let all: Vec<ObjectMeta> = store.list(Some(&below)).try_collect().await?;
        Ok(self.keep(all))
    }

    fn keep(&self, all: Vec<ObjectMeta>) -> Vec<Found> {
        let wanted = all.into_iter().filter(|meta| meta.size > 0 && self.wants(meta.location.as_ref()));
        let mut found: Vec<Found> = wanted.map(Found::of).collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    fn wants(&self, key: &str) -> bool {
        match &self.which {
            Which::Matching(pattern) => pattern.matches_with(key, MATCHING),
            Which::At(at) => key == at || !key.rsplit('/').next().unwrap_or(key).starts_with(['_', '.']),
        }
    }
}

impl Found {
    fn of(meta: ObjectMeta) -> Self {
        Self {
            key: meta.location.to_string(),
            bytes: meta.size,
            tag: meta.e_tag,
            came_ms: meta.last_modified.timestamp_millis(),
        }
    }

    /// What tells it from any other that had its name before. Where the store has no name for contents, when it came.
    pub fn print(&self) -> Print {
        let hash = match &self.tag {
            Some(tag) => hash64(tag.trim_matches('"').as_bytes(), self.bytes),
            None => hash64(&self.came_ms.to_le_bytes(), self.bytes),
        };
        Print { bytes: self.bytes, hash }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn keys(path: &str, there: &[&str]) -> Vec<String> {
        let wanted = Wanted::parse(path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Arc::new(InMemory::new());
            for key in there {
                let bytes = if key.ends_with(".empty") { "" } else { "x" };
                store.put(&Key::parse(key).unwrap(), bytes.into()).await.unwrap();
            }
            wanted.list(store).await.unwrap().into_iter().map(|found| found.key).collect()
        })
    }

    #[test]
    fn a_path_means_a_key_or_all_below_it_or_what_matches() {
        let there =
            ["a.csv", "d/b.csv", "d/a.csv", "d/e/c.csv", "d/_SUCCESS", "d/.crc", "d/x.empty", "da/z.csv", "d2/a.gz"];
        for (path, expected) in [
            ("s3://b", "a.csv d/a.csv d/b.csv d/e/c.csv d2/a.gz da/z.csv"),
            ("s3://b/d", "d/a.csv d/b.csv d/e/c.csv"),
            ("s3://b/d/", "d/a.csv d/b.csv d/e/c.csv"),
            ("s3://b/d/a.csv", "d/a.csv"),
            ("s3://b/d/_SUCCESS", "d/_SUCCESS"),
            ("s3://b/d/*.csv", "d/a.csv d/b.csv"),
            ("s3://b/d*/a.*", "d/a.csv d2/a.gz"),
            ("s3://b/**/*.csv", "a.csv d/a.csv d/b.csv d/e/c.csv da/z.csv"),
            ("s3://b/d/[a-b].csv", "d/a.csv d/b.csv"),
            ("s3://b/none", ""),
        ] {
            assert_eq!(keys(path, &there).join(" "), expected, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_none_is_refused_with_the_way_to_write_it() {
        for (path, why) in [("s3://", "the bucket's name"), ("s3:///x", "the bucket's name"), ("s3://b/[", "error")] {
            let e = Wanted::parse(path).unwrap_err();
            assert!(e.message().contains(why) && e.message().contains("s3://BUCKET/PREFIX"), "{path}: {e}");
        }
        let e = Wanted::parse("s3://key:hush@b/x").unwrap_err();
        assert!(e.message().contains("do not belong") && !e.message().contains("hush"), "{e}");
    }
}
