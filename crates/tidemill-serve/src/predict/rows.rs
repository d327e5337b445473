//! Finds the rows in `{"rows":[{...},{...}]}` without building a tree.
//!
//! In: the body as it came. Out: where each row begins and ends. Everything around the rows is checked here; what is in a
//! row is only measured (brackets, strings), and checked by the decoder that reads it.

use std::ops::Range;

use tidemill_base::{Error, Result};

/// Brackets within brackets, those of the request itself included.
const DEPTH_MAX: usize = 32;

/// Where the rows stand in `body`; at least one, at most `rows_max`.
pub(super) fn split(body: &[u8], rows_max: usize) -> Result<Vec<Range<usize>>> {
    let mut c = Cursor { body, at: 0 };
    if c.peek().is_none() {
        return Err(Error::invalid("request body is empty"));
    }
    c.expect(b'{', r#"an object like {"rows":[{...}]}"#)?;
    if c.peek() == Some(b'}') {
        return Err(Error::invalid(r#"no "rows" in the request; send {"rows":[{...}]}"#));
    }
    c.rows_key()?;
    c.expect(b'[', "an array of rows")?;
    if c.peek() == Some(b']') {
        return Err(Error::invalid("rows is empty"));
    }
    let mut rows = Vec::new();
    // Rows beyond the limit are counted, not kept, so that the message can tell how many there were.
    let mut count = 0;
    loop {
        let row = c.row(count)?;
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
            c.rows_key()?;
            return Err(Error::invalid(r#""rows" is there twice"#));
        }
        _ => return Err(c.not_json("'}'")),
    }
    if c.peek().is_some() {
        return Err(Error::invalid(format!("bytes behind the request's end, at byte {}", c.at)));
    }
    if count > rows_max {
        return Err(Error::invalid(format!("{} rows; the limit is {}", thousands(count), thousands(rows_max))));
    }
    Ok(rows)
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// The next byte that is not white space, left where it is.
    fn peek(&mut self) -> Option<u8> {
        while self.body.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.body.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<()> {
        match self.peek() {
            Some(b) if b == byte => {
                self.at += 1;
                Ok(())
            }
            Some(b) if looks_like_json(b) => {
                Err(Error::invalid(format!("expected {what}, found {} at byte {}", kind_of(b), self.at)))
            }
            _ => Err(self.not_json(what)),
        }
    }

    /// The key `"rows"` and its colon; any other key is refused by name.
    fn rows_key(&mut self) -> Result<()> {
        if self.peek() != Some(b'"') {
            return Err(self.not_json("a name in quotes"));
        }
        let start = self.at;
        self.string()?;
        if &self.body[start..self.at] != br#""rows""# {
            let name: String = String::from_utf8_lossy(&self.body[start + 1..self.at - 1]).chars().take(64).collect();
            return Err(Error::invalid(format!(r#"unknown name "{name}" in the request; send {{"rows":[{{...}}]}}"#)));
        }
        match self.next() {
            Some(b':') => Ok(()),
            _ => Err(self.not_json("':'")),
        }
    }

    fn row(&mut self, row: usize) -> Result<Range<usize>> {
        match self.peek() {
            Some(b'{') => {}
            Some(b) if looks_like_json(b) => {
                return Err(Error::invalid(format!("rows[{row}]: expected an object, found {}", kind_of(b))));
            }
            _ => return Err(self.not_json("an object")),
        }
        let start = self.at;
        // The request's own brackets are two.
        let mut depth = 2;
        loop {
            match self.body.get(self.at) {
                None => return Err(self.not_json("the end of a row")),
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
            if depth > DEPTH_MAX {
                return Err(Error::invalid(format!("rows[{row}]: nested deeper than {DEPTH_MAX}")));
            }
            if depth == 2 {
                return Ok(start..self.at);
            }
        }
    }

    /// Goes behind the string that begins here.
    fn string(&mut self) -> Result<()> {
        let mut at = self.at + 1;
        loop {
            match self.body.get(at) {
                None => return Err(Error::invalid(format!("the string that begins at byte {} never ends", self.at))),
                Some(b'\\') => at += 2,
                Some(b'"') => break,
                Some(_) => at += 1,
            }
        }
        self.at = at + 1;
        Ok(())
    }

    fn not_json(&self, expected: &str) -> Error {
        match self.body.get(self.at) {
            None => Error::invalid(format!("request body ends where {expected} was expected")),
            Some(_) => Error::invalid(format!("request body is not JSON: expected {expected} at byte {}", self.at)),
        }
    }
}

fn looks_like_json(first: u8) -> bool {
    matches!(first, b'{' | b'[' | b'"' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9')
}

fn kind_of(first: u8) -> &'static str {
    match first {
        b'{' => "an object",
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        _ => "a number",
    }
}

pub(super) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
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
            (r#"{"rows":[{"a":1"#, "request body ends where the end of a row was expected"),
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
