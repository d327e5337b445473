//! What lies on a disk whatever room wrote it: logs, and commits of a bucket.

use std::{fs, path::PathBuf, sync::OnceLock};

use tidemill_base::{
    codec::Encoder,
    hash64,
    store::{
        bucket::commit::{Change, Commit, Content, Kind, Piece},
        log::{HEADER_BYTES, LogReader},
    },
};

/// A log: its header, and frames whose checksums are made right as long as the bytes go.
pub fn log(bytes: &[u8]) -> bool {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| std::env::temp_dir().join(format!("tidemill-fuzz-{}.log", std::process::id())));
    let bytes = sealed_log(bytes);
    fs::write(path, &bytes).expect("room for a small file");
    let Ok(mut reader) = LogReader::open_at(path, HEADER_BYTES) else { return false };
    let mut records = 0;
    while let Ok(Some(_)) = reader.next() {
        records += 1;
        assert!(records <= bytes.len(), "it does not end");
    }
    records > 0
}

/// The same log with right checksums, as far as the bytes go.
pub fn sealed_log(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = HEADER_BYTES as usize;
    while let Some(length) = bytes.get(at..).and_then(|frame| frame.first_chunk::<4>()).copied() {
        let length = u32::from_le_bytes(length) as usize;
        let Some(payload) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else { break };
        let check = hash64(payload, length as u64) as u32;
        bytes[at + 4..at + 8].copy_from_slice(&check.to_le_bytes());
        at += 8 + length;
    }
    bytes
}

/// A commit of a bucket, with the checksum of its bytes.
pub fn commit(bytes: &[u8]) -> bool {
    let number = bytes.get(12..20).map_or(0, |n| u64::from_le_bytes(n.try_into().expect("8 bytes")));
    let sealed = [bytes, &hash64(bytes, number).to_le_bytes()].concat();
    let Ok(read) = Commit::decode(&sealed, number, "fuzz") else { return false };
    assert_eq!(Commit::decode(&read.encode(), number, "fuzz").expect("what was read can be written"), read);
    true
}

/// A log of these records, without checksums.
pub fn log_of(format: u32, records: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut out = Encoder::new();
    b"TIDELOG\n".iter().for_each(|byte| _ = out.put_u8(*byte));
    out.put_u32(format).put_u32(0);
    for record in records.iter().map(AsRef::as_ref) {
        out.put_u32(record.len() as u32).put_u32(0);
        record.iter().for_each(|byte| _ = out.put_u8(*byte));
    }
    out.finish()
}

pub fn log_seeds() -> Vec<Vec<u8>> {
    let long = [7; 600];
    let records: [&[u8]; 3] = [b"one", b"", b"three"];
    let whole = [log_of(3, &[b"whole"]), vec![0; 600]].concat();
    vec![log_of(1, &records), log_of(4, &[&long[..], &[0; 20]]), whole]
}

/// Without their checksums.
pub fn commit_seeds() -> Vec<Vec<u8>> {
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
    let full = Kind::Full(vec![1, 4]);
    let commits = [
        Commit { number: 9, owner: 2, newest_full: 3, kind: full, who: "pid 7".into(), changes },
        Commit { number: 1, owner: 1, newest_full: 0, kind: Kind::Claim, who: String::new(), changes: Vec::new() },
    ];
    let unsealed = |commit: &Commit| commit.encode().split_last_chunk::<8>().map(|(body, _)| body.to_vec());
    commits.iter().filter_map(unsealed).collect()
}
