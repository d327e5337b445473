//! Paths, patterns, compression, Parquet, growing files; and what an earlier run relies on.

use std::{io::Write, os::unix::fs::PermissionsExt, path::Path};

use ::parquet::arrow::ArrowWriter;
use arrow::array::*;
use expect_test::expect;
use tidemill_base::{Error, Kind};

use super::*;

const SCHEMA: &str = "id BIGINT, name STRING";

fn spec(path: &Path, follow: bool) -> SourceSpec {
    file_spec(path.to_str().unwrap(), csv(), follow, &columns(SCHEMA))
}

fn error(spec: &SourceSpec, known: &[String]) -> Error {
    open(spec, known).err().expect("it opened")
}

#[test]
fn a_pattern_gives_one_partition_a_file_sorted_by_name() {
    let d = dir("pattern");
    for name in ["b.csv", "a.csv", "c.txt"] {
        fs::write(d.join(name), format!("id,name\n1,{name}\n")).unwrap();
    }
    fs::create_dir(d.join("d.csv")).unwrap();
    let names = |opened: Vec<Opened>| opened.iter().map(|o| o.partition.name().to_string()).collect::<Vec<_>>();
    let at = |name: &str| d.join(name).to_str().unwrap().to_string();
    assert_eq!(names(open(&spec(&d.join("*.csv"), false), &[]).unwrap()), [at("a.csv"), at("b.csv")]);

    let follow = spec(&d.join("*.csv"), true);
    let known = names(open(&follow, &[]).unwrap());
    assert!(open_new(&follow, &known).unwrap().is_empty());
    fs::write(d.join("a2.csv"), "id,name\n").unwrap();
    assert_eq!(names(open_new(&follow, &known).unwrap()), [at("a2.csv")]);

    // A file whose name looks like a pattern is taken as it stands.
    fs::write(d.join("e[1].csv"), "id,name\n").unwrap();
    assert_eq!(names(open(&spec(&d.join("e[1].csv"), false), &[]).unwrap()), [at("e[1].csv")]);
}

/// What cannot be opened is said with the path and what to do.
#[test]
fn a_file_that_is_not_there_or_not_readable_is_named() {
    let d = dir("not-there");
    let clean = |e: Error| (e.kind(), e.message().replace(d.to_str().unwrap(), "D"));
    let expect = |kind, message: &str| (kind, message.to_string());
    assert_eq!(
        clean(error(&spec(&d.join("x*.csv"), false), &[])),
        expect(Kind::NotFound, "source clicks: no file matches 'D/x*.csv'")
    );
    assert_eq!(
        clean(error(&spec(&d, false), &[])),
        expect(Kind::Invalid, "source clicks: D is a directory; name its files, for example 'D/*.csv'")
    );
    let gone = d.join("gone.csv").to_str().unwrap().to_string();
    fs::write(d.join("x.csv"), "id,name\n").unwrap();
    assert_eq!(
        clean(error(&spec(&d.join("*.csv"), false), &[gone])),
        expect(
            Kind::Conflict,
            "source clicks partition 'D/gone.csv': the file is no longer there; put it back, or start again with --from-scratch"
        )
    );
    assert!(open(&spec(&d.join("*.csv"), false), &["push".to_string()]).is_ok(), "the push log is no file");
    fs::set_permissions(d.join("x.csv"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read anything; then there is nothing to see here.
    if fs::File::open(d.join("x.csv")).is_err() {
        let (kind, message) = clean(error(&spec(&d.join("x.csv"), false), &[]));
        assert_eq!((kind, message.contains("open D/x.csv: Permission denied")), (Kind::Unavailable, true));
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// Compressed files give the rows of the text in them, members one after the other, and replay from every chunk.
#[test]
fn compressed_files_read_as_the_text_in_them() {
    let d = dir("compressed");
    let text: String = (0..20_000).fold("id,name\n".to_string(), |t, i| t + &format!("{i},name {i}\n"));
    let (head, tail) = text.as_bytes().split_at(text.len() / 3);
    fs::write(d.join("x.csv"), &text).unwrap();
    fs::write(d.join("x.csv.gz"), [gzip(head), gzip(tail)].concat()).unwrap();
    let zst = [head, tail].map(|t| zstd::encode_all(t, 1).unwrap()).concat();
    fs::write(d.join("x.csv.zst"), zst).unwrap();
    let plain = read_all(&mut *open_one(&spec(&d.join("x.csv"), false)).unwrap());
    assert_eq!(plain.rows.len(), 20_000);
    for name in ["x.csv.gz", "x.csv.zst"] {
        let mut partition = open_one(&spec(&d.join(name), false)).unwrap();
        let seen = read_all(&mut *partition);
        assert_eq!(seen, plain);
        check_replay(&mut *partition, &seen);
    }
}

/// Rows in front of the damage are handed out; then the damage is named.
#[test]
fn a_damaged_compressed_file_is_named_behind_its_good_rows() {
    let d = dir("damaged");
    // Long enough for several blocks of either format.
    let text: String = (0..60_000).fold("id,name\n".to_string(), |t, i| t + &format!("{i},name {}\n", i * 7919 % 1000));
    let whole = gzip(text.as_bytes());
    fs::write(d.join("short.csv.gz"), &whole[..whole.len() / 2]).unwrap();
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    fs::write(d.join("short.csv.zst"), &zst[..zst.len() / 2]).unwrap();
    for name in ["short.csv.gz", "short.csv.zst"] {
        let mut partition = open_one(&spec(&d.join(name), false)).unwrap();
        let mut seen = Seen::default();
        let e = seen.read(&mut *partition).unwrap_err();
        assert!(e.kind() == Kind::Corrupt && e.message().contains(name) && e.message().contains("not valid"), "{e}");
        assert!(seen.rows.len() > 1000, "{name}: {} rows", seen.rows.len());
    }
    fs::write(d.join("no.csv.gz"), "id,name\n1,a\n").unwrap();
    let e = error(&spec(&d.join("no.csv.gz"), false), &[]);
    assert!(e.message().contains("no.csv.gz: not valid gzip"), "{e}");
    fs::write(d.join("no.csv.zst"), "id,name\n1,a\n").unwrap();
    let e = error(&spec(&d.join("no.csv.zst"), false), &[]);
    assert!(e.message().contains("no.csv.zst: not valid zstd"), "{e}");
}

/// A followed file grows by whole lines: half a row is no row yet.
#[test]
fn a_followed_file_hands_out_whole_lines_only() {
    let path = dir("follow").join("x.csv");
    fs::write(&path, "").unwrap();
    let mut partition = open_one(&spec(&path, true)).unwrap();
    let append =
        |text: &str| fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let mut seen = Seen::default();
    for (text, rows) in [("id,na", 0), ("me\n1,a", 0), ("\n2,b\n3,\"x\n", 2), ("y", 2), ("\"\n4,d", 3), ("\n", 4)] {
        append(text);
        seen.read(&mut *partition).unwrap();
        assert_eq!(seen.rows.len(), rows, "after {text:?}");
        assert!(matches!(partition.read().unwrap(), Read::Pending));
    }
    assert_eq!(seen.rows[2].1, "3|x\ny");
    check_replay(&mut *partition, &seen);
    fs::write(&path, "id,name\n1,a\n").unwrap();
    let e = partition.read().unwrap_err();
    assert!(e.kind() == Kind::Conflict && e.message().ends_with("became shorter while it was followed"), "{e}");
}

#[test]
fn files_that_cannot_grow_are_refused_with_follow() {
    let d = dir("follow-refused");
    fs::write(d.join("x.csv.gz"), gzip(b"id,name\n")).unwrap();
    let e = error(&spec(&d.join("x.csv.gz"), true), &[]);
    assert!(e.message().ends_with("follow = true needs plain text files, which grow line by line"), "{e}");
}

/// What a checkpoint points at must still be there, or the run must not go on.
#[test]
fn a_file_cut_or_replaced_behind_our_back_is_a_conflict() {
    let path = dir("cut").join("x.csv");
    let text: String = (0..20_000).fold("id,name\n".to_string(), |t, i| t + &format!("{i},n\n"));
    fs::write(&path, &text).unwrap();
    let seen = read_all(&mut *open_one(&spec(&path, false)).unwrap());
    let place = seen.places[1];
    assert_eq!(place.offset, CHUNK_ROWS_MAX as u64);
    fs::write(&path, &text[..1000]).unwrap();
    let mut partition = open_one(&spec(&path, false)).unwrap();
    for to in [place, Position { bytes: 0, ..place }] {
        let e = partition.seek(to).unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        let expected = format!("source clicks partition '{}': offset 8,192 no longer available", path.display());
        assert!(e.message().starts_with(&expected), "{e}");
    }
    // Another text of the same length: the place is no longer between two rows.
    fs::write(&path, text.replace(",n\n", "\n,n")).unwrap();
    let mut partition = open_one(&spec(&path, false)).unwrap();
    assert_eq!(partition.seek(place).unwrap_err().kind(), Kind::Conflict);
}

fn write_parquet(path: &Path, batch: &RecordBatch) {
    let properties =
        ::parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(3000)).build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn parquet_spec(path: &Path, schema: &str) -> SourceSpec {
    file_spec(path.to_str().unwrap(), FileFormat::Parquet, false, &columns(schema))
}

/// Row groups are skipped, not read, on the way to a place; offsets are row numbers.
#[test]
fn parquet_replays_from_every_row() {
    let path = dir("parquet").join("x.parquet");
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
    let names: ArrayRef = Arc::new(StringArray::from_iter((0..20_000).map(|i| (i % 7 != 0).then(|| format!("n{i}")))));
    let extra: ArrayRef = Arc::new(BooleanArray::from(vec![true; 20_000]));
    write_parquet(&path, &RecordBatch::try_from_iter([("extra", extra), ("id", ids), ("name", names)]).unwrap());
    let mut partition = open_one(&parquet_spec(&path, "name STRING, id BIGINT")).unwrap();
    let seen = read_all(&mut *partition);
    assert_eq!((seen.rows.len(), &*seen.rows[1].1), (20_000, "n1|1"));
    check_replay(&mut *partition, &seen);
    for offset in [1, 2999, 3000, 3001, 19_999, 20_000] {
        partition.seek(Position { offset, bytes: 0 }).unwrap();
        assert_eq!(read_all(&mut *partition).behind(0), seen.behind(offset));
    }
    let e = partition.seek(Position { offset: 20_001, bytes: 0 }).unwrap_err();
    assert!(e.message().contains("offset 20,001 no longer available"), "{e}");
}

/// Every value arrives as it was or not at all.
#[test]
fn parquet_types_are_converted_where_nothing_is_lost() {
    let path = dir("parquet-types").join("x.parquet");
    let small: ArrayRef = Arc::new(Int16Array::from(vec![Some(1), None, Some(-3)]));
    let big: ArrayRef = Arc::new(Int64Array::from(vec![1, 1 << 40, 3]));
    let us: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_000_000, 5, 1_001]).with_timezone("UTC"));
    let x: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 1.5, 2.5]));
    let s: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b", "c"]));
    let dict: ArrayRef =
        Arc::new(vec!["p", "q", "p"].into_iter().collect::<DictionaryArray<arrow::datatypes::Int32Type>>());
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&b"ok"[..], b"fine", b"good"]));
    let cols = [("small", small), ("big", big), ("us", us), ("x", x), ("s", s), ("dict", dict), ("bytes", bytes)];
    write_parquet(&path, &RecordBatch::try_from_iter(cols).unwrap());
    let schema = "small BIGINT, big INT, us TIMESTAMP, x DOUBLE, s STRING, dict STRING, bytes STRING";
    let mut partition = open_one(&parquet_spec(&path, schema)).unwrap();
    let seen = read_all(&mut *partition);
    expect![[r#"
        0: 1|1|2023-11-14T22:13:20|0.5|a|p|ok
        1: refused: row 2: column 'big': 1099511627776 does not fit INT
        2: refused: row 3: column 'us': 1001 Microseconds does not fit TIMESTAMP(3)
    "#]]
    .assert_eq(&listing(&seen));
    check_replay(&mut *partition, &seen);
    let message =
        |schema: &str| error(&parquet_spec(&path, schema), &[]).message().replace(path.to_str().unwrap(), "x.parquet");
    expect![[r#"source clicks: x.parquet: column 'us' is Timestamp(µs, "UTC") in the file and cannot be read as BIGINT without loss"#]].assert_eq(&message("x FLOAT, big FLOAT, us BIGINT"));
    expect!["source clicks: x.parquet: column 's' is LargeUtf8 in the file and cannot be read as BIGINT without loss"]
        .assert_eq(&message("s BIGINT"));
    expect!["source clicks: x.parquet: the file has no column 'smal'; did you mean 'small'?"]
        .assert_eq(&message("smal BIGINT"));
    fs::write(&path, "id,name\n1,a\n").unwrap();
    expect!["source clicks: x.parquet is not a Parquet file that can be read: Parquet error: Invalid Parquet file. Corrupt footer"].assert_eq(&message("small BIGINT"));
}

/// Sparse features from Parquet, under the names its writers use, with bad entries refused by row.
#[test]
fn parquet_lists_of_index_and_value_are_sparse_features() {
    let path = dir("parquet-sparse").join("x.parquet");
    let index: ArrayRef = Arc::new(Int64Array::from(vec![7, 8, -1, 9]));
    let value: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 1.0, 1.0, 2.0]));
    let entries = StructArray::try_from(vec![("index", index), ("value", value)]).unwrap();
    let item = Arc::new(Field::new("element", entries.data_type().clone(), true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([2, 1, 0, 1]);
    let list: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(entries), None));
    write_parquet(&path, &RecordBatch::try_from_iter([("features", list)]).unwrap());
    let seen = read_all(&mut *open_one(&parquet_spec(&path, "features SPARSE")).unwrap());
    expect![[r#"
        0: [{index: 7, value: 0.5}, {index: 8, value: 1.0}]
        1: refused: row 2: column 'features': an entry without a value or with a negative index does not fit SPARSE
        2: []
        3: [{index: 9, value: 2.0}]
    "#]]
    .assert_eq(&listing(&seen));
}
