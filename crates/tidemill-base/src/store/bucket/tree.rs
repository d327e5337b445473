//! The files that a row of commits leads to.
//!
//! In: commits in their order. Out: for every file where its bytes are. A reader keeps what stands in commits; the owner has it
//! in its directory and keeps only how far objects cover a file.

use std::collections::BTreeMap;

use super::commit::{Change, Content, Piece};

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// One that appeared whole.
    Whole(Content),
    /// One that grows.
    Grown(Grown),
}

/// A file that grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grown {
    /// Objects with its first bytes.
    pub pieces: Vec<Piece>,
    /// Its length.
    pub len: u64,
    /// What stands behind the pieces; empty where the owner has it in its directory.
    pub tail: Vec<u8>,
    /// Bytes that were written over those of pieces, in order.
    pub patches: Vec<(u64, Vec<u8>)>,
}

impl Grown {
    /// Bytes that objects hold.
    pub fn covered(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    fn set_len(&mut self, len: u64, keeps_bytes: bool) {
        let mut begin = 0;
        for piece in &mut self.pieces {
            piece.bytes = piece.bytes.min(len.saturating_sub(begin));
            begin += piece.bytes;
        }
        self.pieces.retain(|piece| piece.bytes > 0);
        self.patches.retain_mut(|(at, bytes)| {
            bytes.truncate(len.saturating_sub(*at) as usize);
            !bytes.is_empty()
        });
        self.len = len;
        if keeps_bytes {
            self.tail.resize((len - begin) as usize, 0);
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8], keeps_bytes: bool) {
        let (covered, end) = (self.covered(), at + bytes.len() as u64);
        if at < covered {
            match keeps_bytes {
                true => self.patches.push((at, bytes[..bytes.len().min((covered - at) as usize)].to_vec())),
                // What is written over is stored anew with the next full commit.
                false => {
                    let mut begin = 0;
                    let is_before = |piece: &Piece| {
                        begin += piece.bytes;
                        begin <= at
                    };
                    let kept = self.pieces.iter().map(is_before).take_while(|is| *is).count();
                    self.pieces.truncate(kept);
                }
            }
        }
        if keeps_bytes && end > covered {
            let from = at.max(covered);
            let (begin, stop) = ((from - covered) as usize, (end - covered) as usize);
            if self.tail.len() < stop {
                self.tail.resize(stop, 0);
            }
            self.tail[begin..stop].copy_from_slice(&bytes[(from - at) as usize..]);
        }
        self.len = self.len.max(end);
    }
}

/// All files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// By path.
    pub files: BTreeMap<String, Node>,
}

impl Tree {
    /// Makes a change; `keeps_bytes` says whether bytes in commits are kept. Answers objects that no file needs any more.
    pub fn apply(&mut self, change: &Change, keeps_bytes: bool) -> Vec<String> {
        let mut gone = Vec::new();
        match change {
            Change::Put { path, content } => {
                gone.extend(self.files.insert(path.clone(), Node::Whole(content.clone())));
            }
            Change::Grown { path, pieces, rest } => {
                let covered: u64 = pieces.iter().map(|piece| piece.bytes).sum();
                let mut grown = Grown { pieces: pieces.clone(), len: covered + rest.len() as u64, ..Grown::default() };
                if keeps_bytes {
                    grown.tail.clone_from(rest);
                }
                // Pieces that are in both are not gone.
                if let Some(Node::Grown(before)) = self.files.insert(path.clone(), Node::Grown(grown)) {
                    let kept = |piece: &Piece| pieces.iter().any(|p| p.key == piece.key);
                    return before.pieces.into_iter().filter(|p| !kept(p)).map(|p| p.key).collect();
                }
            }
            Change::Write { path, at, bytes } => {
                let before = self.keys_of(path);
                self.grown(path, &mut gone).write(*at, bytes, keeps_bytes);
                return self.lost(path, before, gone);
            }
            Change::SetLen { path, len } => {
                let before = self.keys_of(path);
                self.grown(path, &mut gone).set_len(*len, keeps_bytes);
                return self.lost(path, before, gone);
            }
            Change::Remove { path } => gone.extend(self.files.remove(path)),
            Change::RemoveDir { path } => {
                let below = format!("{path}/");
                let all = std::mem::take(&mut self.files).into_iter();
                let (out, kept): (BTreeMap<_, _>, _) = all.partition(|(file, _)| file.starts_with(&below));
                self.files = kept;
                gone.extend(out.into_values());
            }
        }
        keys(&gone)
    }

    /// Objects that files need.
    pub fn objects(&self) -> impl Iterator<Item = &Piece> {
        self.files.values().flat_map(pieces)
    }

    fn grown(&mut self, path: &str, gone: &mut Vec<Node>) -> &mut Grown {
        let node = self.files.entry(path.to_string()).or_insert_with(|| Node::Grown(Grown::default()));
        if let Node::Whole(_) = node {
            gone.push(std::mem::replace(node, Node::Grown(Grown::default())));
        }
        match node {
            Node::Grown(grown) => grown,
            Node::Whole(_) => unreachable!("replaced above"),
        }
    }

    fn keys_of(&self, path: &str) -> Vec<String> {
        match self.files.get(path) {
            Some(Node::Grown(grown)) => grown.pieces.iter().map(|p| p.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    fn lost(&self, path: &str, before: Vec<String>, gone: Vec<Node>) -> Vec<String> {
        let now = self.keys_of(path);
        before.into_iter().filter(|key| !now.contains(key)).chain(keys(&gone)).collect()
    }
}

fn pieces(node: &Node) -> &[Piece] {
    match node {
        Node::Whole(Content::Object(piece)) => std::slice::from_ref(piece),
        Node::Whole(Content::Inline(_)) => &[],
        Node::Grown(grown) => &grown.pieces,
    }
}

fn keys(nodes: &[Node]) -> Vec<String> {
    nodes.iter().flat_map(pieces).map(|piece| piece.key.clone()).collect()
}
