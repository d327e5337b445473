//! How fast text becomes columns, by command: `cargo test -p tidemill-stream --test speed -- --ignored --nocapture`.
//!
//! `TIDEMILL_CSV` and `TIDEMILL_VW` name files to read in place of made ones; the columns are told from the header: a name
//! that begins with C is text, with D a DOUBLE, any other a whole number. Files are read from the page cache. Each figure stands beside what
//! a bare loop over the same bytes reaches that only cuts lines and fields and adds up digits, measured in turns with it.

use std::{fmt::Write, fs, path::PathBuf, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_base::{Clock, Rng, SystemClock};
use tidemill_stream::source::{self, Connector, FileFormat, FileSettings, Read, SourceSpec, sparse_type};

const TURNS: usize = 5;
/// Of a long file only the beginning is read.
const BYTES_MAX: usize = 256 << 20;

/// Where a turn's text lies; removed when the measurement is over.
struct Text(PathBuf, Vec<u8>);

impl Text {
    fn new(name: &str, given: &str, make: impl FnOnce() -> String) -> Self {
        let mut bytes = match std::env::var_os(given) {
            Some(path) => fs::read(path).unwrap(),
            None => make().into_bytes(),
        };
        if bytes.len() > BYTES_MAX {
            let end = bytes[..BYTES_MAX].iter().rposition(|b| *b == b'\n').unwrap();
            bytes.truncate(end + 1);
        }
        let path = std::env::temp_dir().join(format!("tidemill-speed-{}-{name}", std::process::id()));
        fs::write(&path, &bytes).unwrap();
        Self(path, bytes)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn read_all(text: &Text, format: &FileFormat, columns: &SchemaRef) -> usize {
    let connector = Connector::File(FileSettings {
        path: text.0.to_str().unwrap().to_string(),
        format: format.clone(),
        follow: false,
    });
    let spec = SourceSpec::new("clicks", columns.clone(), connector);
    let mut partition = source::open(&spec, &[]).unwrap().pop().unwrap().partition;
    let mut rows = 0;
    while let Read::Chunk(chunk) = partition.read().unwrap() {
        assert!(chunk.refused.is_empty(), "{}", chunk.refused[0].reason);
        rows += chunk.rows.num_rows();
    }
    rows
}

/// The least anyone has to do: find the end of every field, and take its digits for a number.
fn split_and_parse(text: &[u8], delimiter: u8) -> u64 {
    let (mut sum, mut x) = (0u64, 0u64);
    for b in text {
        if *b == delimiter || *b == b'\n' {
            sum = sum.wrapping_add(x);
            x = 0;
        } else {
            x = x.wrapping_mul(10).wrapping_add(b.wrapping_sub(b'0') as u64);
        }
    }
    sum
}

fn measure(what: &str, text: &Text, format: &FileFormat, columns: &SchemaRef, delimiter: u8) {
    let clock = SystemClock::new();
    let (mut ours, mut bare, mut rows) = (Vec::new(), Vec::new(), 0);
    for _ in 0..TURNS {
        let begin = clock.elapsed();
        rows = read_all(text, format, columns);
        ours.push((clock.elapsed() - begin).as_secs_f64());
        let begin = clock.elapsed();
        std::hint::black_box(split_and_parse(&text.1, delimiter));
        bare.push((clock.elapsed() - begin).as_secs_f64());
    }
    [&mut ours, &mut bare].iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
    let speed = |seconds: f64| format!("{:7.1} MB/s", text.1.len() as f64 / seconds / 1e6);
    println!(
        "{what:34} {} {:7.3} M rows/s, median {}; bare loop {}, median {}",
        speed(ours[0]),
        rows as f64 / ours[0] / 1e6,
        speed(ours[TURNS / 2]),
        speed(bare[0]),
        speed(bare[TURNS / 2]),
    );
}

fn schema(header: &str) -> SchemaRef {
    let field = |name: &str| {
        let name = name.trim().trim_matches('"');
        let data_type = match name.as_bytes()[0] {
            b'C' => DataType::Utf8,
            b'D' => DataType::Float64,
            _ => DataType::Int64,
        };
        Field::new(name, data_type, true)
    };
    Arc::new(Schema::new(header.split(',').map(field).collect::<Vec<_>>()))
}

/// A label, a time, and 39 columns of small numbers, some missing.
fn clicks(
    rng: &mut Rng,
    rows: usize,
    letter: &str,
    nulls_in_100: u64,
    value: impl Fn(&mut Rng, usize) -> String,
) -> String {
    let mut text = String::from("label,ts");
    (0..39).for_each(|i| write!(text, ",{letter}{i}").unwrap());
    text.push('\n');
    for row in 0..rows {
        write!(text, "{},{}", rng.below(2), 1_700_000_000_000 + row).unwrap();
        for i in 0..39 {
            text.push(',');
            if rng.below(100) >= nulls_in_100 {
                let value = value(rng, i);
                text.push_str(&value);
            }
        }
        text.push('\n');
    }
    text
}

fn small(rng: &mut Rng, i: usize) -> String {
    rng.below(10u64.pow(1 + i as u32 % 6)).to_string()
}

/// Measures CSV whose columns are told by their names.
fn measure_csv(what: &str, text: &Text) {
    let format = FileFormat::Delimited { delimiter: b',', header: true, null: String::new() };
    let header = text.1.split(|b| *b == b'\n').next().unwrap();
    measure(what, text, &format, &schema(std::str::from_utf8(header).unwrap()), b',');
}

#[test]
#[ignore = "a measurement, not a test"]
fn csv_whole_numbers() {
    let mut rng = Rng::seeded(1);
    let given = std::env::var_os("TIDEMILL_CSV").is_some();
    let text = Text::new("numbers.csv", "TIDEMILL_CSV", || clicks(&mut rng, 300_000, "I", 20, small));
    measure_csv(if given { "the given file" } else { "39 small BIGINT, 20% NULL" }, &text);
}

#[test]
#[ignore = "a measurement, not a test"]
fn csv_whole_numbers_without_null() {
    let text = Text::new("full.csv", "", || clicks(&mut Rng::seeded(2), 300_000, "I", 0, small));
    measure_csv("39 small BIGINT", &text);
}

#[test]
#[ignore = "a measurement, not a test"]
fn csv_decimals() {
    let decimal = |rng: &mut Rng, _| format!("{}.{:03}", rng.below(1000), rng.below(1000));
    let text = Text::new("decimals.csv", "", || clicks(&mut Rng::seeded(3), 200_000, "D", 0, decimal));
    measure_csv("39 DOUBLE", &text);
}

#[test]
#[ignore = "a measurement, not a test"]
fn csv_quoted() {
    let quoted = |rng: &mut Rng, i| if i == 7 { "\"a, b\"".to_string() } else { small(rng, i) };
    let text = Text::new("quoted.csv", "", || clicks(&mut Rng::seeded(4), 100_000, "C", 0, quoted));
    measure_csv("39 STRING, one quoted in every row", &text);
}

#[test]
#[ignore = "a measurement, not a test"]
fn vw() {
    let mut rng = Rng::seeded(1);
    let make = || {
        let mut text = String::new();
        for _ in 0..200_000 {
            text.push_str(if rng.below(2) == 0 { "-1 |f" } else { "1 |f" });
            (0..39u8).for_each(|i| write!(text, " {}{:08x}", (b'A' + i) as char, rng.below(1 << 32)).unwrap());
            text.push('\n');
        }
        text
    };
    let text = Text::new("clicks.vw", "TIDEMILL_VW", make);
    let columns = Arc::new(Schema::new(vec![
        Field::new("label", DataType::Float64, true),
        Field::new("features", sparse_type(), true),
    ]));
    measure("vw, 39 features", &text, &FileFormat::Vw, &columns, b' ');
}
