//! What a bucket promises: what was durable comes back in any other directory, whatever got lost on the way, and of two owners
//! one is told that it is none.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    super::{
        atomic_file,
        log::Log,
        objects::{Answer, Memory, Objects},
    },
    *,
};
use crate::{Kind, Rng};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidemill-bucket-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn own(store: &Arc<Memory>, dir: &Path, who: &str) -> Bucket {
    Bucket::own(store.clone(), dir, who, Box::new(|_| ())).unwrap()
}

/// Ends an owner as a kill does: what waits goes nowhere.
fn kill(bucket: Bucket, store: &Memory) {
    store.set_trouble(Some(Box::new(|_| Answer::Away)));
    drop(bucket);
    store.set_trouble(None);
}

fn log(path: &Path) -> Log {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    Log::open(path, |_, _, _| Ok(())).unwrap()
}

fn payloads(path: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    Log::open(path, |_, _, payload| {
        all.push(payload.to_vec());
        Ok(())
    })
    .unwrap();
    all
}

/// Kills at any moment, answers that get lost and calls that fail: what was told to be durable is there in the next directory, and
/// of a log nothing but its beginning.
#[test]
fn what_was_durable_comes_back_on_another_machine_whatever_got_lost() {
    let mut rng = Rng::seeded(11);
    let store = Arc::new(Memory::default());
    let (mut files, mut durable_files): (BTreeMap<String, Vec<u8>>, _) = (BTreeMap::new(), BTreeMap::new());
    let (mut appended, mut durable) = (Vec::<Vec<u8>>::new(), 0);
    for round in 0..40u64 {
        let dir = Dir::new(&format!("random-{round}"));
        let bucket = own(&store, &dir.0, &format!("process {round}"));
        assert_eq!(bucket.owner(), round + 1);
        let journal = dir.0.join("models/m/journal.log");
        let there = if round == 0 { Vec::new() } else { payloads(&journal) };
        assert!(there.len() >= durable && appended.starts_with(&there), "round {round}: {} of {durable}", there.len());
        appended.truncate(there.len());
        durable = there.len();
        for (name, bytes) in &durable_files {
            assert_eq!(fs::read(dir.0.join(name)).ok().as_ref(), Some(bytes), "round {round}: {name}");
        }
        let mut log = log(&journal);
        let mut moods = Rng::seeded(round);
        store.set_trouble(Some(Box::new(move |_| match moods.below(8) {
            0 => Answer::Away,
            1 => Answer::Lost,
            _ => Answer::Done,
        })));
        for step in 0..rng.below(60) {
            match rng.below(6) {
                0 => {
                    let name = format!("models/m/{}.bin", rng.below(12));
                    let size = [40, 200, 30_000][rng.below(3) as usize];
                    let bytes = vec![rng.below(256) as u8; size];
                    atomic_file::replace(&dir.0.join(&name), &bytes).unwrap();
                    files.insert(name, bytes);
                    durable_files.clone_from(&files);
                }
                1 => {
                    let Some(name) = files.keys().nth(rng.below(12) as usize).cloned() else { continue };
                    disk::remove_file(&dir.0.join(&name)).unwrap();
                    disk::sync_dir(&dir.0).unwrap();
                    files.remove(&name);
                    durable_files.clone_from(&files);
                }
                2 => {
                    log.sync().unwrap();
                    durable = appended.len();
                }
                _ => {
                    let payload = format!("{round} {step} {}", "x".repeat(rng.below(3000) as usize)).into_bytes();
                    log.append(&payload).unwrap();
                    log.flush().unwrap();
                    appended.push(payload);
                }
            }
        }
        drop(log);
        kill(bucket, &store);
    }
    assert!(durable > 100, "{durable}");
}

/// F30: the owner that was replaced is told so at its next write, however much the new one has written and swept away meanwhile; and
/// nothing of it is seen.
#[test]
fn f30_of_two_owners_the_first_is_fenced_off() {
    for steps in [0, 3, 400] {
        let store = Arc::new(Memory::default());
        let (a, b) = (Dir::new(&format!("first-{steps}")), Dir::new(&format!("second-{steps}")));
        let news = Arc::new(Mutex::new(Vec::new()));
        let heard = news.clone();
        let listener: Listener = Box::new(move |n| heard.lock().unwrap().push(n.clone()));
        let first = Bucket::own(store.clone(), &a.0, "first", listener).unwrap();
        let mut of_first = log(&a.0.join("journal.log"));
        of_first.append(b"by the first").unwrap();
        of_first.sync().unwrap();
        let second = own(&store, &b.0, "second");
        let mut of_second = log(&b.0.join("journal.log"));
        for step in 0..steps {
            of_second.append(format!("by the second {step}").as_bytes()).unwrap();
            of_second.sync().unwrap();
        }
        let e = atomic_file::replace(&a.0.join("live"), b"pinned 1\n").unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict, "{e}");
        assert!(e.message().contains("memory was taken over by owner 2 (second); this process, owner 1"), "{e}");
        of_first.append(b"by nobody").unwrap();
        let e = of_first.sync().unwrap_err();
        assert!(e.kind() == Kind::Conflict && e.message().contains("taken over"), "{e}");
        assert!(matches!(&news.lock().unwrap()[..], [News::Replaced(why)] if why.contains("owner 2")), "{news:?}");
        drop((of_second, second));
        let c = Dir::new(&format!("third-{steps}"));
        let _third = own(&store, &c.0, "third");
        assert!(!c.0.join("live").exists());
        let there = payloads(&c.0.join("journal.log"));
        assert_eq!(there.len(), 1 + steps);
        assert!(there.iter().all(|p| !p.starts_with(b"by nobody")));
        drop((of_first, first));
    }
}

/// However long it runs, a bucket holds little more than its files; and a log of megabytes comes back from its pieces.
#[test]
fn commits_are_gathered_and_what_nobody_needs_goes() {
    let store = Arc::new(Memory::default());
    let dir = Dir::new("long");
    let bucket = own(&store, &dir.0, "a");
    let mut journal = log(&dir.0.join("journal.log"));
    let mut rng = Rng::seeded(3);
    let all: Vec<Vec<u8>> =
        (0..1500).map(|i| vec![i as u8; if i % 100 == 0 { 300_000 } else { rng.below(9000) as usize }]).collect();
    for (i, payload) in all.iter().enumerate() {
        journal.append(payload).unwrap();
        journal.sync().unwrap();
        if i % 7 == 0 {
            atomic_file::replace(&dir.0.join("snapshot"), &vec![i as u8; 20_000]).unwrap();
        }
    }
    let (commits, objects): (Vec<_>, Vec<_>) = store.keys().into_iter().partition(|key| key.starts_with(COMMITS));
    assert!(commits.len() < 140 && objects.len() < 40, "{} commits, {} objects", commits.len(), objects.len());
    kill(bucket, &store);
    let other = Dir::new("long-other");
    let bucket = own(&store, &other.0, "b");
    assert!(payloads(&other.0.join("journal.log")) == all);
    assert_eq!(fs::read(other.0.join("snapshot")).unwrap(), vec![(1498 / 7 * 7) as u8; 20_000]);
    // What the one before left for later is gone with the next owner's first commits.
    kill(bucket, &store);
    let bytes: usize = store.keys().iter().map(|key| store.get(key).unwrap().len()).sum();
    let files: usize = all.iter().map(|p| p.len() + 8).sum::<usize>() + 20_000;
    assert!(bytes < 3 * files, "{bytes} of {files}");
}

/// A log that is emptied, cut off, and whose first bytes are written over is the same in the next directory.
#[test]
fn a_log_that_is_cut_off_or_written_over_comes_back_as_it_is() {
    let store = Arc::new(Memory::default());
    let mut expected = Vec::new();
    for round in 0..6u64 {
        let dir = Dir::new(&format!("cut-{round}"));
        let bucket = own(&store, &dir.0, &format!("p{round}"));
        let path = dir.0.join("job/journal.log");
        if round > 0 {
            assert!(payloads(&path) == expected, "round {round}");
        }
        let mut journal = log(&path);
        if round == 3 {
            journal.clear().unwrap();
            expected.clear();
        }
        if round == 4 {
            let raised = Log::open_format(&path, 3, |_, _, _| Ok(())).unwrap();
            assert_eq!(raised.records() as usize, expected.len());
        }
        if round == 5 {
            disk::remove_dir_all(&dir.0.join("job")).unwrap();
            journal = log(&path);
            expected.clear();
        }
        for i in 0..90u64 {
            let payload = vec![(round * 31 + i) as u8; 3_000];
            journal.append(&payload).unwrap();
            expected.push(payload);
            if i % 2 == 0 {
                journal.sync().unwrap();
            }
        }
        journal.sync().unwrap();
        drop(journal);
        kill(bucket, &store);
    }
    let dir = Dir::new("cut-end");
    let bucket = own(&store, &dir.0, "end");
    assert!(payloads(&dir.0.join("job/journal.log")) == expected);
    drop(bucket);
}

/// A store that is away holds up what wants to be durable, says so once, and nothing is lost; what nobody waits for goes on.
#[test]
fn a_store_that_is_away_is_waited_for() {
    let (store, dir) = (Arc::new(Memory::default()), Dir::new("away"));
    let news = Arc::new(Mutex::new(Vec::new()));
    let heard = news.clone();
    let listener: Listener = Box::new(move |n| heard.lock().unwrap().push(n.clone()));
    let bucket = Bucket::own(store.clone(), &dir.0, "a", listener).unwrap();
    let mut journal = log(&dir.0.join("journal.log"));
    store.set_trouble(Some(Box::new(|_| Answer::Away)));
    journal.append(b"waits").unwrap();
    journal.flush().unwrap();
    let sync = journal.sync_handle().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let is_done = done.clone();
    let waiter = std::thread::spawn(move || {
        sync.sync().unwrap();
        is_done.store(true, Ordering::SeqCst);
    });
    while bucket.trouble().is_none() {
        std::thread::yield_now();
    }
    // Writing goes on.
    for _ in 0..100 {
        journal.append(b"more").unwrap();
        journal.flush().unwrap();
    }
    assert!(!done.load(Ordering::SeqCst));
    assert_eq!(bucket.trouble().as_deref(), Some("the store in memory does not answer"));
    store.set_trouble(None);
    waiter.join().unwrap();
    journal.sync().unwrap();
    assert_eq!(bucket.trouble(), None);
    let news = news.lock().unwrap();
    assert!(matches!(&news[..], [News::Away(why), News::Back] if why.contains("does not answer")), "{news:?}");
    drop(bucket);
    let other = Dir::new("away-other");
    let _bucket = own(&store, &other.0, "b");
    assert_eq!(payloads(&other.0.join("journal.log")).len(), 101);
}

/// F7 to F10 for a bucket: what is not what was written is named and not used.
#[test]
fn f7_f8_f9_f10_a_damaged_or_missing_object_is_named() {
    let (store, dir) = (Arc::new(Memory::default()), Dir::new("damage"));
    let bucket = own(&store, &dir.0, "a");
    atomic_file::replace(&dir.0.join("a.snapshot"), &[7; 30_000]).unwrap();
    atomic_file::replace(&dir.0.join("b.manifest"), b"{}").unwrap();
    drop(bucket);
    for key in store.keys() {
        let whole = store.get(&key).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for bad in [&flipped[..], &whole[..whole.len() - 1], &[]] {
            store.overwrite(&key, bad);
            let to = Dir::new("damage-read");
            let e = Bucket::read(&*store, &to.0, &|_| true).err().unwrap();
            assert!(e.kind() == Kind::Corrupt && e.message().contains(&key), "{key}: {e}");
        }
        store.delete(std::slice::from_ref(&key)).unwrap();
        let to = Dir::new("damage-read");
        let read = Bucket::read(&*store, &to.0, &|_| true);
        // Without the last commits a bucket is what it was before.
        if let Err(e) = read {
            assert!(e.message().contains(&key), "{key}: {e}");
        }
        store.overwrite(&key, &whole);
    }
}

/// Who only reads changes nothing, not even by what it leaves in its own directory.
#[test]
fn a_directory_that_was_only_read_cannot_be_changed() {
    let (store, dir) = (Arc::new(Memory::default()), Dir::new("owned"));
    let empty = Bucket::read(&*store, &dir.0, &|_| true).err().unwrap();
    assert!(empty.kind() == Kind::NotFound && empty.message() == "memory holds no tidemill data", "{empty}");
    let bucket = own(&store, &dir.0, "a");
    atomic_file::replace(&dir.0.join("live"), b"latest\n").unwrap();
    let before = store.keys();
    let to = Dir::new("read");
    let _standing = Bucket::read(&*store, &to.0, &|path| path != "x").unwrap();
    assert_eq!(fs::read(to.0.join("live")).unwrap(), b"latest\n");
    for e in [
        atomic_file::replace(&to.0.join("live"), b"pinned 1\n").unwrap_err(),
        disk::remove_file(&to.0.join("live")).map_err(|e| Error::io("remove", &to.0, e)).unwrap_err(),
        Log::open(&to.0.join("journal.log"), |_, _, _| Ok(())).unwrap_err(),
    ] {
        assert!(e.message().contains("memory is only read here"), "{e}");
    }
    assert_eq!(fs::read(to.0.join("live")).unwrap(), b"latest\n");
    assert_eq!(store.keys(), before);
    drop(bucket);
}
