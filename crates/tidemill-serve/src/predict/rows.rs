//! Finds the rows in `{"rows":[{...},{...}]}` without building a tree.
//!
//! In: the body as it came. Out: where each row begins and ends. Everything around the rows is checked here; what is in a
//! row is only measured (brackets, strings), and checked by the decoder that reads it.

use std::ops::Range;

use tidemill_base::{Error, Result, thousands};

use crate::scan::Cursor;

/// Brackets around a row: the request's and the array's.
const DEPTH_OF_ROWS: usize = 2;

/// Where the rows stand in `body`; at least one, at most `rows_max`.
pub(super) fn split(body: &[u8], rows_max: usize) -> Result<Vec<Range<usize>>> {
    let mut c = Cursor::new(body)?;
    c.expect(b'{', r#"an object like {"rows":[{...}]}"#)?;
    if c.peek() == Some(b'}') {
        return Err(Error::invalid(r#"no "rows" in the request; send {"rows":[{...}]}"#));
    }
    rows_key(&mut c)?;
    c.expect(b'[', "an array of rows")?;
    if c.peek() == Some(b']') {
        return Err(Error::invalid("rows is empty"));
    }
    let mut rows = Vec::new();
    // Rows beyond the limit are counted, not kept, so that the message can tell how many there were.
    let mut count = 0;
    loop {
        let row = c.object(DEPTH_OF_ROWS, || format!("rows[{count}]"))?;
        count += 1;
        if count <= rows_max {
            rows.push(row);
        }
        match c.next() {
            Some(b',') => {}
            Some(b']') => break,
            _ => return Err(c.not_json("',' or ']'")),
        }
    }
    match c.next() {
        Some(b'}') => {}
        Some(b',') => {
            rows_key(&mut c)?;
            return Err(Error::invalid(r#""rows" is there twice"#));
        }
        _ => return Err(c.not_json("'}'")),
    }
    c.end()?;
    if count > rows_max {
        return Err(Error::invalid(format!(
            "{} rows; the limit is {}",
            thousands(count as u64),
            thousands(rows_max as u64)
        )));
    }
    Ok(rows)
}

/// The key `"rows"` and its colon; any other key is refused by name.
fn rows_key(c: &mut Cursor) -> Result<()> {
    let name = c.name()?;
    if name != b"rows" {
        let name: String = String::from_utf8_lossy(name).chars().take(64).collect();
        return Err(Error::invalid(format!(r#"unknown name "{name}" in the request; send {{"rows":[{{...}}]}}"#)));
    }
    c.colon()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Vec<&str> {
        split(body.as_bytes(), 4).unwrap().into_iter().map(|r| &body[r]).collect()
    }

    #[test]
    fn rows_are_found_whatever_stands_in_their_strings() {
        assert_eq!(texts(r#" { "rows" : [ {"a":1} , {"b":"]}\",{"} ] } "#), [r#"{"a":1}"#, r#"{"b":"]}\",{"}"#]);
        assert_eq!(texts(r#"{"rows":[{"a":{"b":[1,[2]]}}]}"#), [r#"{"a":{"b":[1,[2]]}}"#]);
    }

    /// The messages people see when they type a request wrongly.
    #[test]
    fn what_is_wrong_with_a_request_is_said() {
        let deep = format!(r#"{{"rows":[{{"a":{}1{}}}]}}"#, "[".repeat(40), "]".repeat(40));
        for (body, message) in [
            ("", "request body is empty"),
            ("  \n", "request body is empty"),
            ("hello", r#"request body is not JSON: expected an object like {"rows":[{...}]} at byte 0"#),
            ("[1]", r#"expected an object like {"rows":[{...}]}, found an array at byte 0"#),
            ("{}", r#"no "rows" in the request; send {"rows":[{...}]}"#),
            (r#"{"instances":[{}]}"#, r#"unknown name "instances" in the request; send {"rows":[{...}]}"#),
            (r#"{"rows":{"a":1}}"#, "expected an array of rows, found an object at byte 8"),
            (r#"{"rows":[]}"#, "rows is empty"),
            (r#"{"rows":[{},7]}"#, "rows[1]: expected an object, found a number"),
            (r#"{"rows":[{},]}"#, "request body is not JSON: expected an object at byte 12"),
            (r#"{"rows":[{"a":1"#, "request body ends where the end of rows[0] was expected"),
            (r#"{"rows":[{"a":"x"#, "the string that begins at byte 14 never ends"),
            (r#"{"rows":[{} {}]}"#, "request body is not JSON: expected ',' or ']' at byte 13"),
            (r#"{"rows":[{}],"rows":[{}]}"#, r#""rows" is there twice"#),
            (r#"{"rows":[{}]} x"#, "bytes behind the request's end, at byte 14"),
            (r#"{"rows":[{},{},{},{},{}]}"#, "5 rows; the limit is 4"),
            (deep.as_str(), "rows[0]: nested deeper than 32"),
        ] {
            assert_eq!(split(body.as_bytes(), 4).unwrap_err().message(), message, "{body}");
        }
    }

    proptest::proptest! {
        /// Whatever bytes come: an answer, in bounds, and no panic.
        #[test]
        fn any_bytes_are_answered(body in proptest::collection::vec(proptest::sample::select(&b"{}[]\",:\\rows1 "[..]), 0..60)) {
            if let Ok(rows) = split(&body, 4) {
                for row in rows {
                    assert!(body[row.start] == b'{' && row.end <= body.len());
                }
            }
        }
    }
}
