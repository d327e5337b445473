//! One seed from beginning to end: processes that die, what is left, and whether it is what it should be.
//!
//! In: a seed. Out: figures, or what is wrong. A world delivers its events to one process after the other, on the disk that
//! the one before left behind. The last process is not disturbed. Then the journal is done again by a process that finds no
//! checkpoint, and both must have learned the same to the bit; every version that was ever announced must still be there
//! and be derived again; every event that was acknowledged must have been counted, once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tidemill::{
    job::{Ending, Job, Journal, Options, Watcher, inputs},
    program,
    push::PushHub,
    signal::Signal,
    status::Status,
    verify::verify,
};
use tidemill_base::{
    Clock, Error, Kind as ErrorKind, Rng, StateHash,
    store::{
        bucket::Bucket,
        data_dir::DataDir,
        disk,
        log::{HEADER_BYTES, LogReader},
        objects::{Answer, Memory},
    },
};
use tidemill_serve::registry::Registry;
use tidemill_sql::Input;

use crate::{
    disk::{Happened, Lie, Plan, SimDisk},
    world::{Kind, SOURCES, World},
};

/// What happened under a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub processes: u64,
    pub kills: u64,
    pub power_losses: u64,
    pub refused_full: u64,
    pub syncs_failed: u64,
    pub flips: u64,
    pub accesses: u64,
    pub events: u64,
    pub versions: u64,
    /// Journals that had been cut at the end.
    pub cut: u64,
    /// Whether counts were compared with an answer of their own.
    pub counted: u64,
}

impl Figures {
    pub fn add(&mut self, other: &Figures) {
        self.processes += other.processes;
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.refused_full += other.refused_full;
        self.syncs_failed += other.syncs_failed;
        self.flips += other.flips;
        self.accesses += other.accesses;
        self.events += other.events;
        self.versions += other.versions;
        self.cut += other.cut;
        self.counted += other.counted;
    }
}

type Checked<T> = Result<T, String>;

/// What is said of a journal whose beginning is gone.
const LET_GO: &str = "what was before was let go";
/// Steps without anything new to deliver before a process is asked to stop.
const QUIET_STEPS: u32 = 6;
/// Steps after which a process that does not end has failed.
const STEPS_MAX: u32 = 20_000;

/// Carries out one seed whose data is in a bucket: each process is on a machine of its own, and what the one before had and
/// the bucket has not is lost with that machine.
pub fn run_in_store(seed: u64) -> Checked<Figures> {
    let scratch = Scratch::new(seed);
    let (root, input) = (scratch.0.join("data"), scratch.0.join("input"));
    [&root, &input].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    let world = World::of(seed, &input);
    world.write_files(&input);
    let disk = SimDisk::new(&root, seed, Lie::None);
    let mut sim = Sim { store: Some(Arc::default()), ..Sim::new(world, root, input, disk) };
    let done = sim.all_of_it();
    done.map_err(|why| format!("{why}\n  world: {:?}, {}\n  disk:{}", sim.kind, sim.sql, sim.disk.trace()))
}

/// Carries out one seed.
pub fn run(seed: u64, lie: Lie) -> Checked<Figures> {
    let scratch = Scratch::new(seed);
    let (root, input) = (scratch.0.join("data"), scratch.0.join("input"));
    [&root, &input].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    let world = World::of(seed, &input);
    world.write_files(&input);
    let disk = SimDisk::new(&root, seed, lie);
    let mut sim = Sim::new(world, root, input, disk);
    let done = sim.all_of_it();
    done.map_err(|why| format!("{why}\n  world: {:?}, {}\n  disk:{}", sim.kind, sim.sql, sim.disk.trace()))
}

struct Sim {
    kind: Kind,
    sql: String,
    root: PathBuf,
    input: PathBuf,
    disk: Arc<SimDisk>,
    /// What keeps the data, where that is not the disk.
    store: Option<Arc<Memory>>,
    delivery: Arc<Mutex<Delivery>>,
    now: Arc<Now>,
    rng: Rng,
    threads: usize,
    disturbed: u32,
    figures: Figures,
    /// Every version that was announced: its mini-batch and state.
    announced: BTreeMap<u64, (u64, StateHash)>,
    only_kills: bool,
}

/// What time it is.
struct Now {
    ms: AtomicI64,
    world: World,
}

/// Events on their way.
struct Delivery {
    /// When, and which event.
    waiting: Vec<(i64, usize)>,
    rng: Rng,
    /// The ends of lines that were appended in part.
    torn: BTreeMap<PathBuf, Vec<u8>>,
    /// By source, what was acknowledged.
    acknowledged: [BTreeSet<i64>; 2],
    /// Lines that were not let in.
    refused: u64,
    quiet: u32,
    steps: u32,
}

/// The clock of a job: each time it is asked for the calendar, the world goes on.
struct Stepping {
    now: Arc<Now>,
    delivery: Arc<Mutex<Delivery>>,
    hub: Arc<PushHub>,
    signal: Arc<Signal>,
    disk: Arc<SimDisk>,
    input: PathBuf,
    registry: OnceLock<Arc<Registry>>,
    announced: Mutex<BTreeMap<u64, (u64, StateHash)>>,
    is_on: AtomicBool,
}

struct Plain(Arc<Now>);

struct Unseen<'a>(&'a Stepping);

impl Clock for Plain {
    fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Now {
    fn wall_ms(&self) -> i64 {
        self.world.wall_ms(self.ms.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.ms.load(Ordering::SeqCst) as u64)
    }
}

impl Clock for Stepping {
    fn wall_ms(&self) -> i64 {
        if self.is_on.load(Ordering::SeqCst) {
            self.step();
        }
        self.now.wall_ms()
    }

    fn elapsed(&self) -> Duration {
        self.now.elapsed()
    }
}

impl Watcher for Unseen<'_> {
    fn show(&mut self, status: &Status, _page: Value) {
        if status.state.starts_with("waiting") {
            self.0.signal.wake();
        }
    }
}

impl Stepping {
    /// Time passes, events arrive.
    fn step(&self) {
        let mut delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
        self.signal.wake();
        delivery.steps += 1;
        if self.disk.happened().killed || delivery.steps > STEPS_MAX {
            return self.signal.stop();
        }
        if let Some(registry) = self.registry.get() {
            let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
            announced.extend(registry.list().iter().map(|v| (v.version, (v.mini_batch, v.state_hash))));
        }
        let passed = 1 + delivery.rng.below(self.now.world.step_ms_max) as i64 + self.disk.take_slow_ms() as i64;
        let now = self.now.ms.fetch_add(passed, Ordering::SeqCst) + passed;
        match self.now.world.kind {
            Kind::Push => self.push(&mut delivery, now),
            Kind::Follow => self.append(&mut delivery, now),
            Kind::Bounded => return,
        }
        if delivery.waiting.is_empty() && delivery.torn.is_empty() {
            delivery.quiet += 1;
            if delivery.quiet > QUIET_STEPS {
                self.signal.stop();
            }
        }
    }

    fn push(&self, delivery: &mut Delivery, now: i64) {
        for (source, name) in SOURCES.iter().enumerate() {
            let due = delivery.due(now, |event| self.now.world.events[event].source == source);
            for body in due.chunks(1 + delivery.rng.below(30) as usize) {
                let text: Vec<&str> = body.iter().map(|&event| self.now.world.events[event].line.as_str()).collect();
                let reply = self.hub.push(name, text.join("\n").into()).map(|reply| reply.blocking_recv());
                match reply {
                    Ok(Ok(Ok(reply))) => {
                        delivery.refused += reply.refused.len() as u64;
                        let refused: BTreeSet<u64> = reply.refused.iter().map(|line| line.line - 1).collect();
                        let taken = body.iter().zip(0u64..).filter(|(_, line)| !refused.contains(line));
                        let ids: Vec<i64> = taken.map(|(&event, _)| self.now.world.events[event].id).collect();
                        delivery.acknowledged[source].extend(ids);
                    }
                    // No answer, or a bad one: whoever sends them sends them again.
                    _ => delivery.waiting.extend(body.iter().map(|&event| (now + 20, event))),
                }
            }
        }
        delivery.waiting.sort_unstable();
    }

    fn append(&self, delivery: &mut Delivery, now: i64) {
        let mut files: BTreeMap<PathBuf, Vec<u8>> = std::mem::take(&mut delivery.torn);
        for event in delivery.due(now, |_| true) {
            let event = &self.now.world.events[event];
            let bytes = files.entry(World::file(&self.input, event.source, event.file)).or_default();
            bytes.extend_from_slice(event.line.as_bytes());
            bytes.push(b'\n');
        }
        for (path, bytes) in files {
            let torn = delivery.rng.below(3) == 0;
            let upto = if torn { delivery.rng.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(&bytes[..upto]).unwrap();
            if upto < bytes.len() {
                delivery.torn.insert(path, bytes[upto..].to_vec());
            }
        }
    }
}

impl Delivery {
    fn due(&mut self, now: i64, mut is_wanted: impl FnMut(usize) -> bool) -> Vec<usize> {
        let mut due = Vec::new();
        self.waiting.retain(|&(at, event)| {
            let is_due = at <= now && is_wanted(event);
            due.extend(is_due.then_some(event));
            !is_due
        });
        due
    }
}

/// How a process ended.
struct Ended {
    result: Result<(Ending, Status), Error>,
    happened: Happened,
}

impl Sim {
    fn new(world: World, root: PathBuf, input: PathBuf, disk: Arc<SimDisk>) -> Self {
        let mut waiting: Vec<(i64, usize)> = Vec::new();
        if world.kind != Kind::Bounded {
            waiting =
                world.events.iter().zip(0..).flat_map(|(e, i)| e.arrivals.iter().map(move |at| (*at, i))).collect();
            waiting.sort_unstable();
        }
        let delivery = Delivery {
            waiting,
            rng: Rng::for_key(world.seed, 0xDE11),
            torn: BTreeMap::new(),
            acknowledged: Default::default(),
            refused: 0,
            quiet: 0,
            steps: 0,
        };
        Self {
            kind: world.kind,
            sql: world.sql.clone(),
            root,
            input,
            disk,
            store: None,
            delivery: Arc::new(Mutex::new(delivery)),
            rng: world.rng.clone(),
            threads: world.threads,
            disturbed: world.disturbed,
            now: Arc::new(Now { ms: 0.into(), world }),
            figures: Figures::default(),
            announced: BTreeMap::new(),
            only_kills: true,
        }
    }

    fn all_of_it(&mut self) -> Checked<Figures> {
        let mut left = self.disturbed;
        while left > 0 {
            left -= 1;
            let plan = self.plan();
            let ended = self.process(plan, false)?;
            self.judge(&ended)?;
            self.aftermath(&ended);
        }
        // Now nothing happens any more. What can be delivered is; then the live sources are told to end.
        if self.kind != Kind::Bounded {
            let ended = self.process(Plan::default(), false)?;
            ended.result.map_err(|e| format!("undisturbed, it fails: {e}"))?;
            let delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
            if !delivery.waiting.is_empty() || delivery.steps > STEPS_MAX {
                return Err(format!("{} events were not taken in {} steps", delivery.waiting.len(), delivery.steps));
            }
        }
        let ended = self.process(Plan::default(), true)?;
        let (ending, status) = ended.result.map_err(|e| format!("undisturbed, the last run fails: {e}"))?;
        if ending != Ending::Finished {
            return Err("the last run did not finish".into());
        }
        self.figures.events = status.counts.events;
        let base = Journal::base(&self.root.join("models/ctr/job")).map_err(|e| e.to_string())?;
        self.figures.cut = u64::from(base > 0);
        self.check_versions(&self.root.clone())?;
        self.check_counts(&status)?;
        self.check_again(&status)?;
        Ok(self.figures)
    }

    fn plan(&mut self) -> Plan {
        let rng = &mut self.rng;
        let soon = |rng: &mut Rng| {
            let most = [8, 40, 200][rng.below(3) as usize];
            1 + rng.below(most)
        };
        let mut plan = Plan::default();
        if rng.below(8) != 0 {
            plan.kill_at = Some(soon(rng));
        }
        if rng.below(4) == 0 {
            plan.full = Some((soon(rng), 1 + rng.below(6)));
        }
        if rng.below(5) == 0 {
            plan.sync_fails_at = Some(soon(rng));
        }
        if rng.below(5) == 0 {
            plan.slow_ms = 1 + rng.below(100);
        }
        plan
    }

    /// Whether a process may end so.
    fn judge(&mut self, ended: &Ended) -> Checked<()> {
        let Happened { accesses, killed, refused_full, syncs_failed } = ended.happened;
        self.figures.kills += u64::from(killed);
        self.figures.refused_full += refused_full;
        self.figures.syncs_failed += syncs_failed;
        self.figures.accesses += accesses;
        self.only_kills &= refused_full + syncs_failed == 0;
        match &ended.result {
            _ if killed => Ok(()),
            Ok(_) => Ok(()),
            Err(_) if syncs_failed > 0 => Ok(()),
            Err(e) if refused_full > 0 && e.kind() == ErrorKind::Exhausted => Ok(()),
            Err(e) => Err(format!("process {} fails and nothing has happened to it: {e}", self.figures.processes)),
        }
    }

    /// What else happens while no process is there.
    fn aftermath(&mut self, ended: &Ended) {
        if self.store.is_some() {
            self.figures.power_losses += 1;
            return;
        }
        if (ended.happened.killed || ended.result.is_err()) && self.rng.below(2) == 0 {
            self.disk.lose_power();
            self.figures.power_losses += 1;
            self.only_kills = false;
        }
        let checkpoints = fs::read_dir(self.root.join("models/ctr/job/checkpoints")).into_iter().flatten().flatten();
        let count = checkpoints.filter(|file| file.path().extension().is_some_and(|e| e == "ck")).count();
        // With all of them damaged the start would be refused, and should be.
        if count >= 2 && self.figures.flips == 0 && self.rng.below(6) == 0 {
            let end = [".ck", ".ck", ".part"][self.rng.below(3) as usize];
            self.figures.flips += u64::from(self.disk.flip_a_byte(end));
        }
    }

    /// One life of the program. `last`: live sources end with what has arrived.
    fn process(&mut self, plan: Plan, last: bool) -> Checked<Ended> {
        self.figures.processes += 1;
        let bucket = self.another_machine()?;
        let process = self.disk.begin(plan);
        let injected = disk::inject(&self.root, process);
        let lived = catch_unwind(AssertUnwindSafe(|| self.live(&self.root.clone(), last, true)));
        let happened = self.disk.end();
        drop(injected);
        if let (Some(bucket), Some(store)) = (bucket, &self.store) {
            // With the machine goes what the bucket has not.
            store.set_trouble(Some(Box::new(|_| Answer::Away)));
            drop(bucket);
            store.set_trouble(None);
        }
        let (result, announced) =
            lived.map_err(|panic| format!("process {}: {}", self.figures.processes, text(&*panic)))?;
        self.announced.extend(announced);
        Ok(Ended { result, happened })
    }

    /// With a bucket: an empty directory, filled from there.
    fn another_machine(&mut self) -> Checked<Option<Bucket>> {
        let Some(store) = &self.store else { return Ok(None) };
        fs::remove_dir_all(&self.root).and_then(|()| fs::create_dir_all(&self.root)).map_err(|e| e.to_string())?;
        let who = format!("process {}", self.figures.processes);
        let bucket = Bucket::own(store.clone(), &self.root, &who, Box::new(|_| ())).map_err(|e| e.to_string())?;
        self.disk = SimDisk::of(&self.root, self.now.world.seed + self.figures.processes);
        Ok(Some(bucket))
    }

    #[expect(clippy::type_complexity, reason = "read once, above")]
    fn live(
        &self,
        root: &Path,
        last: bool,
        delivers: bool,
    ) -> (Result<(Ending, Status), Error>, BTreeMap<u64, (u64, StateHash)>) {
        let mut announced = BTreeMap::new();
        let result = (|| {
            let data = DataDir::open(root)?;
            let job = program::train_job(&self.sql, "ctr")?.expect("a program that trains");
            let signal = Arc::new(Signal::default());
            let of: Vec<Input> = inputs(&job).into_iter().cloned().collect();
            let of: Vec<&Input> = of.iter().collect();
            let hub = Arc::new(PushHub::open(&data, &of, signal.clone(), Arc::new(Plain(self.now.clone())))?);
            let clock = Arc::new(Stepping {
                now: self.now.clone(),
                delivery: self.delivery.clone(),
                hub: hub.clone(),
                signal: signal.clone(),
                disk: self.disk.clone(),
                input: self.input.clone(),
                registry: OnceLock::new(),
                announced: Mutex::default(),
                is_on: false.into(),
            });
            {
                let mut delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
                (delivery.quiet, delivery.steps) = (0, 0);
            }
            let options = Options {
                threads: self.threads,
                end_with_ordered: last,
                in_order: true,
                journal_file_bytes: Some(200),
                ..Options::default()
            };
            let mut job = Job::open(&data, job, options, &hub, clock.clone())?;
            let _ = clock.registry.set(job.registry().clone());
            clock.is_on.store(delivers, Ordering::SeqCst);
            let ending = job.run(&signal, &mut Unseen(&clock));
            announced = std::mem::take(&mut *clock.announced.lock().unwrap_or_else(PoisonError::into_inner));
            let ending = ending?;
            announced.extend(job.registry().list().iter().map(|v| (v.version, (v.mini_batch, v.state_hash))));
            Ok((ending, job.final_status("")))
        })();
        (result, announced)
    }

    /// Every version that was announced is there, and is derived again.
    fn check_versions(&mut self, root: &Path) -> Checked<()> {
        let registry = Registry::reading("ctr", &root.join("models/ctr/versions")).map_err(|e| e.to_string())?;
        let there = registry.list();
        for (version, (mini_batch, state)) in &self.announced {
            let of = there.iter().find(|v| v.version == *version);
            let of = of.ok_or_else(|| format!("version {version} was announced and is gone"))?;
            if (of.mini_batch, of.state_hash) != (*mini_batch, *state) {
                return Err(format!("version {version} was of mini-batch {mini_batch}, now of {}", of.mini_batch));
            }
        }
        self.figures.versions += there.len() as u64;
        // The first, the last, and one between.
        let chosen: BTreeSet<usize> = [0, there.len() / 2, there.len().saturating_sub(1)].into();
        for of in chosen.into_iter().filter_map(|i| there.get(i)) {
            let again = match verify(root, "ctr", of.version, 1, |_, _| ()) {
                // Cut, it cannot be, and says so.
                Err(e) if self.figures.cut > 0 && e.message().contains(LET_GO) => continue,
                again => again.map_err(|e| format!("version {}: {e}", of.version))?,
            };
            if again.derived != of.state_hash {
                return Err(format!(
                    "version {} of mini-batch {} is {}, derived again {}",
                    of.version, of.mini_batch, of.state_hash, again.derived
                ));
            }
        }
        Ok(())
    }

    /// Nothing lost, nothing counted twice.
    fn check_counts(&mut self, status: &Status) -> Checked<()> {
        let join = &status.join;
        let delivery = self.delivery.lock().unwrap_or_else(PoisonError::into_inner);
        if join.positives + join.negatives != join.impressions {
            return Err(format!("{} + {} of {} impressions", join.positives, join.negatives, join.impressions));
        }
        if self.kind == Kind::Push {
            for (source, name) in SOURCES.iter().enumerate() {
                let there = self.pushed(name)?;
                if let Some(lost) = delivery.acknowledged[source].iter().find(|id| !there.contains(id)) {
                    return Err(format!("{name}: event {lost} was acknowledged and is gone"));
                }
            }
        }
        let world = &self.now.world;
        let (shown, clicked) = world.answer();
        if join.impressions > shown || join.positives > clicked {
            return Err(format!(
                "{} impressions and {} positives of {shown} and {clicked}",
                join.impressions, join.positives
            ));
        }
        let refused = delivery.refused + status.counts.events_refused + status.counts.samples_refused;
        if refused + join.late_impressions + join.late_feedback > 0 {
            if refused == 0 && shown > join.impressions + join.late_impressions {
                return Err(format!(
                    "{} impressions and {} late ones of {shown}",
                    join.impressions, join.late_impressions
                ));
            }
            return Ok(());
        }
        self.figures.counted = 1;
        match (join.impressions, join.positives) == (shown, clicked) {
            true => Ok(()),
            false => Err(format!(
                "{} impressions with {} positives; there are {shown} with {clicked}",
                join.impressions, join.positives
            )),
        }
    }

    /// Identities in a push log.
    fn pushed(&self, source: &str) -> Checked<BTreeSet<i64>> {
        let path = self.root.join("sources").join(source).join("push.log");
        let mut log = LogReader::open_at(&path, HEADER_BYTES).map_err(|e| e.to_string())?;
        let mut all = BTreeSet::new();
        while let Some(payload) = log.next().map_err(|e| e.to_string())? {
            let event: Value = serde_json::from_slice(&payload[8..]).map_err(|e| e.to_string())?;
            all.insert(event["id"].as_i64().expect("an id"));
        }
        Ok(all)
    }

    /// Does the journal again without a checkpoint; where the sources end by themselves, without a journal too.
    fn check_again(&mut self, status: &Status) -> Checked<()> {
        let other = self.root.with_file_name("again");
        copy(&self.root, &other);
        let job = other.join("models/ctr/job");
        for gone in [job.join("checkpoints"), other.join("models/ctr/versions")] {
            let _ = fs::remove_dir_all(gone);
        }
        let expected = outcome(status);
        let same = |what: &str, root: &Path| {
            let (again, _) = self.live(root, true, false);
            let (_, again) = again.map_err(|e| format!("{what}: {e}"))?;
            let again = outcome(&again);
            match again == expected {
                true => Ok(()),
                false => Err(format!("{what}:\n    {again}\n  instead of\n    {expected}")),
            }
        };
        if self.figures.cut > 0 {
            return match self.live(&other, true, false).0 {
                Err(e) if e.message().contains(LET_GO) && self.kind == Kind::Bounded => {
                    same("from the beginning", &self.root.with_file_name("fresh"))
                }
                Err(e) if e.message().contains(LET_GO) => Ok(()),
                Err(e) => Err(format!("a journal that was cut, without a checkpoint: {e}")),
                Ok(_) => Err("a journal that was cut is done again without a checkpoint".into()),
            };
        }
        same("the journal done again", &other)?;
        if self.only_kills {
            let letters = |root: &Path| fs::read_to_string(root.join("models/ctr/job/dead_letter.jsonl")).unwrap();
            let of_the_stream = |text: String| -> Vec<String> {
                text.lines().filter(|line| !line.contains("pushed to")).map(String::from).collect()
            };
            let (a, b) = (of_the_stream(letters(&self.root)), of_the_stream(letters(&other)));
            if a != b {
                return Err(format!("dead letters differ: {} lines and {}", a.len(), b.len()));
            }
        }
        if self.kind == Kind::Bounded {
            same("from the beginning", &self.root.with_file_name("fresh"))?;
        }
        Ok(())
    }
}

/// What must be equal to the last digit.
fn outcome(status: &Status) -> Value {
    let mut kept = status.to_summary();
    for what in ["events_per_s", "peak_rss_bytes", "version", "table_bytes", "warning", "state", "staleness_ms"] {
        kept.as_object_mut().unwrap().remove(what);
    }
    kept
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &to),
            false => _ = fs::copy(&path, &to).unwrap(),
        }
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
    format!("panicked: {}", text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
}

/// A directory in memory where there is one, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(seed: u64) -> Self {
        let shm = Path::new("/dev/shm");
        let base = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
        // Several tests of this process may carry out the same seed at once.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let dir = base.join(format!("tidemill-sim-{}-{n}-{seed}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
