//! What a registry finds on a disk, and what a replica reads of the trainer: each with right checksums, so that what they
//! say is looked at.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use tidemill_base::{Kind, StateHash, hash64};
use tidemill_model::{delta::Delta, entries::Entries, snapshot::Snapshot};
use tidemill_serve::{
    follow::{
        Ask, CONTENT_TYPE, Mark, Start,
        client::{Connection, Upstream},
        decided::Decided,
        frame::{CHECK_BYTES, Frame, HEAD_BYTES, Hello, Views},
    },
    registry::{Registry, VersionMeta},
    server::ServedModel,
};
use tidemill_stream::aggregate::ViewDelta;

use crate::serve;

/// Of frames, as docs/0006 has it.
const FRAME_SEED: u64 = 3;
/// Of manifests.
const MANIFEST_SEED: u64 = 2;
const CHECK_KEY: &str = ",\n  \"manifest_xxh3\": \"";

/// The kind of a frame and its content.
pub fn frame(bytes: &[u8]) -> bool {
    let Some(content) = bytes.get(1..) else { return false };
    let length = (content.len() as u32).to_le_bytes();
    let framed = [&length[..], bytes, &hash64(bytes, FRAME_SEED).to_le_bytes()].concat();
    let Ok(read) = Frame::decode(&framed) else { return false };
    let again = Frame::decode(&read.encode()).expect("what was read can be written");
    assert_eq!(read.encode(), again.encode());
    if let Frame::Decided(text) = &read {
        let Ok(decided) = Decided::parse(text) else { return true };
        assert_eq!(Decided::parse(&decided.to_text()).expect("what was read can be written"), decided);
    }
    true
}

/// What the process at the other end answers a replica: its head, then frames whose checksums are made right.
pub fn follow(bytes: &[u8]) -> bool {
    static TRAINER: OnceLock<(Upstream, Mutex<Sender<Vec<u8>>>)> = OnceLock::new();
    let (upstream, answers) = TRAINER.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let (send, answers) = channel::<Vec<u8>>();
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut socket, _)) = listener.accept() else { return };
                // All of the question, and no answer after it is waited for.
                let mut question = [0; 4096];
                let _ = socket.read(&mut question);
                let _ = socket.write_all(&answer);
            }
        });
        (Upstream::new(&address, Some("t"), None).expect("a good token"), Mutex::new(send))
    });
    answers.lock().expect("nobody panics with it").send(sealed_frames(bytes)).expect("it listens");
    let mut connection = match Connection::open(upstream, "ctr", Ask::default()) {
        Ok(connection) => connection,
        Err(e) => {
            assert_ne!(e.kind(), Kind::Internal, "{e}");
            return false;
        }
    };
    let mut frames = 0;
    while let Ok(Some(_)) = connection.next(Duration::from_secs(5)) {
        frames += 1;
        assert!(frames <= bytes.len(), "it does not end");
    }
    frames > 0
}

/// Frames behind a head, as far as the bytes go.
fn sealed_frames(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return bytes };
    let mut at = head + 4;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied() {
        let check = at + HEAD_BYTES + u32::from_le_bytes(length) as usize;
        if bytes.len() < check + CHECK_BYTES {
            break;
        }
        let sum = hash64(&bytes[at + 4..check], FRAME_SEED).to_le_bytes();
        bytes[check..check + CHECK_BYTES].copy_from_slice(&sum);
        at = check + CHECK_BYTES;
    }
    bytes
}

/// What a follower says in the query of its request.
pub fn ask(bytes: &[u8]) -> bool {
    let Some(ask) = std::str::from_utf8(bytes).ok().and_then(Ask::from_query) else { return false };
    assert_eq!(Ask::from_query(&ask.to_query()), Some(ask));
    ask != Ask::default()
}

const FILES: [&str; 4] = ["000001.manifest", "routing.json", "live", "feed.ranking"];

/// A registry with one version, and what each of its files holds otherwise.
fn home() -> &'static (PathBuf, [Option<Vec<u8>>; 4]) {
    static HOME: OnceLock<(PathBuf, [Option<Vec<u8>>; 4])> = OnceLock::new();
    HOME.get_or_init(|| {
        let dir = serve::dir("kept");
        let registry = Registry::open("m", &dir).expect("an empty registry");
        let meta = VersionMeta {
            version: 1,
            mini_batch: 100,
            state_hash: StateHash(7),
            samples: 5000,
            positives: 100,
            logloss: 0.4,
            auc: f64::NAN,
            created_ms: 1_700_000_000_000,
            fingerprint: 5,
            entries: 2,
        };
        let snapshot = Snapshot { entries: Entries::pairs([(1, 0.5), (9, 0.25)]), ..Snapshot::default() };
        registry.add(&meta, &snapshot).expect("room on the disk");
        let there = FILES.map(|name| fs::read(dir.join(name)).ok());
        (dir, there)
    })
}

fn put(path: &Path, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => fs::write(path, bytes).expect("room for a small file"),
        None => drop(fs::remove_file(path)),
    }
}

/// The number of a file of a registry, and what is in it.
pub fn registry(bytes: &[u8]) -> bool {
    let Some((number, content)) = bytes.split_first() else { return false };
    let number = usize::from(*number) % FILES.len();
    let (dir, there) = home();
    let check = format!("{CHECK_KEY}{:016x}\"\n}}\n", hash64(content, MANIFEST_SEED));
    let content = if number == 0 { [content, check.as_bytes()].concat() } else { content.to_vec() };
    put(&dir.join(FILES[number]), Some(&content));
    let taken = open(dir);
    put(&dir.join(FILES[number]), there[number].as_deref());
    taken
}

fn open(dir: &Path) -> bool {
    let registry = match Registry::reading("m", dir) {
        Ok(registry) => Arc::new(registry),
        Err(e) => {
            assert!(matches!(e.kind(), Kind::Corrupt | Kind::Conflict | Kind::Invalid), "{e}");
            return false;
        }
    };
    let loaded = registry.list().iter().filter(|meta| registry.load(meta.version).is_ok()).count();
    let Ok(model) = ServedModel::open(serve::predictor(), registry) else { return false };
    model.to_json();
    let rankings = model.rankings_to_json(None).expect("a list");
    loaded > 0 && !rankings.to_string().contains("damaged")
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let mark = Mark { position: 1 << 40, mini_batch: 7, version: 3 };
    let hello = Hello {
        model: "ctr".into(),
        lineage: 5,
        fingerprint: 6,
        position: 1 << 40,
        start: Start::Rebase,
        program: "SELECT".into(),
    };
    let mut wide = Entries::new(5);
    (1..9u64).for_each(|key| wide.push(key, &[if key % 3 == 0 { 0.0 } else { 0.5 }; 5]));
    let delta = Delta { from: 1, to: 2, entries: wide, dense: vec![0.5], anew: false };
    let mut written = tidemill_base::codec::Encoder::new();
    // One key removed, and an entry of four words.
    written.put_varint(1).put_u64(7).put_varint(4).put_varint(1).put_varint(2);
    written.put_varint(0).put_u32(1).put_varint(3).put_u32(5);
    let changes = ViewDelta::decode(&mut tidemill_base::codec::Decoder::new(written.as_slice(), "seed"));
    let deltas = vec![changes.expect("a change of a view"), ViewDelta::default()];
    let frames = [
        Frame::Hello(hello),
        Frame::Part(vec![1, 2, 3]),
        Frame::Whole(mark),
        Frame::Delta(mark, delta),
        Frame::Version(mark, "{}".into()),
        Frame::Here(mark),
        Frame::End("the process is stopping".into()),
        Frame::Views(mark, Views { is_whole: true, newest: 5, deltas }),
        Frame::Decided(r#"{"live":null,"labels":{},"split":{},"states":{},"rankings":{}}"#.into()),
    ];
    let unsealed = |frame: &Frame| {
        let bytes = frame.encode();
        bytes[HEAD_BYTES - 1..bytes.len() - CHECK_BYTES].to_vec()
    };
    frames.iter().map(unsealed).collect()
}

pub fn follow_seeds() -> Vec<Vec<u8>> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\n\r\n");
    let sealed = |unsealed: Vec<u8>| {
        let length = (unsealed.len() - 1) as u32;
        [&length.to_le_bytes(), &unsealed[..], &[0; CHECK_BYTES]].concat()
    };
    let frames: Vec<u8> = frame_seeds().into_iter().flat_map(sealed).collect();
    let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n{\"error\":{\"message\":\"no\"}}";
    vec![[head.as_bytes(), &frames].concat(), refusal.to_vec()]
}

pub fn ask_seeds() -> Vec<Vec<u8>> {
    let ask = Ask { lineage: 0xabc, position: 1 << 40, mini_batch: 7, takes_decisions: true };
    vec![ask.to_query().into_bytes(), b"position=1&other=2&&mini_batch".to_vec()]
}

pub fn registry_seeds() -> Vec<Vec<u8>> {
    let (_, there) = home();
    let manifest = String::from_utf8(there[0].clone().expect("a version has a manifest")).expect("a text");
    let body = manifest.split_once(CHECK_KEY).expect("its checksum").0;
    let rollout = r#"{"version":1,"stage":1,"plan":{"stages":"1%, 10%, 100%","each":"5s"}}"#;
    let routing = format!(
        r#"{{"format":1,"labels":{{"canary":1}},"split":{{"live":90.0,"canary":10.0}},"rollout":{rollout},
            "verdicts":[{{"at_ms":1,"version":1,"outcome":"rolled back","reason":"logloss: worse"}}]}}"#
    );
    let plain = r#"{"format":1,"labels":{},"split":{},"rollout":null,"verdicts":[]}"#;
    let ranking = r#"{"functions":{"fresh":{"base":"decay_exp","scale":"5d"}},"defaults":{"price":0},"score":"price * 2 + fresh(price)"}"#;
    [
        format!("\0{body}"),
        format!("\u{1}{routing}"),
        format!("\u{1}{plain}"),
        "\u{2}pinned 1\n".into(),
        "\u{2}latest\n".into(),
        format!("\u{3}{ranking}"),
    ]
    .map(String::into_bytes)
    .to_vec()
}
