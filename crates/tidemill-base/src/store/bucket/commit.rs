//! What one commit says: files that appeared, grew, shrank and went, together and at once.
//!
//! In: changes of files below a directory. Out: the bytes of one object, and back. Layout: magic `TIDEKEPT`, format u32,
//! number u64, owner u64, newest full commit u64, kind u8, who str, then changes, then xxh3 of all that, seeded with the
//! number. A damaged commit is refused, as is one under another's number.

use crate::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash64,
};

const MAGIC: &[u8; 8] = b"TIDEKEPT";
const FORMAT: u32 = 1;

/// An object that holds a file's bytes, or a piece of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub key: String,
    /// How many of its bytes count, from its beginning.
    pub bytes: u64,
    /// Bytes in it.
    pub stored: u64,
    /// Hash of them.
    pub hash: u64,
}

/// What is in a file that never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// So little that it stands in the commit.
    Inline(Vec<u8>),
    /// An object.
    Object(Piece),
}

/// A change of one file; paths are relative to the directory, with `/` between names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file is there whole, in place of what was there.
    Put {
        /// The file.
        path: String,
        /// What is in it.
        content: Content,
    },
    /// Bytes go into a file that grows.
    Write {
        /// The file.
        path: String,
        /// Where they begin.
        at: u64,
        /// What they are.
        bytes: Vec<u8>,
    },
    /// A file that grows is cut off, or created.
    SetLen {
        /// The file.
        path: String,
        /// Its length from now on.
        len: u64,
    },
    /// A file goes.
    Remove {
        /// The file.
        path: String,
    },
    /// Everything below a directory goes.
    RemoveDir {
        /// The directory.
        path: String,
    },
    /// A file that grows as it is now; in full commits.
    Grown {
        /// The file.
        path: String,
        /// Objects with its bytes, one behind the other.
        pieces: Vec<Piece>,
        /// What stands behind them.
        rest: Vec<u8>,
    },
}

/// What a commit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files changed.
    Changes,
    /// All files stand in it, and the numbers of all claims before it: nothing else before it is needed any more.
    Full(Vec<u64>),
    /// A new owner: whoever wrote before finds its next number taken.
    Claim,
}

/// One commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number, from 1 without gaps; as in its name.
    pub number: u64,
    /// Which owner wrote it; the first is 1.
    pub owner: u64,
    /// The newest full commit before it; 0 where there is none.
    pub newest_full: u64,
    /// What it is for.
    pub kind: Kind,
    /// Who the owner is, for people; differs for any two processes.
    pub who: String,
    /// What changed, in this order.
    pub changes: Vec<Change>,
}

impl Commit {
    /// The commit as an object.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        MAGIC.iter().for_each(|byte| _ = out.put_u8(*byte));
        out.put_u32(FORMAT).put_u64(self.number).put_u64(self.owner).put_u64(self.newest_full);
        match &self.kind {
            Kind::Changes => _ = out.put_u8(0),
            Kind::Full(claims) => {
                out.put_u8(1).put_varint(claims.len() as u64);
                claims.iter().for_each(|claim| _ = out.put_u64(*claim));
            }
            Kind::Claim => _ = out.put_u8(2),
        }
        out.put_str(&self.who).put_varint(self.changes.len() as u64);
        self.changes.iter().for_each(|change| change.encode(&mut out));
        let check = hash64(out.as_slice(), self.number);
        out.put_u64(check);
        out.finish()
    }

    /// Reads the commit of this number; `name` is the object's.
    pub fn decode(bytes: &[u8], number: u64, name: &str) -> Result<Self> {
        let damaged = || Error::corrupt(format!("{name} is not what was written: its checksum does not match"));
        let (body, check) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
        let mut d = Decoder::new(body, name);
        if d.take(8).ok() != Some(MAGIC) {
            return Err(Error::corrupt(format!("{name} is not a commit of tidemill")));
        }
        let format = d.u32()?;
        if format > FORMAT {
            return Err(Error::conflict(format!("{name}: format {format} is newer than this binary ({FORMAT})")));
        }
        if hash64(body, number) != u64::from_le_bytes(*check) || d.u64()? != number {
            return Err(damaged());
        }
        let (owner, newest_full) = (d.u64()?, d.u64()?);
        let kind = match d.u8()? {
            0 => Kind::Changes,
            1 => {
                let claims = d.count(8)?;
                Kind::Full((0..claims).map(|_| d.u64()).collect::<Result<_>>()?)
            }
            2 => Kind::Claim,
            other => return Err(Error::corrupt(format!("{name}: kind {other} of a commit is not known"))),
        };
        let who = d.str()?.to_string();
        let changes = d.count(2)?;
        let changes = (0..changes).map(|_| Change::decode(&mut d, name)).collect::<Result<_>>()?;
        d.end()?;
        Ok(Self { number, owner, newest_full, kind, who, changes })
    }
}

impl Change {
    fn encode(&self, out: &mut Encoder) {
        match self {
            Change::Put { path, content: Content::Inline(bytes) } => _ = out.put_u8(0).put_str(path).put_bytes(bytes),
            Change::Put { path, content: Content::Object(piece) } => piece.encode(out.put_u8(1).put_str(path)),
            Change::Write { path, at, bytes } => _ = out.put_u8(2).put_str(path).put_u64(*at).put_bytes(bytes),
            Change::SetLen { path, len } => _ = out.put_u8(3).put_str(path).put_u64(*len),
            Change::Remove { path } => _ = out.put_u8(4).put_str(path),
            Change::RemoveDir { path } => _ = out.put_u8(5).put_str(path),
            Change::Grown { path, pieces, rest } => {
                out.put_u8(6).put_str(path).put_varint(pieces.len() as u64);
                pieces.iter().for_each(|piece| piece.encode(out));
                out.put_bytes(rest);
            }
        }
    }

    fn decode(d: &mut Decoder, name: &str) -> Result<Self> {
        let kind = d.u8()?;
        let path = d.str()?.to_string();
        let is_good = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_good || path.contains(['\\', '\0']) {
            return Err(Error::corrupt(format!("{name}: '{}' is not the name of a file", path.escape_default())));
        }
        Ok(match kind {
            0 => Change::Put { path, content: Content::Inline(d.bytes()?.to_vec()) },
            1 => Change::Put { path, content: Content::Object(Piece::decode(d)?) },
            2 => Change::Write { path, at: d.u64()?, bytes: d.bytes()?.to_vec() },
            3 => Change::SetLen { path, len: d.u64()? },
            4 => Change::Remove { path },
            5 => Change::RemoveDir { path },
            6 => {
                let pieces = d.count(25)?;
                let pieces = (0..pieces).map(|_| Piece::decode(d)).collect::<Result<_>>()?;
                Change::Grown { path, pieces, rest: d.bytes()?.to_vec() }
            }
            other => return Err(Error::corrupt(format!("{name}: kind {other} of a change is not known"))),
        })
    }
}

impl Piece {
    fn encode(&self, out: &mut Encoder) {
        out.put_str(&self.key).put_u64(self.bytes).put_u64(self.stored).put_u64(self.hash);
    }

    fn decode(d: &mut Decoder) -> Result<Self> {
        Ok(Self { key: d.str()?.to_string(), bytes: d.u64()?, stored: d.u64()?, hash: d.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Commit {
        let piece = Piece { key: "objects/1-1".into(), bytes: 7, stored: 9, hash: 11 };
        let path = String::from("models/ctr/job/journal.log");
        let changes = vec![
            Change::Put { path: "format".into(), content: Content::Inline(b"1\n".to_vec()) },
            Change::Put { path: path.clone(), content: Content::Object(piece.clone()) },
            Change::Write { path: path.clone(), at: 16, bytes: vec![1, 2, 3] },
            Change::SetLen { path: path.clone(), len: 0 },
            Change::Remove { path: path.clone() },
            Change::RemoveDir { path: "models/ctr/job".into() },
            Change::Grown { path, pieces: vec![piece.clone(), piece], rest: vec![5; 40] },
        ];
        Commit { number: 9, owner: 2, newest_full: 3, kind: Kind::Full(vec![1, 4]), who: "pid 7".into(), changes }
    }

    #[test]
    fn a_commit_comes_back_as_it_was_and_damage_is_found() {
        let commit = one_of_each();
        let bytes = commit.encode();
        assert_eq!(Commit::decode(&bytes, 9, "commits/9").unwrap(), commit);
        assert!(Commit::decode(&bytes, 8, "commits/8").unwrap_err().message().contains("checksum"), "another's place");
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Commit::decode(&bad, 9, "commits/9").is_err(), "flip at {at}");
            assert!(Commit::decode(&bytes[..at], 9, "commits/9").is_err(), "cut at {at}");
        }
    }

    /// A path in a bucket is not believed: nothing is written outside the directory.
    #[test]
    fn a_path_that_leads_out_is_refused() {
        for path in ["../x", "/etc/passwd", "a/../../x", "", "a//b", "."] {
            let mut commit = one_of_each();
            commit.changes = vec![Change::Remove { path: path.into() }];
            let e = Commit::decode(&commit.encode(), 9, "commits/9").unwrap_err();
            assert!(e.message().contains("is not the name of a file"), "{path}: {e}");
        }
    }
}
