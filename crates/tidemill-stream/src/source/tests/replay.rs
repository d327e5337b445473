//! The contract of every text format: rows do not depend on how the bytes came, and any place is reached again.

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// Writes `text` in pieces into a followed file and reads between them: any chunking there can be.
fn in_pieces(spec: &SourceSpec, path: &std::path::Path, text: &[u8], cuts: &[usize]) -> Seen {
    fs::write(path, b"").unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    let mut partition = open_one(spec).unwrap();
    let (mut seen, mut at) = (Seen::default(), 0);
    let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (text.len() + 1)).chain([text.len()]).collect();
    cuts.sort_unstable();
    for cut in cuts {
        file.write_all(&text[at..cut]).unwrap();
        at = cut;
        seen.read(&mut *partition).unwrap();
    }
    seen
}

/// Rows of the whole text, read once; then in pieces; then again from every place the pieces gave.
fn check(name: &str, format: FileFormat, schema: &str, text: Vec<u8>, cuts: &[usize]) -> Result<(), TestCaseError> {
    let path = std::env::temp_dir().join(format!("tidemill-replay-{name}-{}", std::process::id()));
    let schema = columns(schema);
    let name = path.to_str().unwrap();
    let whole_spec = file_spec(name, format.clone(), false, &schema);
    fs::write(&path, &text).unwrap();
    let whole = read_all(&mut *open_one(&whole_spec).unwrap());
    let pieces = in_pieces(&file_spec(name, format, true, &schema), &path, &text, cuts);
    // A growing file waits at a quote that is still open; where it waits, everything before is the same.
    let waits_at = pieces.places.last().map_or(0, |p| p.offset);
    prop_assert_eq!(pieces.behind(0), whole.before(waits_at));
    prop_assert!(waits_at as usize == whole.rows.len() + whole.refused.len() || text.contains(&b'"'));
    let mut partition = open_one(&whole_spec).unwrap();
    for place in &pieces.places {
        partition.seek(*place).unwrap();
        prop_assert_eq!(read_all(&mut *partition).behind(0), whole.behind(place.offset));
        partition.seek(Position { offset: place.offset, bytes: 0 }).unwrap();
        prop_assert_eq!(read_all(&mut *partition).behind(0), whole.behind(place.offset));
    }
    Ok(())
}

/// Text of up to 40 pieces, each one of `parts`; a newline ends it.
fn text_of(parts: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let part = proptest::sample::select(parts);
    proptest::collection::vec(part, 0..40).prop_map(|parts| [parts.concat(), b"\n".to_vec()].concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(any::<usize>(), 0..12)
}

const CSV: &[&[u8]] = &[
    b"1,a\n",
    b"2,\"b\"\r\n",
    b"3,\"c\nd\"\n",
    b"\"4\",\"e\"\"f\"\n",
    b"\n",
    b"\r\n",
    b"x,y\n",
    b"5,\"",
    b"\"",
    b",",
    b"6",
    b"\n",
    b"\xff\n",
    b"\0",
    b"7,z,z\n",
    b"\xef\xbb\xbf",
    b"\r",
];
const JSON: &[&[u8]] = &[
    b"{\"id\":1}\n",
    b"{\"name\":\"a\"}\r\n",
    b" \n",
    b"{\"id\":\"x\"}\n",
    b"{",
    b"}",
    b"\"id\":2",
    b"\n",
    b"[]\n",
    b"\xff",
    b"\0",
];
const SPARSE: &[&[u8]] = &[
    b"1 1:2 3:4\n",
    b"-1 1:1:1\r\n",
    b"#\n",
    b"\n",
    b"x\n",
    b"1 ",
    b"2:3 ",
    b"\n",
    b"\xff",
    b":",
    b"0 |f a b:2 |g:2 c\n",
    b"|",
    b"1 'tag|f x\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn csv_rows_do_not_depend_on_chunks(text in text_of(CSV), cuts in cuts()) {
        check("csv", csv(), "id BIGINT, name STRING", [b"name,id\n".to_vec(), text].concat(), &cuts)?;
    }

    #[test]
    fn tsv_rows_without_header_do_not_depend_on_chunks(text in text_of(CSV), cuts in cuts()) {
        let format = FileFormat::Delimited { delimiter: b',', header: false, null: "6".into() };
        check("tsv", format, "id BIGINT, name STRING", text, &cuts)?;
    }

    #[test]
    fn json_rows_do_not_depend_on_chunks(text in text_of(JSON), cuts in cuts()) {
        check("json", FileFormat::Json, "id BIGINT, name STRING", text, &cuts)?;
    }

    #[test]
    fn libsvm_rows_do_not_depend_on_chunks(text in text_of(SPARSE), cuts in cuts()) {
        check("libsvm", FileFormat::Libsvm, "label DOUBLE, features SPARSE", text, &cuts)?;
    }

    #[test]
    fn vw_rows_do_not_depend_on_chunks(text in text_of(SPARSE), cuts in cuts()) {
        check("vw", FileFormat::Vw, "label DOUBLE, features SPARSE, tag STRING", text, &cuts)?;
    }
}
