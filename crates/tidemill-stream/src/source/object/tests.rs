//! Objects read as files are, from a store that fails, is away, and counts what it is asked for.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    sync::Mutex,
};

use ::parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray},
    ipc::writer::{FileWriter, StreamWriter},
};

use super::{
    reader::{BLOCK_BYTES, BLOCK_BYTES_MAX},
    *,
};
use crate::source::{self as sources, Connector, FileSettings, origin::Failure, tests::columns};

const SCHEMA: &str = "id BIGINT, name STRING";

/// A store of one object.
#[derive(Default)]
struct Shelf {
    bytes: Vec<u8>,
    name: String,
    gone: bool,
    /// What was asked for: from where, how many bytes.
    asked: Mutex<Vec<(u64, usize)>>,
    /// How many requests fail from the one of this number on.
    fails: Mutex<(usize, usize)>,
    waited: Mutex<usize>,
}

impl Shelf {
    fn of(name: &str, bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, name: format!("s3://b/{name}"), ..Self::default() })
    }

    fn asked(&self) -> Vec<(u64, usize)> {
        self.asked.lock().unwrap().clone()
    }

    fn fail(&self, from: usize, requests: usize) {
        *self.fails.lock().unwrap() = (from, requests);
    }
}

impl Object for Shelf {
    fn name(&self) -> &str {
        &self.name
    }

    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn print(&self) -> Option<Print> {
        (!self.gone).then_some(Print { bytes: self.bytes(), hash: 7 })
    }

    fn fetch(&self, at: u64, bytes: usize) -> Fetch {
        let mut asked = self.asked.lock().unwrap();
        asked.push((at, bytes));
        let mut fails = self.fails.lock().unwrap();
        if asked.len() > fails.0 && fails.1 > 0 {
            fails.1 -= 1;
            return Fetch::of(Err(Error::unavailable("the store is away")));
        }
        if self.gone {
            return Fetch::of(Err(Error::not_found(format!("{}: the object is no longer there", self.name))));
        }
        Fetch::of(Ok(self.bytes[at as usize..at as usize + bytes].to_vec()))
    }

    fn wait(&self) -> Result<()> {
        *self.waited.lock().unwrap() += 1;
        match *self.waited.lock().unwrap() > 20 {
            true => Err(Error::unavailable("the store is away; it has been away for too long")),
            false => Ok(()),
        }
    }
}

fn partition(shelf: &Arc<Shelf>, format: &FileFormat, follows: bool) -> ObjectPartition {
    let spec = SourceSpec::new("clicks", columns(SCHEMA), Connector::Http);
    ObjectPartition::new(&spec, shelf.clone(), format, follows, Arc::default())
}

/// Rows as text with their offsets, and where chunks ended.
fn read(partition: &mut dyn Partition) -> Result<(Vec<String>, Vec<Position>)> {
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    while let Read::Chunk(chunk) = partition.read()? {
        for i in 0..chunk.rows.num_rows() {
            let value = |c: &ArrayRef| arrow::util::display::array_value_to_string(c, i).unwrap();
            let values: Vec<String> = chunk.rows.columns().iter().map(value).collect();
            rows.push(format!("{}: {}", chunk.offset(i), values.join("|")));
        }
        rows.extend(chunk.refused.iter().map(|r| format!("{}: refused: {}", r.offset, r.reason)));
        places.push(chunk.end);
    }
    Ok((rows, places))
}

fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
    let name = |i: i64| format!("name-{}-{}", i % 17, i.wrapping_mul(0x9e37_79b9_7f4a_7c15u64 as i64));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.clone().map(|i| format!("{i:0200}")))),
        Arc::new(StringArray::from_iter_values(rows.clone().map(name))),
        Arc::new(Int64Array::from_iter_values(rows)),
    ];
    RecordBatch::try_new(tests_schema(), columns).unwrap()
}

/// What is stored has a wide column that nobody declares.
fn tests_schema() -> SchemaRef {
    columns("wide STRING, name STRING, id BIGINT")
}

fn csv(rows: i64) -> Vec<u8> {
    let mut text = b"id,wide,name\n".to_vec();
    for i in 0..rows {
        writeln!(text, "{i},{:0100},n{}", i, i % 7).unwrap();
    }
    text
}

/// The same rows in each form, as `name`, format and bytes.
fn forms(rows: i64) -> Vec<(&'static str, FileFormat, Vec<u8>)> {
    let delimited = FileFormat::Delimited { delimiter: b',', header: true, null: String::new() };
    let mut json = Vec::new();
    (0..rows).for_each(|i| writeln!(json, r#"{{"id": {i}, "name": "n{}"}}"#, i % 7).unwrap());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&csv(rows)).unwrap();
    let batches: Vec<RecordBatch> = (0..rows).step_by(1000).map(|i| batch(i..(i + 1000).min(rows))).collect();
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(5_000)).set_data_page_row_count_limit(500).build();
    let mut parquet = ArrowWriter::try_new(Vec::new(), tests_schema(), Some(properties)).unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &tests_schema()).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &tests_schema()).unwrap();
    for batch in &batches {
        parquet.write(batch).unwrap();
        file.write(batch).unwrap();
        stream.write(batch).unwrap();
    }
    file.finish().unwrap();
    stream.finish().unwrap();
    vec![
        ("a.csv", delimited.clone(), csv(rows)),
        ("a.csv.gz", delimited.clone(), gzip.finish().unwrap()),
        ("a.csv.zst", delimited, zstd::encode_all(&csv(rows)[..], 1).unwrap()),
        ("a.json", FileFormat::Json, json),
        ("a.parquet", FileFormat::Parquet, parquet.into_inner().unwrap()),
        ("a.arrow", FileFormat::Arrow, file.into_inner().unwrap()),
        ("a.arrows", FileFormat::Arrow, stream.into_inner().unwrap()),
    ]
}

/// Of an object come the rows that come of a file with these bytes, from any place on, and also where every third request
/// fails.
#[test]
fn an_object_gives_what_a_file_of_its_bytes_gives() {
    let d = std::env::temp_dir().join(format!("tidemill-object-{}", std::process::id()));
    fs::create_dir_all(&d).unwrap();
    for (name, format, bytes) in forms(20_000) {
        let path = d.join(name);
        fs::write(&path, &bytes).unwrap();
        let settings = FileSettings { path: path.to_str().unwrap().into(), format: format.clone(), follow: false };
        let spec = SourceSpec::new("clicks", columns(SCHEMA), Connector::File(settings));
        let (expected, _) = read(&mut *sources::open(&spec, &[]).unwrap().pop().unwrap().partition).unwrap();
        assert_eq!(expected.len(), 20_000);

        let shelf = Shelf::of(name, bytes);
        let mut object = partition(&shelf, &format, false);
        let (rows, places) = read(&mut object).unwrap();
        assert_eq!(rows.len(), expected.len(), "{name}");
        assert!(rows == expected, "{name}");
        assert_eq!(object.open.load(Ordering::Relaxed), 0, "{name}: let go at its end");
        for place in [places[0], places[places.len() / 2], places[places.len() - 1]] {
            object.seek(place).unwrap();
            assert!(read(&mut object).unwrap().0 == expected[place.offset as usize..], "{name} from {place:?}");
        }
        for from in 0..shelf.asked().len().min(6) {
            let shelf = Shelf::of(name, shelf.bytes.clone());
            shelf.fail(from, 3);
            assert!(read(&mut partition(&shelf, &format, false)).unwrap().0 == expected, "{name}, away at {from}");
        }
    }
    fs::remove_dir_all(&d).unwrap();
}

/// Whose first row is looked at costs one small request; read on, blocks grow and come ahead; no byte comes twice.
#[test]
fn blocks_are_small_at_first_and_grow() {
    let shelf = Shelf::of("x", (0..20 << 20).map(|i: u32| (i >> 3) as u8).collect());
    let mut reader = ObjectReader::new(shelf.clone(), Failure::default());
    let mut byte = [0];
    reader.read_exact(&mut byte).unwrap();
    assert_eq!(shelf.asked(), [(0, BLOCK_BYTES as usize)]);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest == shelf.bytes[1..]);
    let asked = shelf.asked();
    assert_eq!(asked.iter().map(|a| a.1).sum::<usize>(), shelf.bytes.len());
    assert!(asked.windows(2).all(|w| w[0].0 + w[0].1 as u64 == w[1].0), "{asked:?}");
    assert_eq!(asked.iter().map(|a| a.1).max(), Some(BLOCK_BYTES_MAX as usize));
    assert!(asked.len() < 10, "{asked:?}");

    // What stands at the end is fetched once, though it is read from there to the front.
    let mut reader = ObjectReader::new(shelf.clone(), Failure::default());
    let before = shelf.asked().len();
    for back in [10, 100, 5_000] {
        reader.seek(SeekFrom::End(-back)).unwrap();
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], shelf.bytes[shelf.bytes.len() - back as usize]);
    }
    assert_eq!(shelf.asked().len(), before + 1);
}

/// Of a Parquet object only the declared columns come, each byte once.
#[test]
fn columns_that_are_not_declared_are_not_fetched() {
    let (name, format, bytes) = forms(50_000).remove(4);
    let shelf = Shelf::of(name, bytes);
    assert_eq!(read(&mut partition(&shelf, &format, false)).unwrap().0.len(), 50_000);
    let fetched: usize = shelf.asked().iter().map(|a| a.1).sum();
    let (narrow, whole) = (columns(SCHEMA), shelf.bytes.len());
    assert!(narrow.fields().len() == 2 && fetched < whole * 9 / 10, "{fetched} of {whole} bytes");
    let mut all = shelf.asked();
    all.sort_unstable();
    let footer = whole as u64 - BLOCK_BYTES;
    let of_columns = all.iter().filter(|a| a.0 < footer).collect::<Vec<_>>();
    assert!(of_columns.windows(2).all(|w| w[0].0 + w[0].1 as u64 <= w[1].0), "fetched twice: {of_columns:?}");
}

/// A bounded source's store is waited for, but not for ever.
#[test]
fn a_store_that_stays_away_ends_a_bounded_source() {
    let shelf = Shelf::of("a.csv", csv(100));
    shelf.fail(0, usize::MAX);
    let e = read(&mut partition(&shelf, &forms(1)[0].1, false)).unwrap_err();
    assert_eq!((e.kind(), e.message()), (Kind::Unavailable, "the store is away; it has been away for too long"));
}

/// A followed source tells its trouble and goes on where it was; it neither waits nor ends.
#[test]
fn a_store_that_is_away_is_trouble_to_a_followed_source() {
    let shelf = Shelf::of("a.csv", csv(20_000));
    let mut object = partition(&shelf, &forms(1)[0].1, true);
    let Read::Chunk(first) = object.read().unwrap() else { panic!("no rows") };
    shelf.fail(0, 5);
    let mut rows = first.rows.num_rows() as u64;
    let mut troubles = 0;
    loop {
        match object.read().unwrap() {
            Read::Chunk(chunk) => {
                assert_eq!(chunk.start.offset, rows);
                rows = chunk.end.offset;
                assert_eq!(object.trouble(), None);
            }
            Read::Pending => {
                assert_eq!(object.trouble().unwrap(), "the store is away");
                troubles += 1;
            }
            Read::End => break,
        }
    }
    assert_eq!((rows, troubles, *shelf.waited.lock().unwrap()), (20_000, 5, 0));
}

/// One that is gone is missed where rows of it are needed: then it is said which.
#[test]
fn an_object_that_is_gone_is_missed_when_a_row_of_it_is_needed() {
    let gone = Arc::new(Shelf { gone: true, name: "s3://b/a.csv".into(), bytes: csv(10), ..Shelf::default() });
    let mut object = partition(&gone, &forms(1)[0].1, true);
    assert!(object.is_gone() && matches!(object.read().unwrap(), Read::End), "nothing of it was read");
    object.seek(Position { offset: 4, bytes: 0 }).unwrap();
    let e = object.read().unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert_eq!(
        e.message(),
        "s3://b/a.csv: the object is no longer there, and its rows from 4 on are still needed; put it back, or start again \
         with --from-scratch"
    );
}
