//! The stream is the same from any place, and hard and easy enough to be a demo.

use super::*;
use crate::source::{Connector, open as open_source};

fn settings(stream: GeneratorStream, rows: u64) -> GeneratorSettings {
    GeneratorSettings {
        stream,
        seed: 7,
        rate: 20_000,
        rows: Some(rows),
        start_ms: 1_700_000_000_000,
        drift_every_ms: Some(2_000),
        click_delay_ms: 500,
        realtime: false,
    }
}

fn open_with(settings: GeneratorSettings, schema: Schema) -> Result<Box<dyn Partition>> {
    let spec = SourceSpec::new("shown", Arc::new(schema), Connector::Generator(settings));
    Ok(open_source(&spec, &[])?.pop().expect("one partition").partition)
}

fn open_stream(settings: GeneratorSettings) -> Box<dyn Partition> {
    let schema = generator_columns(settings.stream);
    open_with(settings, schema).unwrap()
}

/// All rows as single-row batches, and the places where chunks began.
fn rows(partition: &mut dyn Partition) -> (Vec<RecordBatch>, Vec<Position>) {
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    while let Read::Chunk(chunk) = partition.read().unwrap() {
        assert_eq!(chunk.end.offset - chunk.start.offset, chunk.rows.num_rows() as u64);
        rows.extend((0..chunk.rows.num_rows()).map(|i| chunk.rows.slice(i, 1)));
        places.push(chunk.start);
        places.push(chunk.end);
    }
    (rows, places)
}

fn check_replay(settings: GeneratorSettings) {
    let mut partition = open_stream(settings.clone());
    let (all, places) = rows(&mut *partition);
    let mut again = open_stream(settings);
    for place in places {
        for to in [place, Position { bytes: 0, ..place }] {
            again.seek(to).unwrap();
            let (tail, _) = rows(&mut *again);
            assert_eq!(tail.len(), all.len() - place.offset as usize);
            assert!(tail == all[place.offset as usize..], "from {to:?}");
        }
    }
}

#[test]
fn impressions_are_the_same_from_any_place() {
    check_replay(GeneratorSettings { drift_every_ms: Some(100), ..settings(GeneratorStream::Impressions, 20_000) });
}

#[test]
fn clicks_are_the_same_from_any_place() {
    check_replay(GeneratorSettings { drift_every_ms: Some(100), ..settings(GeneratorStream::Clicks, 40_000) });
    // Slow and watched: a chunk is one impression's time, and delays span many of them.
    check_replay(GeneratorSettings { rate: 100, realtime: true, ..settings(GeneratorStream::Clicks, 300) });
}

/// Another chunking, and a place in the middle of a chunk, give the same clicks too.
#[test]
fn clicks_do_not_depend_on_how_chunks_are_cut() {
    let fast = settings(GeneratorStream::Clicks, 10_000);
    let (all, _) = rows(&mut *open_stream(fast.clone()));
    let (watched, _) = rows(&mut *open_stream(GeneratorSettings { realtime: true, ..fast.clone() }));
    assert!(all == watched);
    let mut partition = open_stream(fast);
    partition.seek(Position { offset: 77, bytes: 0 }).unwrap();
    assert!(rows(&mut *partition).0 == all[77..]);
}

/// The two streams tell one story: each click has its impression, in order of time, none before it or too late.
#[test]
fn clicks_belong_to_their_impressions() {
    let settings = settings(GeneratorStream::Clicks, 50_000);
    let mut world = World::new(&settings);
    let (clicks, _) = rows(&mut *open_stream(settings));
    let value = |row: &RecordBatch, c: usize| {
        arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(row.column(c)).value(0)
    };
    let mut last = (i64::MIN, 0);
    for click in &clicks {
        let (id, ts) = (value(click, 0), value(click, 1));
        assert!(last < (ts, id), "by time, then number");
        last = (ts, id);
        let impression = world.impression(id as u64);
        assert_eq!(impression.click_ts, Some(ts));
        assert!((1..=20 * 500).contains(&(ts - impression.ts)));
    }
    let clicked = (0..50_000).filter(|&k| world.impression(k).click_ts.is_some()).count();
    assert_eq!(clicks.len(), clicked);
}

/// A page that shows one impression must show what the stream said.
#[test]
fn one_impression_is_what_the_stream_says() {
    let settings = settings(GeneratorStream::Impressions, 3);
    let (all, _) = rows(&mut *open_stream(settings.clone()));
    let mut world = World::new(&settings);
    let impression = world.impression(2);
    let text = |c: usize| arrow::util::display::array_value_to_string(all[2].column(c), 0).unwrap();
    let number = |n: Option<i64>| n.map_or(String::new(), |n| n.to_string());
    let mut shown = vec![impression.imp_id.to_string(), impression.ts.to_string()];
    shown.extend(impression.numbers.map(number));
    shown.extend(impression.categories.clone());
    shown.push(impression.true_p.to_string());
    assert_eq!(shown, (0..42).map(text).collect::<Vec<_>>());
    let (user, item): (usize, usize) =
        (impression.categories[0][1..].parse().unwrap(), impression.categories[1][1..].parse().unwrap());
    assert_eq!(world.candidate(2, user, item), Impression { click_ts: None, ..impression });
}

/// Log loss of predicting `p` for the labels of impressions, in nats.
fn loss(pairs: &[(f64, bool)]) -> f64 {
    pairs.iter().map(|&(p, y)| -if y { p.ln() } else { (1.0 - p).ln() }).sum::<f64>() / pairs.len() as f64
}

/// Area under the curve, by ranks.
fn auc(pairs: &[(f64, bool)]) -> f64 {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = sorted.iter().filter(|p| p.1).count() as f64;
    let ranks: f64 = sorted.iter().enumerate().filter(|(_, p)| p.1).map(|(i, _)| i as f64 + 1.0).sum();
    (ranks - positives * (positives + 1.0) / 2.0) / (positives * (pairs.len() as f64 - positives))
}

/// What the demo promises: about a fifth is clicked, the best model ranks well and not perfectly, and a model that knows
/// only the world before a drift step is visibly worse. For several seeds, over 100,000 impressions each.
#[test]
fn the_world_is_worth_learning_and_worth_relearning() {
    for seed in [1, 7, 42, 2024] {
        let mut world = World::new(&GeneratorSettings { seed, ..settings(GeneratorStream::Impressions, 0) });
        let at = |k: u64| 40_000 + k;
        let best: Vec<(f64, bool)> =
            (0..100_000).map(|k| world.impression(at(k))).map(|i| (i.true_p, i.click_ts.is_some())).collect();
        let rate = best.iter().filter(|p| p.1).count() as f64 / best.len() as f64;
        let (best_loss, area) = (loss(&best), auc(&best));
        let sample: Vec<u64> = (0..4_000).map(|k| k * 25).collect();
        // Expected loss under the true probability, so that only the world's change counts and not the draw of labels.
        let expected = |p: f64, q: f64| -(p * q.ln() + (1.0 - p) * (1.0 - q).ln());
        let p = |k: u64| best[k as usize].0;
        let fresh: f64 = sample.iter().map(|&k| expected(p(k), p(k))).sum();
        let stale: f64 = sample.iter().map(|&k| expected(p(k), world.stale_probability(at(k), 1))).sum();
        let jump = stale / fresh - 1.0;
        println!("seed {seed}: rate {rate:.4} best loss {best_loss:.4} auc {area:.4} jump {:.2} %", jump * 100.0);
        assert!((0.17..0.23).contains(&rate), "click rate {rate}");
        assert!((0.75..0.81).contains(&area), "best AUC {area}");
        assert!((0.03..0.08).contains(&jump), "a drift step costs {:.2} % of the best loss", jump * 100.0);
        assert_eq!(world.stale_probability(at(5), 0), p(5));
    }
}

/// Few enough values to be learned within seconds.
#[test]
fn there_are_about_six_hundred_distinct_values() {
    let total: usize = (0..NUMBERS + CATEGORIES).map(world::code_count).sum();
    assert!((500..650).contains(&total), "{total}");
}

#[test]
fn a_column_the_generator_does_not_have_is_refused_with_the_list() {
    let open = |stream, name: &str, ty| {
        open_with(settings(stream, 1), Schema::new(vec![Field::new(name, ty, true)]))
            .err()
            .unwrap()
            .message()
            .to_string()
    };
    assert_eq!(
        open(GeneratorStream::Clicks, "C1", DataType::Utf8),
        "source shown: no column 'C1'; the generator's columns are imp_id BIGINT, ts BIGINT"
    );
    assert_eq!(
        open(GeneratorStream::Impressions, "tru_p", DataType::Float64),
        "source shown: no column 'tru_p'; did you mean 'true_p'?; the generator's columns are imp_id BIGINT, ts BIGINT, \
         I1..I13 BIGINT, C1..C26 STRING, true_p DOUBLE"
    );
    assert!(open(GeneratorStream::Impressions, "I1", DataType::Utf8).contains("column 'I1' is declared STRING"));
}

/// The clicks stream holds what was clicked and not shown yet; a pace and delay that would fill memory are refused.
#[test]
fn the_look_ahead_of_clicks_is_bounded() {
    let settings =
        GeneratorSettings { rate: 100_000_000, click_delay_ms: 3_600_000, ..settings(GeneratorStream::Clicks, 1) };
    let e = open_with(settings, generator_columns(GeneratorStream::Clicks)).err().unwrap();
    assert!(e.message().contains("rate x click_delay is 360,000,000,000 impressions; 20,000,000 is the most"), "{e}");
}
