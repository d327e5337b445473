//! What lies in the directory of a job or of a replica and is read when it starts again: checkpoints with their parts, kept
//! lessons, the journal's file, and small files. What can be gone on from can be written again as the same.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, mpsc::sync_channel},
    time::Duration,
};

use tidemill::{
    cli,
    engine::{Engine, Entries, SavedStreams},
    figures,
    job::{Checkpoints, Journal, Lineage, inputs, kept_status, together},
    program,
    replica::Replica,
    signal::Signal,
};
use tidemill_base::{
    Clock, Kind, Result, SystemClock,
    codec::{Decoder, Encoder},
    hash::Hasher64,
    hash64,
    store::data_dir::DataDir,
};
use tidemill_serve::{follow::client::Upstream, registry::Registry, server::Host};
use tidemill_sql::TrainJob;
use tidemill_stream::{
    Chunk, Position,
    journal::{CutRecord, PartitionId, Record},
    source::{Partition, Read, json::JsonDecoder},
};
use tidemill_train::TrainSpec;

use super::base;

/// Of checkpoints and of parts, as this program writes them.
const CHECKPOINT_FORMAT: u32 = 8;
const PART_FORMAT: u32 = 1;
const CHUNK_BYTES: usize = 64 << 10;
const PART_HEADER_BYTES: usize = 36;
const CHUNK_HEAD_BYTES: usize = 12;
/// The mini-batch of all checkpoints here.
const MINI_BATCH: u64 = 1;
/// Blocks of entries of one checkpoint: inputs are small.
const BLOCKS_MAX: usize = 256;

/// A label join, a feature view, and figures by group.
const JOINED: &str =
    "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, person STRING, price DOUBLE, rt AS TO_TIMESTAMP_MS(ts),
       WATERMARK FOR rt AS rt - INTERVAL '1' SECOND) WITH (connector = 'http', idle_timeout = '50ms');
     CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT, rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'http');
     CREATE FEATURE VIEW seen KEYED BY person AS SELECT COUNT(s) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS n,
       MEAN(s.price) OVER DECAY (INTERVAL '1' DAY) AS m FROM shown s;
     SELECT i.*, f.*, (c.imp_id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
       ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
       LEFT JOIN seen FOR SYSTEM_TIME AS OF i.rt f ON f.person = i.person EMIT EARLY INTERVAL '1' MINUTE CORRECT RETRACT
     TO TRAIN FTRLClassifier WITH validate.by = 'person', validate.window = 10
       COLUMN person, BUCKET(price, [1, 2.5]), CROSS([person, n]) LABEL label INTO joined;";
/// Rows as they come, learned from three times.
const PLAIN: &str =
    "CREATE SOURCE rows (person STRING, price DOUBLE, y BIGINT) WITH (connector = 'file', path = '/nowhere.jsonl');
     SELECT person, price, y FROM rows
     TO TRAIN FTRLClassifier WITH train.passes = 3 COLUMN person, price LABEL y INTO plain;";

const EVENTS: [&str; 2] = [
    r#"{"imp_id":1,"ts":1000,"person":"ann","price":2.0,"y":1}
       {"imp_id":2,"ts":2000,"person":"bob","y":0}
       {"imp_id":3,"ts":90000,"person":"ann","price":0.5,"y":1}"#,
    r#"{"imp_id":1,"ts":1500}
       {"imp_id":9,"ts":80000}"#,
];

/// Events, once.
struct Events {
    name: String,
    chunk: Option<Chunk>,
}

impl Partition for Events {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self) -> Result<Read> {
        Ok(self.chunk.take().map_or(Read::Pending, Read::Chunk))
    }

    fn seek(&mut self, _: Position) -> Result<()> {
        self.chunk = None;
        Ok(())
    }
}

/// A bound program, and a directory for what it leaves.
struct Job {
    bound: TrainJob,
    spec: TrainSpec,
    dir: PathBuf,
}

impl Job {
    fn of(text: &str, model: &str, dir: &Path) -> Self {
        let bound = program::train_job(text, model).expect("a program").expect("a job");
        let spec = TrainSpec::from_settings(&bound.learner, &bound.settings).expect("settings that are good");
        Self { bound, spec, dir: dir.to_path_buf() }
    }

    /// An engine that has seen nothing, with its partitions.
    fn engine(&self) -> Engine {
        let mut engine = Engine::new(&self.bound, &self.spec, 1).expect("an engine");
        for (i, (input, events)) in inputs(&self.bound).into_iter().zip(EVENTS).enumerate() {
            let mut decoder = JsonDecoder::new(input.source.columns.clone()).expect("types that it knows");
            events.lines().for_each(|line| decoder.push_line(line.trim().as_bytes()).expect("a good event"));
            let (rows, start) = (decoder.finish(), Position::default());
            let end = Position { offset: rows.num_rows() as u64, bytes: 0 };
            let chunk = Some(Chunk { rows, offsets: None, start, end, refused: Vec::new() });
            engine.sequencer.add_partition(i, Box::new(Events { name: format!("part {i}"), chunk }), false);
        }
        engine
    }

    /// One that has learned from all that is there.
    fn learned(&self) -> Engine {
        let mut engine = self.engine();
        engine.keep_lessons(&self.dir).expect("room for a small file");
        while let Some(cut) = engine.sequencer.cut(false, &[]).expect("rows in memory") {
            engine.mini_batch(&cut, &mut Vec::new()).expect("rows that can be learned from");
        }
        engine
    }

    /// The engine as of the checkpoint in the directory.
    fn restart(&self) -> Result<Engine> {
        let mut engine = self.engine();
        let checkpoints = Checkpoints::reading(&self.dir, self.bound.state_fingerprint);
        let named = checkpoints.parts_of(MINI_BATCH);
        let checkpoint = checkpoints.read(MINI_BATCH)?;
        let parts = [&checkpoint.parts[..], &checkpoint.rows, &checkpoint.views].concat();
        // Without the rest of the file fewer may be seen, and no other.
        assert!(named.is_err() || named.is_ok_and(|named| named == parts));
        let streams = checkpoints.streams(&checkpoint, engine.line.restoring_streams())?;
        let entries = checkpoints.entries(&checkpoint, || engine.line.restoring(&self.spec, 1))?;
        let mut d = Decoder::new(checkpoint.body(), "fuzz");
        let _ = (d.u64()?, d.u64()?, d.u64()?);
        engine.restore(&self.spec, 1, &mut d, entries, streams)?;
        d.end()?;
        Ok(engine)
    }

    /// Goes on from the checkpoint in the directory, and from what is written then; whether it can be.
    fn goes_on(&self) -> bool {
        let mut engine = match self.restart() {
            Ok(engine) => engine,
            Err(e) => {
                assert_ne!(e.kind(), Kind::Internal, "{e}");
                return false;
            }
        };
        let figures = engine.line.learning.trainer().validation().summary();
        figures::groups(&figures.groups, &engine.line.group_names());
        let saved = Saved::of(&mut engine);
        self.put(&saved.content(self), saved.parts.each_ref().map(|chunks| part(self, chunks)));
        let mut again = self.restart().expect("what was read can be written");
        assert_eq!(again.state_hash().expect("it learns"), engine.state_hash().expect("it learns"));
        assert_eq!(Saved::of(&mut again).body, saved.body);
        true
    }

    /// Writes a checkpoint and its parts with right checksums.
    fn put(&self, content: &[u8], parts: [Vec<u8>; 3]) {
        let dir = self.dir.join("checkpoints");
        fs::create_dir_all(&dir).expect("a place for files");
        for (kind, part) in parts.iter().enumerate() {
            fs::write(dir.join(name(kind)), part).expect("room for a small file");
        }
        let mut header = b"TIDECKPT".to_vec();
        header.extend(CHECKPOINT_FORMAT.to_le_bytes());
        for number in [self.bound.state_fingerprint, MINI_BATCH, content.len() as u64] {
            header.extend(number.to_le_bytes());
        }
        let check = hash64(&header, 0);
        let mut file = [&header[..], &check.to_le_bytes()].concat();
        for (i, chunk) in content.chunks(CHUNK_BYTES).enumerate() {
            file.extend(hash64(chunk, check ^ i as u64).to_le_bytes());
            file.extend_from_slice(chunk);
        }
        fs::write(dir.join(format!("{MINI_BATCH:020}.ck")), file).expect("room for a small file");
    }
}

fn name(kind: usize) -> String {
    format!("{MINI_BATCH:020}-{kind}.part")
}

/// What a checkpoint holds: its body, and chunks of a part each of entries, rows and views.
struct Saved {
    body: Vec<u8>,
    parts: [Vec<Vec<u8>>; 3],
}

impl Saved {
    fn of(engine: &mut Engine) -> Self {
        let (blocks, written) = sync_channel(BLOCKS_MAX);
        let (mut out, mut head) = (Encoder::new(), Encoder::new());
        (0..3).for_each(|_| _ = out.put_u64(0));
        let entries = Entries { whole: true, blocks, head: &mut head };
        let (streams, _) = engine.begin_checkpoint(entries, &mut out).expect("it learns");
        engine.line.learning.trainer().finish_checkpoint();
        let SavedStreams { rows, views } = streams;
        let (mut rows, views) = (rows.expect("a label join"), views.expect("a feature view"));
        rows.encode(&mut out);
        let entries = std::iter::once(head.finish()).chain(written.iter().take_while(|block| !block.is_empty()));
        let (mut of_rows, mut of_views) = (vec![rows.head()], vec![views.head()]);
        let mut keep = |block| {
            of_rows.push(block);
            true
        };
        rows.blocks(&mut keep).expect("rows in memory");
        views.blocks(|block| {
            of_views.push(block);
            true
        });
        Self { body: out.finish(), parts: [entries.collect(), of_rows, of_views] }
    }

    /// What stands in the checkpoint's file: the parts' names, lengths and digests, then the body.
    fn content(&self, job: &Job) -> Vec<u8> {
        let parts = self.parts.each_ref().map(|chunks| part(job, chunks));
        content(&parts, &self.body)
    }
}

fn content(parts: &[Vec<u8>; 3], body: &[u8]) -> Vec<u8> {
    let mut out = Encoder::new();
    for (kind, part) in parts.iter().enumerate() {
        out.put_varint(1).put_str(&name(kind)).put_u64(part.len() as u64).put_u64(digest(part));
    }
    [out.as_slice(), body].concat()
}

fn part(job: &Job, chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for chunk in chunks.iter().chain([&Vec::new()]) {
        file.extend((chunk.len() as u32).to_le_bytes());
        file.extend([0; 8]);
        file.extend_from_slice(chunk);
    }
    sealed_part(job, &file)
}

/// A part of these chunks, whose checks are made right as far as the bytes go.
fn sealed_part(job: &Job, chunks: &[u8]) -> Vec<u8> {
    let mut file = b"TIDEPART".to_vec();
    file.extend(PART_FORMAT.to_le_bytes());
    file.extend(job.bound.state_fingerprint.to_le_bytes());
    file.extend(MINI_BATCH.to_le_bytes());
    file.extend(hash64(&file, 0).to_le_bytes());
    file.extend_from_slice(chunks);
    for (number, (at, length)) in chunks_in(&file).into_iter().enumerate() {
        let content = &file[at + CHUNK_HEAD_BYTES..][..length];
        let check = hash64(content, hash64(&file[..PART_HEADER_BYTES], 0) ^ number as u64);
        file[at + 4..][..8].copy_from_slice(&check.to_le_bytes());
    }
    file
}

/// Where the whole chunks of a part stand, up to an empty one, and how long they are.
fn chunks_in(file: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut chunks) = (PART_HEADER_BYTES, Vec::new());
    while let Some(length) = file.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let length = u32::from_le_bytes(*length) as usize;
        if file.len() - at < CHUNK_HEAD_BYTES + length {
            break;
        }
        chunks.push((at, length));
        at += CHUNK_HEAD_BYTES + length;
        if length == 0 {
            break;
        }
    }
    chunks
}

fn digest(file: &[u8]) -> u64 {
    let mut checks = Hasher64::new(hash64(&file[..PART_HEADER_BYTES], 0));
    chunks_in(file).into_iter().for_each(|(at, _)| checks.update(&file[at + 4..][..8]));
    checks.finish()
}

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tidemill-fuzz-job-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a place for files");
    dir
}

/// The job of the label join, and a checkpoint of it.
fn joined() -> (Job, Saved) {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let job = Job::of(JOINED, "joined", &dir(&format!("joined{number}")));
    let saved = Saved::of(&mut job.learned());
    (job, saved)
}

/// What stands in a checkpoint's file behind its checksums: its parts, of which the right ones are there, and its body.
pub fn checkpoint(bytes: &[u8]) -> bool {
    static JOB: OnceLock<(Job, [Vec<u8>; 3])> = OnceLock::new();
    let (job, parts) = JOB.get_or_init(|| {
        let (job, saved) = joined();
        let parts = saved.parts.each_ref().map(|chunks| part(&job, chunks));
        (job, parts)
    });
    job.put(bytes, parts.clone());
    job.goes_on()
}

/// The number of a part of a checkpoint, and its chunks.
pub fn part_of(bytes: &[u8]) -> bool {
    static JOB: OnceLock<(Job, Saved)> = OnceLock::new();
    let (job, saved) = JOB.get_or_init(joined);
    let Some((kind, chunks)) = bytes.split_first() else { return false };
    let mut parts = saved.parts.each_ref().map(|chunks| part(job, chunks));
    parts[usize::from(*kind) % parts.len()] = sealed_part(job, chunks);
    job.put(&content(&parts, &saved.body), parts);
    job.goes_on()
}

/// Kept lessons, learned from; their checksums are made right.
pub fn lessons(bytes: &[u8]) -> bool {
    static JOB: OnceLock<Job> = OnceLock::new();
    let job = JOB.get_or_init(|| Job::of(PLAIN, "plain", &dir("lessons")));
    let mut engine = job.engine();
    fs::write(job.dir.join("features.cache"), base::sealed_log(bytes)).expect("room for a small file");
    let mut learned = 0;
    loop {
        match engine.learn_again(&job.dir) {
            Ok(true) => learned += 1,
            Ok(false) => break,
            Err(e) => {
                assert_ne!(e.kind(), Kind::Internal, "{e}");
                break;
            }
        }
        assert!(learned <= bytes.len(), "it does not end");
    }
    engine.state_hash().expect("it learns");
    learned > 0
}

/// A file of the journal, whose checksums are made right, and what it says done again.
pub fn replay(bytes: &[u8]) -> bool {
    static JOB: OnceLock<Job> = OnceLock::new();
    let job = JOB.get_or_init(|| Job::of(JOINED, "joined", &dir("replay")));
    fs::write(job.dir.join("journal.log"), base::sealed_log(bytes)).expect("room for a small file");
    let mut engine = job.engine();
    let replayed = Journal::read(&job.dir, 0, u64::MAX).and_then(|past| {
        let cuts = past.cuts.len();
        past.cuts.into_iter().try_for_each(|cut| engine.replay(cut, &mut Vec::new()).map(drop)).map(|()| cuts)
    });
    match replayed {
        Ok(cuts) => cuts > 0,
        Err(e) => {
            assert_ne!(e.kind(), Kind::Internal, "{e}");
            false
        }
    }
}

const FILES: [&str; 7] = [
    "models/plain/job/position",
    "models/plain/job/program.sql",
    "models/plain/job/lineage",
    "models/plain/job/status.json",
    "models/plain/job/beside",
    "models/plain/job/stopped.json",
    "format",
];

/// A data directory with one version, as a replica keeps it, and what each of its files holds otherwise.
fn kept() -> &'static (PathBuf, [Option<Vec<u8>>; 7]) {
    static KEPT: OnceLock<(PathBuf, [Option<Vec<u8>>; 7])> = OnceLock::new();
    KEPT.get_or_init(|| {
        let root = dir("kept");
        let data = DataDir::open(&root).expect("an empty directory");
        let job = Job::of(PLAIN, "plain", &dir("plain"));
        let registry = Registry::open("plain", &data.versions("plain").expect("a place")).expect("an empty registry");
        job.learned().version(&registry, 1, job.bound.fingerprint, 1_700_000_000_000).expect("room on the disk");
        let position = format!(
            r#"{{"lineage":"00000000000000ab","fingerprint":"{:016x}","version":1,"position":9,"mini_batch":1,"as_of_ms":7}}"#,
            job.bound.fingerprint
        );
        let of_job = data.job("plain").expect("a place");
        fs::write(of_job.join("program.sql"), PLAIN).expect("room for a small file");
        fs::write(of_job.join("position"), position).expect("room for a small file");
        drop(data);
        let there = FILES.map(|name| fs::read(root.join(name)).ok());
        (root, there)
    })
}

/// The number of a small file of a data directory, and what is in it.
pub fn kept_file(bytes: &[u8]) -> bool {
    let Some((number, content)) = bytes.split_first() else { return false };
    let number = usize::from(*number) % FILES.len();
    let (root, there) = kept();
    let path = root.join(FILES[number]);
    fs::write(&path, content).expect("room for a small file");
    let taken = look_at(root, number);
    match &there[number] {
        Some(bytes) => fs::write(&path, bytes).expect("room for a small file"),
        None => drop(fs::remove_file(&path)),
    }
    match taken {
        Ok(taken) => taken,
        Err(e) => {
            assert!(matches!(e.kind(), Kind::Corrupt | Kind::Conflict | Kind::Invalid), "{e}");
            false
        }
    }
}

fn look_at(root: &Path, number: usize) -> Result<bool> {
    let job = root.join("models/plain/job");
    let clock = SystemClock::new();
    match number {
        0 | 1 => {
            let replica = replica(root)?;
            let (models, status) = (replica.models_json(&|_| true), replica.status());
            replica.metrics();
            Ok(models.len() == 1 && status["warning"].is_null())
        }
        2 => {
            let id = Lineage::id(&job, &clock)?;
            assert_eq!(Lineage::id(&job, &clock).expect("what was read can be written"), id);
            let next = Lineage::begin(&job, &clock)?;
            assert_eq!(next.id, id);
            Ok(true)
        }
        3 => {
            let Some(status) = kept_status::read(&job)? else { return Ok(false) };
            let told = cli::job_in_words(root, "plain")?;
            Ok(told.is_some() && status["model"].is_string())
        }
        4 => Ok(together::leader_of(&job)?.is_some_and(|leader| !leader.is_empty())),
        5 => Ok(together::why_stopped(&job)?.is_some()),
        _ => DataDir::open(root).map(|_| true),
    }
}

fn replica(root: &Path) -> Result<Replica> {
    let upstream = Upstream::new("127.0.0.1:9", None, None)?;
    let (clock, signal): (Arc<dyn Clock>, _) = (Arc::new(SystemClock::new()), Arc::new(Signal::default()));
    Replica::open(upstream, &["plain".to_string()], DataDir::open(root)?, clock, signal, Duration::from_secs(30))
}

/// Without checksums.
pub fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let (job, saved) = joined();
    vec![saved.content(&job)]
}

pub fn part_seeds() -> Vec<Vec<u8>> {
    let (job, saved) = joined();
    let seed = |(kind, chunks): (usize, &Vec<Vec<u8>>)| {
        let file = part(&job, chunks);
        [&[kind as u8], &file[PART_HEADER_BYTES..]].concat()
    };
    saved.parts.iter().enumerate().map(seed).collect()
}

pub fn lesson_seeds() -> Vec<Vec<u8>> {
    let job = Job::of(PLAIN, "plain", &dir("lesson-seeds"));
    let mut engine = job.learned();
    // The first step of the next pass hands the file over.
    engine.learn_again(&job.dir).expect("a second pass");
    vec![fs::read(job.dir.join("features.cache")).expect("it was kept")]
}

pub fn replay_seeds() -> Vec<Vec<u8>> {
    let id = |input| PartitionId { input, partition: 0 };
    let cut = CutRecord { mini_batch: 1, ends: vec![(id(0), 2), (id(1), 1)], ..CutRecord::default() };
    let ends = vec![(id(0), 3), (id(1), 2)];
    let last = CutRecord { mini_batch: 2, ends, idle: vec![(id(1), true)], finished: vec![id(0)], clock_ms: Some(5) };
    let name = |i| format!("part {i}");
    let records = [
        Record::Partition { input: 0, name: name(0), ordered: false },
        Record::Partition { input: 1, name: name(1), ordered: false },
        Record::Opened,
        Record::Cut(cut),
        Record::Cut(last),
    ];
    vec![base::log_of(tidemill_stream::journal::FORMAT, &records.map(|record| record.encode()))]
}

pub fn kept_seeds() -> Vec<Vec<u8>> {
    let (_, there) = kept();
    let seed = |number: u8, content: &[u8]| [&[number], content].concat();
    let status =
        br#"{"model":"plain","state":"running","events":9,"events_per_s":2.5,"pending":3,"as_of_ms":17,"version":1,
        "line":{"steps":[{"step":"source","name":"rows","in":5,"out":4,"dropped":{"late":1},"lateness":{"p99_ms":20},
        "state_bytes":100,"watermark_ms":1700000000000,"pending":2,"notes":[["a","b"]],"waits":{"learner":0.5}}]}}"#;
    vec![
        seed(0, there[0].as_deref().unwrap_or_default()),
        seed(1, PLAIN.as_bytes()),
        seed(2, b"00000000000000ab 3\n"),
        seed(3, status),
        seed(4, b"leader\n"),
        seed(5, br#"{"reason":"a gradient was not finite"}"#),
        seed(6, b"1\n"),
    ]
}
