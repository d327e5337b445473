//! One impression and its click, followed down the line: `cargo run --example one_event` prints the value at each stop.
//!
//! ```text
//! stream/source   Event        a row of a file, with its offset
//! stream/window   wider Event  its event time and computed columns; the watermark behind it
//! stream/join     Sample       the impression with its label, once the watermark says so
//! model/feature   Features     (key, value) pairs: what the learner sees
//! train/update    Gradients    prediction against label: how wrong, and which way
//! model/params    Entries      what each key has learned, with its optimizer state
//! train/publish   Delta        the weights that changed
//! serve/registry  Version      an immutable state with its hash
//! serve/predict   Prediction   the next impression's probability, which knows the click
//! ```

use std::{fs, path::Path, sync::Arc};

use arrow::{array::RecordBatch, util::pretty::pretty_format_batches};
use tidemill::{
    engine::{Engine, windows},
    program,
};
use tidemill_base::{Error, Result};
use tidemill_serve::{live::LiveModel, predict::Predictor, registry::Registry};
use tidemill_sql::{Statement, TrainJob};
use tidemill_stream::source::{self, Read};
use tidemill_train::TrainSpec;

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("tidemill-one-event-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    let told = tell(&dir);
    let _ = fs::remove_dir_all(&dir);
    told
}

fn tell(dir: &Path) -> Result<()> {
    let job = bind(dir)?;
    read(&job)?;
    let mut engine = Engine::new(&job, &TrainSpec::from_settings(&job.learner, &job.settings)?, 1)?;
    open(&job, &mut engine)?;
    let live = Arc::new(LiveModel::open(&engine.line.learning.trainer().snapshot(), 0, 0));
    let predictor = predictor(&job, live.clone())?;
    let before = predict(&predictor)?;
    let keys = learn(&job, &mut engine, before)?;
    publish(&mut engine, &live, &keys)?;
    register(&job, &engine, dir)?;
    let reply = predictor.predict(REQUEST, None)?;
    let after = reply.predictions[0].number();
    stop(
        "serve/predict",
        &format!("{}@{}: probability {before} before the click, {after:.6} after it", reply.model, reply.version),
    );
    Ok(())
}

/// What the sequencer does for every chunk, once by hand: read it, then widen it.
fn read(job: &TrainJob) -> Result<()> {
    let opened = source::open(&job.pipeline.left.source, &[])?;
    let mut partition = opened.into_iter().next().expect("one file").partition;
    let Read::Chunk(chunk) = partition.read()? else { panic!("the file has a row") };
    stop("stream/source", &format!("offset {} of {}\n{}", chunk.offset(0), partition.name(), table(&chunk.rows)));
    let wide = windows(&job.pipeline)[0].0.widen(chunk)?;
    stop("stream/window", &format!("event time {} ms\n{}", wide.event_times[0], table(&wide.rows)));
    Ok(())
}

fn open(job: &TrainJob, engine: &mut Engine) -> Result<()> {
    let inputs = [&job.pipeline.left.source, &job.pipeline.join.as_ref().expect("a join").right[0].source];
    for (input, source) in inputs.into_iter().enumerate() {
        for opened in source::open(source, &[])? {
            engine.sequencer.add_partition(input, opened.partition, opened.ordered);
        }
    }
    Ok(())
}

fn predictor(job: &TrainJob, live: Arc<LiveModel>) -> Result<Predictor> {
    let extractor = job.extractor()?;
    let columns = job.pipeline.left.source.columns.clone();
    Predictor::new(&job.model, columns, job.pipeline.request.clone(), extractor, live)
}

const REQUEST: &[u8] = br#"{"rows":[{"user":"ann","item":"i7"}]}"#;

fn predict(predictor: &Predictor) -> Result<f64> {
    Ok(predictor.predict(REQUEST, None)?.predictions[0].number())
}

/// Joins, extracts and learns the one sample; gives back its keys.
fn learn(job: &TrainJob, engine: &mut Engine, before: f64) -> Result<Vec<u64>> {
    let cut = engine.sequencer.cut(true, &[])?.expect("both files have a row");
    let rejected = &mut Vec::new();
    let samples = engine.line.join(&cut, rejected)?.expect("both files end, so every label is final");
    let samples = engine.line.select(samples, rejected)?;
    let (kind, label) = (samples.kinds[0], samples.labels[0]);
    stop("stream/join", &format!("{kind:?} sample, label {label}\n{}", table(&samples.rows)));

    let samples = engine.line.extract(samples, rejected)?;
    let (keys, values) = engine.line.features().sample(0);
    let pairs: Vec<String> = keys.iter().zip(values).map(|(k, v)| format!("{k:016x} -> {v}")).collect();
    let keys = keys.to_vec();
    stop("model/feature", &format!("slots {}\n{}", job_slots(job)?, pairs.join("\n")));

    // The gradient of the log loss by a weight is (p - label) times the feature's value.
    let gradient = before - label as f64;
    stop("train/update", &format!("predicted {before}, label {label}: gradient {gradient} x value for each key"));
    engine.line.update(samples, 1)?;
    let weights = engine.line.learning.trainer().snapshot();
    stop("model/params", &format!("{} entries, state {}", weights.entries.len(), engine.state_hash()?));
    Ok(keys)
}

fn publish(engine: &mut Engine, live: &LiveModel, keys: &[u64]) -> Result<()> {
    engine.publish(live, 1)?;
    let served = live.read();
    let weight = |k: &u64| format!("{k:016x} -> weight {:+.6}", served.weights.params(*k)[0]);
    stop("train/publish", &keys.iter().map(weight).collect::<Vec<_>>().join("\n"));
    Ok(())
}

fn register(job: &TrainJob, engine: &Engine, dir: &Path) -> Result<()> {
    let versions = dir.join("versions");
    fs::create_dir_all(&versions).map_err(|e| Error::io("create", &versions, e))?;
    let meta = engine.version(&Registry::open(&job.model, &versions)?, 1, job.fingerprint, 0)?;
    stop(
        "serve/registry",
        &format!("{}@{} after mini-batch {}: state {}", job.model, meta.version, meta.mini_batch, meta.state_hash),
    );
    Ok(())
}

/// Two files of one row each, and the program that joins and learns them.
fn bind(dir: &Path) -> Result<TrainJob> {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|e| Error::io("write", &path, e))?;
        Ok::<_, Error>(path.display().to_string())
    };
    let shown = file("shown.csv", "imp_id,ts,user,item\n1,1700000000000,ann,i7\n")?;
    let clicked = file("clicked.csv", "imp_id,ts\n1,1700000002500\n")?;
    let text = format!(
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, ts BIGINT, user STRING, item STRING,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'file', path = '{shown}');
         CREATE SOURCE clicked (imp_id BIGINT, ts BIGINT,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'file', path = '{clicked}');
         SELECT i.*, (c.imp_id IS NOT NULL) AS label FROM shown i LEFT JOIN clicked c
           ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
         TO TRAIN FTRLClassifier COLUMN user, item, CROSS([user, item]) LABEL label INTO ctr;"
    );
    match program::bind(&text, &[])?.statements.pop() {
        Some(Statement::Train(job)) => Ok(*job),
        _ => Err(Error::internal("the program trains one model")),
    }
}

fn job_slots(job: &TrainJob) -> Result<String> {
    Ok(job.extractor()?.slots().join(", "))
}

fn stop(name: &str, value: &str) {
    println!("{name}");
    value.lines().for_each(|line| println!("    {line}"));
    println!();
}

fn table(rows: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(rows)).map_or_else(|e| e.to_string(), |t| t.to_string())
}
