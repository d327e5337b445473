//! Pushes that are sent again: what was accepted under a key is not stored twice.
//!
//! In: the `Idempotency-Key` of a push, its source and body. Out: that it is new; the reply of the first time; or a refusal
//! (409) where the body is another one, or the first is still being answered. A push that failed leaves nothing behind, so
//! it may be tried again. The newest keys are remembered, [`KEYS_MAX`] of them and [`BYTES_MAX`] of replies, while the
//! process runs: after a restart a copy is dropped where the source has a `PRIMARY KEY`, and stored where it has none.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use hyper::{HeaderMap, StatusCode};
use ring::digest::{SHA256, digest};
use tidemill_base::Error;

use super::reply::{Refusal, shown};

pub(super) const HEADER: &str = "idempotency-key";
const KEY_BYTES_MAX: usize = 255;
const KEYS_MAX: usize = 65_536;
/// Bytes of keys and replies.
const BYTES_MAX: usize = 16 << 20;

/// The keys of a server.
#[derive(Default)]
pub(super) struct Keys(Mutex<Table>);

#[derive(Default)]
struct Table {
    known: BTreeMap<Id, Entry>,
    /// Those that were answered, oldest first.
    answered: VecDeque<Id>,
    bytes: usize,
}

/// Source and key.
type Id = (String, Vec<u8>);

struct Entry {
    body: [u8; 32],
    /// `None` while it is being answered.
    reply: Option<Bytes>,
}

/// What a key says of a push.
pub(super) enum Begun {
    New(Ticket),
    /// It was answered like this before.
    Before(Bytes),
}

/// A push that is being answered under its key. Dropped without an answer it is forgotten.
pub(super) struct Ticket {
    keys: Arc<Keys>,
    id: Option<Id>,
}

impl Keys {
    /// Looks at the key of a push; `None`: it has none.
    pub fn begin(self: &Arc<Self>, source: &str, headers: &HeaderMap, body: &[u8]) -> Result<Option<Begun>, Refusal> {
        let Some(key) = headers.get(HEADER).map(|key| key.as_bytes()) else { return Ok(None) };
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(Error::invalid(format!("Idempotency-Key: expected 1 to {KEY_BYTES_MAX} bytes")).into());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, body).as_ref());
        let id = (source.to_string(), key.to_vec());
        let mut table = self.table();
        let Some(entry) = table.known.get(&id) else {
            table.known.insert(id.clone(), Entry { body: hash, reply: None });
            return Ok(Some(Begun::New(Ticket { keys: self.clone(), id: Some(id) })));
        };
        let key = shown(&String::from_utf8_lossy(key)).to_string();
        let conflict = |message: String| Refusal::new(StatusCode::CONFLICT, "conflict", message);
        match &entry.reply {
            _ if entry.body != hash => Err(conflict(format!("idempotency key '{key}' came with another body before"))
                .hint("a key stands for one body; take a new one for new events")),
            None => Err(conflict(format!("the first request with idempotency key '{key}' is still being answered"))
                .hint("try again in a moment; you will get its reply")),
            Some(reply) => Ok(Some(Begun::Before(reply.clone()))),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// What was answered, for whoever asks with this key again.
    pub fn answered(mut self, reply: Bytes) {
        let Some(id) = self.id.take() else { return };
        let mut table = self.keys.table();
        table.bytes += weight(&id, &reply);
        if let Some(entry) = table.known.get_mut(&id) {
            entry.reply = Some(reply);
        }
        table.answered.push_back(id);
        while table.answered.len() > KEYS_MAX || table.bytes > BYTES_MAX {
            let Some(oldest) = table.answered.pop_front() else { break };
            if let Some(Entry { reply: Some(reply), .. }) = table.known.remove(&oldest) {
                table.bytes -= weight(&oldest, &reply);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.keys.table().known.remove(&id);
        }
    }
}

fn weight((source, key): &Id, reply: &Bytes) -> usize {
    // The key stands in both lists.
    2 * (source.len() + key.len()) + reply.len() + 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(keys: &Arc<Keys>, key: &str, body: &str) -> Result<Option<Begun>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, key.parse().unwrap());
        keys.begin("clicks", &headers, body.as_bytes())
    }

    fn new(keys: &Arc<Keys>, key: &str, body: &str) -> Ticket {
        match begin(keys, key, body) {
            Ok(Some(Begun::New(ticket))) => ticket,
            _ => panic!("'{key}' is not new"),
        }
    }

    fn refused(keys: &Arc<Keys>, key: &str, body: &str) -> String {
        let refusal = begin(keys, key, body).err().unwrap();
        assert_eq!(
            refusal.status,
            if refusal.code == "conflict" { StatusCode::CONFLICT } else { StatusCode::BAD_REQUEST }
        );
        refusal.message
    }

    #[test]
    fn a_key_is_new_busy_known_or_of_another_body() {
        let keys = Arc::new(Keys::default());
        assert!(keys.begin("clicks", &HeaderMap::new(), b"x").unwrap().is_none());
        let first = new(&keys, "a", "x");
        assert_eq!(refused(&keys, "a", "x"), "the first request with idempotency key 'a' is still being answered");
        assert_eq!(refused(&keys, "a", "y"), "idempotency key 'a' came with another body before");
        first.answered(Bytes::from_static(b"done"));
        assert!(matches!(begin(&keys, "a", "x"), Ok(Some(Begun::Before(reply))) if reply == "done"));
        assert_eq!(refused(&keys, "a", "y"), "idempotency key 'a' came with another body before");
        drop(new(&keys, "b", "x"));
        new(&keys, "b", "y").answered(Bytes::new());
        assert_eq!(refused(&keys, &"k".repeat(256), "x"), "Idempotency-Key: expected 1 to 255 bytes");
    }

    #[test]
    fn the_oldest_keys_are_forgotten_and_the_bytes_come_back() {
        let keys = Arc::new(Keys::default());
        let reply = Bytes::from(vec![0; 1 << 20]);
        (0..20).for_each(|i| new(&keys, &format!("k{i}"), "x").answered(reply.clone()));
        let table = keys.table();
        assert_eq!((table.known.len(), table.answered.len()), (15, 15), "each is a little more than a sixteenth");
        assert_eq!(table.bytes, table.answered.iter().map(|id| weight(id, &reply)).sum::<usize>());
        drop(table);
        assert!(matches!(begin(&keys, "k19", "x"), Ok(Some(Begun::Before(_)))));
        drop(new(&keys, "k0", "y"));
    }
}
