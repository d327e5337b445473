//! JSON lines: good and bad inputs.

use expect_test::expect;

use super::{json::JsonDecoder, *};

const SCHEMA: &str = "id BIGINT, n INT, x DOUBLE, w FLOAT, s STRING, ok BOOLEAN, ts TIMESTAMP, f SPARSE";

fn push(lines: &[&[u8]]) -> (JsonDecoder, String) {
    let mut decoder = JsonDecoder::new(columns(SCHEMA)).unwrap();
    let mut out = String::new();
    for line in lines {
        if let Err(why) = decoder.push_line(line) {
            out += &format!("{} -> {why}\n", line[..line.len().min(60)].escape_ascii());
        }
    }
    (decoder, out)
}

#[test]
fn an_object_fills_the_declared_columns_and_unknown_keys_are_counted() {
    let (mut decoder, refused) = push(&[
        br#"{"id":1,"n":2,"x":0.5,"w":1,"s":"a\u00e9\n","ok":true,"ts":1700000000000,"f":[{"index":7,"value":0.5},[8,1]]}"#,
        br#"{"s":null,"more":{"a":[1,2,{"b":"\ud83d\ude00"}],"c":null},"id":3.0,"other":1e300}"#,
        br#" { } "#,
        br#"{"x":-0.0,"f":[],"id":9007199254740993}"#,
    ]);
    assert_eq!(refused, "");
    assert_eq!(decoder.unknown_keys(), 2);
    let batch = decoder.finish();
    let rows: Vec<_> = (0..batch.num_rows()).map(|i| row(&batch, i)).collect();
    expect![[r#"
        1|2|0.5|1.0|aé
        |true|2023-11-14T22:13:20|[{index: 7, value: 0.5}, {index: 8, value: 1.0}]
        3|NULL|NULL|NULL|NULL|NULL|NULL|NULL
        NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL
        9007199254740993|NULL|-0.0|NULL|NULL|NULL|NULL|[]"#]]
    .assert_eq(&rows.join("\n"));
}

#[test]
fn a_bad_object_is_refused_with_its_reason_and_leaves_no_trace() {
    let deep = [b"{\"a\":".to_vec(), vec![b'['; 10_000]].concat();
    let deepest = [b"{\"a\":".to_vec(), vec![b'['; 31], vec![b']'; 31], b"}".to_vec()].concat();
    let (mut decoder, refused) = push(&[
        br#"{"id":"1"}"#,
        br#"{"id":1,"s":2}"#,
        br#"{"id":1,"ok":1}"#,
        br#"{"id":1.5}"#,
        br#"{"id":1e300}"#,
        br#"{"id":18446744073709551615}"#,
        br#"{"n":2147483648}"#,
        br#"{"x":1e400}"#,
        br#"{"w":1e39}"#,
        br#"{"x":NaN}"#,
        br#"{"x":[1]}"#,
        br#"{"x":{}}"#,
        br#"{"f":1}"#,
        br#"{"f":[{"index":-1,"value":1}]}"#,
        br#"{"f":[{"index":1}]}"#,
        br#"{"f":[[1,2,3]]}"#,
        br#"{"id":1,"id":2}"#,
        br#"{"a":1,"a":2}"#,
        br#"{"id":1"#,
        br#"{"id":1} {"id":2}"#,
        br#"{"id":1,}"#,
        br#"[1]"#,
        br#""text""#,
        br#"null"#,
        br#"{"s":"\ud800"}"#,
        b"{\"s\":\"\xff\"}",
        b"{\"s\":\"a\0b\"}",
        &deep,
        br#"{"id":7,"s":"kept"}"#,
        &deepest,
    ]);
    expect![[r#"
        {\"id\":\"1\"} -> column 'id': expected number, found string
        {\"id\":1,\"s\":2} -> column 's': expected string, found number
        {\"id\":1,\"ok\":1} -> column 'ok': expected boolean, found number
        {\"id\":1.5} -> column 'id': expected a whole number, found 1.5
        {\"id\":1e300} -> column 'id': 1e300 is out of range of BIGINT
        {\"id\":18446744073709551615} -> column 'id': 18446744073709551615 is out of range of BIGINT
        {\"n\":2147483648} -> column 'n': 2147483648 is out of range of INT
        {\"x\":1e400} -> number out of range at byte 10
        {\"w\":1e39} -> column 'w': 1e39 is out of range of FLOAT
        {\"x\":NaN} -> expected value at byte 6
        {\"x\":[1]} -> column 'x': expected number, found array
        {\"x\":{}} -> column 'x': expected number, found object
        {\"f\":1} -> column 'f': expected array of {"index", "value"}, found number
        {\"f\":[{\"index\":-1,\"value\":1}]} -> column 'f': an entry is {"index": 7, "value": 0.5} or [7, 0.5], the index not negative
        {\"f\":[{\"index\":1}]} -> column 'f': an entry is {"index": 7, "value": 0.5} or [7, 0.5], the index not negative
        {\"f\":[[1,2,3]]} -> column 'f': an entry is {"index": 7, "value": 0.5} or [7, 0.5], the index not negative
        {\"id\":1,\"id\":2} -> duplicate key 'id'
        {\"a\":1,\"a\":2} -> duplicate key 'a'
        {\"id\":1 -> unexpected end at byte 7
        {\"id\":1} {\"id\":2} -> trailing data at byte 10
        {\"id\":1,} -> trailing comma at byte 9
        [1] -> expected an object, found array
        \"text\" -> expected an object, found string
        null -> expected an object, found null
        {\"s\":\"\\ud800\"} -> unexpected end of hex escape at byte 13
        {\"s\":\"\xff\"} -> invalid unicode code point at byte 7
        {\"s\":\"a\x00b\"} -> control character (\u0000-\u001F) found while parsing a string at byte 8
        {\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[ -> deeper than 32 levels
    "#]].assert_eq(&refused);
    let batch = decoder.finish();
    assert_eq!(batch.num_rows(), 2);
    assert_eq!(row(&batch, 0), "7|NULL|NULL|NULL|kept|NULL|NULL|NULL");
    assert_eq!(decoder.unknown_keys(), 1, "only those of rows that were taken");
}

/// An event that does not say when it happened, happened when it came.
#[test]
fn a_missing_event_time_is_filled_in() {
    let mut decoder = JsonDecoder::new(columns("id BIGINT, ts TIMESTAMP")).unwrap();
    for line in [r#"{"id":1}"#, r#"{"id":2,"ts":null}"#, r#"{"id":3,"ts":5}"#] {
        decoder.push_line_at(line.as_bytes(), Some((1, 1000))).unwrap();
    }
    let batch = decoder.finish();
    let rows: Vec<_> = (0..3).map(|i| row(&batch, i)).collect();
    assert_eq!(rows, ["1|1970-01-01T00:00:01", "2|1970-01-01T00:00:01", "3|1970-01-01T00:00:00.005"]);
}
