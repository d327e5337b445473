//! Frames: the pieces of a stream that a replica reads, each with its length and a checksum.
//!
//! ```text
//! frame    length of the content u32 | kind u8 | content | check u64, of kind and content
//! ```
//!
//! A frame whose bytes are not what was sent is refused whole; no part of it is looked at.

use tidemill_base::{
    Error, Result,
    codec::{Decoder, Encoder},
    hash::Hasher64,
};
use tidemill_model::delta::Delta;
use tidemill_stream::aggregate::ViewDelta;

use super::{Mark, Start};

/// The newest form of the stream that is understood.
pub const PROTOCOL: u32 = 1;
/// Bytes before the content.
pub const HEAD_BYTES: usize = 5;
/// Bytes behind it.
pub const CHECK_BYTES: usize = 8;
/// Longer content is refused before room is made for it.
pub const CONTENT_BYTES_MAX: usize = 1 << 30;
/// Seeds differ so that no other checksummed bytes pass for a frame.
const SEED: u64 = 3;

/// One piece of a stream.
#[derive(Clone, Debug)]
pub enum Frame {
    /// The first one.
    Hello(Hello),
    /// Bytes of a snapshot; all of them follow each other.
    Part(Vec<u8>),
    /// The snapshot is complete; this is where it stands.
    Whole(Mark),
    /// What changed, and what the model is called behind it.
    Delta(Mark, Delta),
    /// A version was published of exactly what has been sent: its manifest.
    Version(Mark, String),
    /// Nothing is missing up to here.
    Here(Mark),
    /// The stream ends, and why.
    End(String),
    /// What changed in the feature views.
    Views(Mark, Views),
    /// What operators have decided, as [`super::decided::Decided`] writes it; only to who takes it.
    Decided(String),
}

/// Changes of feature views that go with a delta, or their entries on their way with a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Views {
    /// Entries of whole views; all of them follow each other.
    pub is_whole: bool,
    /// The latest event time in them.
    pub newest: i64,
    /// Of each view.
    pub deltas: Vec<ViewDelta>,
}

/// Who sends, and how the stream begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// The model's name.
    pub model: String,
    /// Which history its parameters are of: another one after a start from scratch.
    pub lineage: u64,
    /// Of the program that learns it.
    pub fingerprint: u64,
    /// Where the sender is.
    pub position: u64,
    /// How the stream begins.
    pub start: Start,
    /// The program that learns it: how rows become features.
    pub program: String,
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Part(_) => 2,
            Frame::Whole(_) => 3,
            Frame::Delta(..) => 4,
            Frame::Version(..) => 5,
            Frame::Here(_) => 6,
            Frame::End(_) => 7,
            Frame::Views(..) => 8,
            Frame::Decided(_) => 9,
        }
    }

    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Frame::Hello(h) => {
                out.put_u32(PROTOCOL).put_str(&h.model).put_u64(h.lineage).put_u64(h.fingerprint).put_u64(h.position);
                out.put_u8(match h.start {
                    Start::Resume => 0,
                    Start::Rebase => 1,
                    Start::Snapshot => 2,
                });
                out.put_str(&h.program);
            }
            Frame::Part(bytes) => return framed(self.kind(), bytes),
            Frame::Whole(mark) | Frame::Here(mark) => put_mark(&mut out, mark),
            Frame::Delta(mark, delta) => {
                put_mark(&mut out, mark);
                out.put_bytes(&delta.encode());
            }
            Frame::Version(mark, manifest) => {
                put_mark(&mut out, mark);
                out.put_str(manifest);
            }
            Frame::End(text) | Frame::Decided(text) => _ = out.put_str(text),
            Frame::Views(mark, views) => {
                put_mark(&mut out, mark);
                out.put_u8(u8::from(views.is_whole)).put_i64(views.newest).put_varint(views.deltas.len() as u64);
                views.deltas.iter().for_each(|delta| delta.encode(&mut out));
            }
        }
        framed(self.kind(), out.as_slice())
    }

    /// How many bytes of content the head of a frame announces.
    pub fn content_bytes(head: [u8; HEAD_BYTES]) -> Result<usize> {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        match length <= CONTENT_BYTES_MAX {
            true => Ok(length),
            false => Err(damaged()),
        }
    }

    /// Reads a frame: its head, its content and its checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (Some(head), Some(check)) = (bytes.first_chunk::<HEAD_BYTES>(), bytes.last_chunk::<CHECK_BYTES>()) else {
            return Err(damaged());
        };
        if bytes.len() != HEAD_BYTES + Self::content_bytes(*head)? + CHECK_BYTES {
            return Err(damaged());
        }
        let content = &bytes[HEAD_BYTES..bytes.len() - CHECK_BYTES];
        if checksum(head[4], content) != u64::from_le_bytes(*check) {
            return Err(damaged());
        }
        let mut d = Decoder::new(content, "frame");
        let frame = match head[4] {
            1 => Frame::Hello(read_hello(&mut d)?),
            2 => return Ok(Frame::Part(content.to_vec())),
            3 => Frame::Whole(read_mark(&mut d)?),
            4 => Frame::Delta(read_mark(&mut d)?, Delta::decode(d.bytes()?, "delta")?),
            5 => Frame::Version(read_mark(&mut d)?, d.str()?.to_string()),
            6 => Frame::Here(read_mark(&mut d)?),
            7 => Frame::End(d.str()?.to_string()),
            8 => {
                let (mark, is_whole, newest) = (read_mark(&mut d)?, d.u8()? != 0, d.i64()?);
                let deltas = (0..d.count(1)?).map(|_| ViewDelta::decode(&mut d)).collect::<Result<_>>()?;
                Frame::Views(mark, Views { is_whole, newest, deltas })
            }
            9 => Frame::Decided(d.str()?.to_string()),
            kind => {
                return Err(Error::conflict(format!(
                    "a frame of kind {kind} is newer than this binary; use a newer tidemill"
                )));
            }
        };
        d.end()?;
        Ok(frame)
    }
}

fn framed(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + content.len() + CHECK_BYTES);
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(content);
    out.extend_from_slice(&checksum(kind, content).to_le_bytes());
    out
}

fn checksum(kind: u8, content: &[u8]) -> u64 {
    let mut hasher = Hasher64::new(SEED);
    hasher.update(&[kind]);
    hasher.update(content);
    hasher.finish()
}

fn damaged() -> Error {
    Error::corrupt("a frame is damaged: its length or its checksum does not match")
}

fn put_mark(out: &mut Encoder, mark: &Mark) {
    out.put_u64(mark.position).put_u64(mark.mini_batch).put_u64(mark.version);
}

fn read_mark(d: &mut Decoder) -> Result<Mark> {
    Ok(Mark { position: d.u64()?, mini_batch: d.u64()?, version: d.u64()? })
}

fn read_hello(d: &mut Decoder) -> Result<Hello> {
    let protocol = d.u32()?;
    if protocol != PROTOCOL {
        return Err(Error::conflict(format!(
            "the stream has form {protocol}, this binary reads {PROTOCOL}; use the same tidemill on both sides"
        )));
    }
    Ok(Hello {
        model: d.str()?.to_string(),
        lineage: d.u64()?,
        fingerprint: d.u64()?,
        position: d.u64()?,
        start: match d.u8()? {
            0 => Start::Resume,
            1 => Start::Rebase,
            2 => Start::Snapshot,
            start => {
                return Err(Error::conflict(format!("a stream that begins in way {start} is newer than this binary")));
            }
        },
        program: d.str()?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use tidemill_model::entries::Entries;

    use super::*;

    fn frames() -> Vec<Frame> {
        let mark = Mark { position: 1 << 40, mini_batch: 7, version: 3 };
        let hello = Hello {
            model: "ctr".into(),
            lineage: 5,
            fingerprint: 6,
            position: 1 << 40,
            start: Start::Rebase,
            program: "SELECT".into(),
        };
        let delta =
            Delta { from: 1, to: 2, entries: Entries::pairs([(1, 0.5), (9, 0.0)]), dense: vec![0.5], anew: false };
        vec![
            Frame::Hello(hello),
            Frame::Part(vec![1, 2, 3]),
            Frame::Whole(mark),
            Frame::Delta(mark, delta),
            Frame::Version(mark, "{}".into()),
            Frame::Here(mark),
            Frame::End("the process is stopping".into()),
            Frame::Views(mark, Views { is_whole: true, newest: 5, deltas: vec![ViewDelta::default(); 2] }),
            Frame::Decided("{}".into()),
        ]
    }

    #[test]
    fn every_frame_comes_back() {
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()).unwrap().encode(), frame.encode());
        }
    }

    /// F28: a flipped bit or a missing byte anywhere, and no part of the frame is used.
    #[test]
    fn f28_a_damaged_frame_is_refused_whole() {
        for frame in frames() {
            let bytes = frame.encode();
            for i in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[i] ^= 0x10;
                assert!(Frame::decode(&bad).is_err(), "byte {i} of {frame:?}");
                assert!(Frame::decode(&bytes[..i]).is_err(), "{frame:?} cut at {i}");
            }
        }
    }

    #[test]
    fn a_newer_form_is_refused_by_number() {
        let mut content = Encoder::new();
        content.put_u32(PROTOCOL + 1);
        let message = Frame::decode(&framed(1, content.as_slice())).unwrap_err();
        assert!(message.message().contains("form 2, this binary reads 1"), "{message}");
        assert!(Frame::decode(&framed(99, &[])).unwrap_err().message().contains("kind 99"));
    }
}
