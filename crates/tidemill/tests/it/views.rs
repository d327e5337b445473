//! Feature views through the whole line: what requests are told right before an impression is what training used.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::Schema,
};
use tidemill::{engine::Engine, program};
use tidemill_base::Rng;
use tidemill_serve::live::LiveModel;
use tidemill_sql::{Statement, TrainJob};
use tidemill_stream::{Transform, join::SampleKind, source};
use tidemill_train::TrainSpec;

use super::support::Scratch;

/// Impressions and clicks of few users in time order, and a program with every kind of aggregate over both.
fn job(scratch: &Scratch) -> TrainJob {
    let mut rng = Rng::seeded(11);
    let (mut shown, mut clicked) = (String::from("imp_id,person,price,ts\n"), Vec::new());
    let mut ts = 1_700_000_000_000u64;
    for id in 0..4000 {
        ts += rng.below(20_000);
        let user = rng.below(9);
        let price = rng.below(100) as f64 / 8.0;
        shown += &format!("{id},u{user},{price},{ts}\n");
        if rng.below(5) == 0 {
            clicked.push((ts + 1 + rng.below(300_000), id, user));
        }
    }
    clicked.sort_unstable();
    let rows: Vec<String> = clicked.iter().map(|(ts, id, user)| format!("{id},u{user},{ts}\n")).collect();
    let shown = scratch.write("shown.csv", shown).display().to_string();
    let clicked = scratch.write("clicked.csv", format!("imp_id,person,ts\n{}", rows.concat())).display().to_string();
    let text = format!(
        "CREATE SOURCE shown (imp_id BIGINT PRIMARY KEY, person STRING, price DOUBLE, ts BIGINT,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'file', path = '{shown}');
         CREATE SOURCE clicked (imp_id BIGINT, person STRING, ts BIGINT,
           rt AS TO_TIMESTAMP_MS(ts), WATERMARK FOR rt) WITH (connector = 'file', path = '{clicked}');
         CREATE FEATURE VIEW seen KEYED BY person AS
           SELECT COUNT(s) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS imp_1h,
             COUNT(c) OVER SAWTOOTH (INTERVAL '1' HOUR, PANE '5' MINUTE) AS clk_1h,
             RATIO(clk_1h, imp_1h, 5, 0.2) AS ctr_1h,
             SUM(s.price) OVER TUMBLE (INTERVAL '10' MINUTE) AS price_sum,
             MEAN(s.price) OVER HOP (INTERVAL '2' MINUTE, INTERVAL '20' MINUTE) AS price_mean,
             MIN(s.price) OVER SESSION (INTERVAL '1' MINUTE) AS price_min,
             MAX(s.price) OVER SAWTOOTH (INTERVAL '1' HOUR) AS price_max,
             DISTINCT(s.price) OVER SAWTOOTH (INTERVAL '1' HOUR) AS prices,
             COUNT(s) OVER DECAY (INTERVAL '7' MINUTE) AS faded, LAST(s.price, 2) AS price_last
           FROM shown s, clicked c;
         SELECT i.person, f.*, f.clk_1h * 2 AS twice, (c.imp_id IS NOT NULL) AS label FROM shown i
           LEFT JOIN clicked c ON i.imp_id = c.imp_id AND c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE
           LEFT JOIN seen FOR SYSTEM_TIME AS OF i.rt f ON f.person = i.person
           EMIT IMMEDIATE CORRECT RETRACT
         TO TRAIN FTRLClassifier LABEL label INTO m;"
    );
    match program::bind(&text, &[]).unwrap().statements.pop() {
        Some(Statement::Train(job)) => *job,
        _ => panic!("the program trains one model"),
    }
}

/// What a request with these carried columns asks: the source's own columns, what is not carried left out.
fn request(job: &TrainJob, rows: &RecordBatch) -> RecordBatch {
    let own = &job.pipeline.left.source.columns;
    let column = |f: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        match (f.name().as_str(), rows.column_by_name(f.name())) {
            ("ts", _) => {
                let rt = rows.column_by_name("rt").expect("the event time is carried");
                arrow::compute::cast(rt, f.data_type()).unwrap()
            }
            ("person", Some(column)) => column.clone(),
            _ => arrow::array::new_null_array(f.data_type(), rows.num_rows()),
        }
    };
    let fields = own.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), own.fields().iter().map(column).collect()).unwrap()
}

fn bits(rows: &RecordBatch, row: usize) -> Vec<String> {
    let shown = |c: &ArrayRef| match c.is_null(row) {
        true => "NULL".into(),
        // Shortest decimals that read back to the same bits.
        false => arrow::util::display::array_value_to_string(c, row).unwrap(),
    };
    rows.columns().iter().map(shown).collect()
}

/// Every mini-batch: its first impression is asked about before the line has seen it, and learned from after.
#[test]
fn a_request_right_before_an_impression_is_told_what_training_used() {
    let scratch = Scratch::new("views-parity");
    let job = job(&scratch);
    let mut engine = Engine::new(&job, &TrainSpec::from_settings(&job.learner, &job.settings).unwrap(), 1).unwrap();
    let inputs = [&job.pipeline.left.source, &job.pipeline.join.as_ref().unwrap().right[0].source];
    for (input, source) in inputs.into_iter().enumerate() {
        for opened in source::open(source, &[]).unwrap() {
            engine.sequencer.add_partition(input, opened.partition, opened.ordered);
        }
    }
    let live = LiveModel::open(&engine.line.learning.trainer().snapshot(), 0, 0);
    let views = engine.serve_views(&job).unwrap().expect("the job has a view");
    let asked: Arc<dyn Transform> = job.pipeline.request_with(views);
    let (mut compared, mut told) = (0, 0);
    // Answers by the number of the impression asked about: it leaves when the watermark reaches it.
    let mut answers: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut impressions = 0;
    while let Some(cut) = engine.sequencer.cut(true, &[]).unwrap() {
        let first = cut.takes.iter().find(|t| t.id.input == 0).map(|t| (t.rows.slice(0, 1), t.event_times[0]));
        // Where a click of the mini-batch came before its first impression, a request now would come too early.
        let first = first.filter(|(_, ts)| cut.takes.iter().all(|t| t.event_times.iter().all(|other| other >= ts)));
        if let Some((rows, _)) = first {
            let answer = asked.apply(&request(&job, &rows)).unwrap();
            answers.insert(impressions, bits(&answer.rows, 0));
        }
        impressions += cut.takes.iter().filter(|t| t.id.input == 0).map(|t| t.rows.num_rows() as u64).sum::<u64>();
        let mut rejected = Vec::new();
        if let Some(samples) = engine.line.join(&cut, &mut rejected).unwrap() {
            let samples = engine.line.select(samples, &mut rejected).unwrap();
            for (row, (seq, kind)) in samples.seqs.iter().zip(&samples.kinds).enumerate() {
                if *kind == SampleKind::Retract {
                    continue;
                }
                // The last column is the label, of which a request knows nothing.
                let Some(answer) = answers.remove(seq) else { continue };
                let used = bits(&samples.rows, row);
                assert_eq!(answer[..answer.len() - 1], used[..used.len() - 1], "impression {seq}");
                compared += 1;
                told += answer.iter().filter(|v| !["NULL", "0", "0.0"].contains(&v.as_str())).count();
            }
            let samples = engine.line.extract(samples, &mut rejected).unwrap();
            engine.line.update(samples, engine.sequencer.mini_batch()).unwrap();
        }
        assert!(rejected.is_empty(), "{rejected:?}");
        engine.publish(&live, 1).unwrap();
    }
    assert!(compared >= 10 && told > compared * 8, "{compared} compared, {told} values");
}
