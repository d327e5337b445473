//! A rank request: what stands around the candidates, and where each of them stands.
//!
//! In: the body as it came. Out: a [`Request`] whose settings are read and whose context and candidates are still text:
//! they are only measured here (brackets, strings), and read by those who know what to look for.

use serde_json::Value;
use tidemill_base::{Error, Result, hash64};

use super::{
    config::{kind, known_keys, object},
    nearest,
    token::short,
};
use crate::{moment, scan::Cursor, strict_json};

/// Candidates in one request at most.
pub const CANDIDATES_MAX: usize = 4096;
/// Brackets around a candidate: the request's and the array's.
const DEPTH_OF_CANDIDATES: usize = 2;
const KEYS: [&str; 9] = ["candidates", "context", "score", "ranking", "external", "k", "diversity", "seed", "now"];

/// What is asked.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    /// Columns that all candidates share, as JSON.
    pub context: Option<&'a [u8]>,
    /// Each an object, as JSON.
    pub candidates: Vec<&'a [u8]>,
    pub ranking: Ranking,
    pub external: Value,
    /// Items on the page; `None`: all.
    pub k: Option<usize>,
    pub diversity: Option<Diversity>,
    pub seed: u64,
    pub now_ms: Option<i64>,
}

/// By what is ordered.
#[derive(Debug, Default)]
pub(super) enum Ranking {
    /// What the model says.
    #[default]
    Prediction,
    Score(String),
    Config(Value),
    Named(String),
}

/// At most `max` items of each value of a column.
#[derive(Debug)]
pub(super) struct Diversity {
    pub by: String,
    pub max: usize,
}

impl<'a> Request<'a> {
    /// Reads a request.
    pub fn parse(body: &'a [u8]) -> Result<Self> {
        let mut c = Cursor::new(body)?;
        c.expect(b'{', r#"an object like {"candidates":[{"id":1}],"score":"pctr"}"#)?;
        let mut request = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        while c.peek() != Some(b'}') || !seen.is_empty() {
            let key = key(&mut c)?;
            if seen.contains(&key) {
                return Err(Error::invalid(format!("\"{key}\" is there twice")));
            }
            seen.push(key);
            if key == "candidates" {
                request.candidates = candidates(&mut c)?;
            } else {
                let value = value(&mut c, key)?;
                request.set(key, value)?;
            }
            match c.next() {
                Some(b',') => {}
                Some(b'}') => {
                    c.at -= 1;
                    break;
                }
                _ => return Err(c.not_json("',' or '}'")),
            }
        }
        c.at += 1;
        c.end()?;
        match (seen.contains(&"candidates"), seen.contains(&"score") && seen.contains(&"ranking")) {
            (false, _) => Err(Error::invalid(r#"no "candidates" in the request; send {"candidates":[{"id":1}],...}"#)),
            (_, true) => Err(Error::invalid(r#"both "score" and "ranking" in the request; send one of them"#)),
            _ => Ok(request),
        }
    }

    fn set(&mut self, key: &str, text: &'a [u8]) -> Result<()> {
        if key == "context" {
            if text.first() != Some(&b'{') && text != b"null" {
                return Err(Error::invalid("context: expected an object"));
            }
            self.context = (text != b"null").then_some(text);
            return Ok(());
        }
        let value = strict_json::from_slice(text).map_err(|e| e.at(key))?;
        match (key, value) {
            (_, Value::Null) => {}
            ("score", Value::String(text)) => self.ranking = Ranking::Score(text),
            ("score", other) => {
                return Err(Error::invalid(format!("score: expected an expression as text, found {}", kind(&other))));
            }
            ("ranking", Value::String(name)) => self.ranking = Ranking::Named(name),
            ("ranking", value) => self.ranking = Ranking::Config(value),
            ("external", value) => {
                object(&value, "external")?;
                self.external = value;
            }
            ("k", value) => self.k = Some(count(&value, "k")?),
            ("diversity", value) => {
                let fields = object(&value, "diversity")?;
                known_keys(fields, "diversity", &["by", "max"])?;
                let Some(Value::String(by)) = fields.get("by") else {
                    return Err(Error::invalid(
                        r#"diversity: "by" is the name of a column, as in {"by":"author","max":2}"#,
                    ));
                };
                let max = fields.get("max").map_or(Ok(1), |max| count(max, "diversity.max"))?;
                self.diversity = Some(Diversity { by: by.clone(), max });
            }
            ("seed", Value::String(text)) => self.seed = hash64(text.as_bytes(), 0),
            ("seed", value) => match value.as_u64() {
                Some(seed) => self.seed = seed,
                None => {
                    let message = format!("seed: expected a whole number or a text, found {}", kind(&value));
                    return Err(Error::invalid(message));
                }
            },
            ("now", value) => {
                let moment = value.as_i64().or(value.as_str().and_then(moment::parse).map(|ms| ms as i64));
                self.now_ms = Some(moment.ok_or_else(|| {
                    Error::invalid(format!(
                        "now: expected milliseconds since 1970 or a text like 2026-11-21T10:30:00Z, found {}",
                        kind(&value)
                    ))
                })?);
            }
            _ => return Err(Error::internal(format!("{key} is known and not read"))),
        }
        Ok(())
    }
}

fn count(value: &Value, place: &str) -> Result<usize> {
    match value.as_u64().filter(|n| *n > 0) {
        Some(n) => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
        None => Err(Error::invalid(format!("{place}: expected a whole number above 0, found {}", kind(value)))),
    }
}

/// A known key and its colon.
fn key(c: &mut Cursor) -> Result<&'static str> {
    let written = String::from_utf8_lossy(c.name()?);
    let Some(key) = KEYS.into_iter().find(|key| *key == written) else {
        let near = nearest(&written, KEYS.into_iter()).map(|near| format!("; did you mean '{near}'?"));
        let advice = near.unwrap_or_else(|| format!("; known are {}", KEYS.join(", ")));
        return Err(Error::invalid(format!("unknown name '{}' in the request{advice}", short(&written))));
    };
    c.colon()?;
    Ok(key)
}

fn candidates<'a>(c: &mut Cursor<'a>) -> Result<Vec<&'a [u8]>> {
    c.expect(b'[', "an array of candidates")?;
    if c.peek() == Some(b']') {
        return Err(Error::invalid("candidates is empty"));
    }
    let mut candidates = Vec::new();
    // Those beyond the limit are counted, not kept, so that the message can tell how many there were.
    let mut found = 0;
    loop {
        let candidate = c.object(DEPTH_OF_CANDIDATES, || format!("candidates[{found}]"))?;
        found += 1;
        if found <= CANDIDATES_MAX {
            candidates.push(&c.body[candidate]);
        }
        match c.next() {
            Some(b',') => {}
            Some(b']') => break,
            _ => return Err(c.not_json("',' or ']'")),
        }
    }
    match found > CANDIDATES_MAX {
        true => Err(Error::invalid(format!("{found} candidates; the limit is {CANDIDATES_MAX}"))),
        false => Ok(candidates),
    }
}

/// The text of the value that begins here.
fn value<'a>(c: &mut Cursor<'a>, place: &str) -> Result<&'a [u8]> {
    let first = c.peek();
    let start = c.at;
    match first {
        Some(b'"') => _ = c.string()?,
        Some(b'{' | b'[') => _ = c.brackets(1, || place.to_string())?,
        _ => {
            let scalar = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.');
            c.at += c.body[start..].iter().take_while(|b| scalar(b)).count();
        }
    }
    match c.at > start {
        true => Ok(&c.body[start..c.at]),
        false => Err(c.not_json("a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let body = br#" {"now": "1970-01-02", "context": {"user":"u}"}, "k":3,
            "candidates" : [ {"id":1,"a":"]}\"" } , {"id":2} ], "external":{"x":1}, "score":"pctr", "seed": 9,
            "diversity":{"by":"a.b","max":2} } "#;
        let request = Request::parse(body).unwrap();
        assert_eq!(request.candidates, [&br#"{"id":1,"a":"]}\"" }"#[..], br#"{"id":2}"#]);
        assert_eq!(request.context, Some(&br#"{"user":"u}"}"#[..]));
        assert_eq!((request.k, request.seed, request.now_ms), (Some(3), 9, Some(86_400_000)));
        assert!(matches!(request.ranking, Ranking::Score(text) if text == "pctr"));
        assert!(request.diversity.is_some_and(|d| d.by == "a.b" && d.max == 2) && request.external["x"] == 1);
    }

    /// The messages people see when they type a request wrongly.
    #[test]
    fn what_is_wrong_with_a_request_is_said() {
        let deep = format!(r#"{{"candidates":[{{"a":{}1{}}}]}}"#, "[".repeat(40), "]".repeat(40));
        let many = format!(r#"{{"candidates":[{}{{}}]}}"#, "{},".repeat(4096));
        for (body, message) in [
            ("", "request body is empty"),
            ("[1]", r#"expected an object like {"candidates":[{"id":1}],"score":"pctr"}, found an array at byte 0"#),
            ("{}", r#"no "candidates" in the request; send {"candidates":[{"id":1}],...}"#),
            (r#"{"candidates":[]}"#, "candidates is empty"),
            (r#"{"candidates":{}}"#, "expected an array of candidates, found an object at byte 14"),
            (r#"{"candidates":[{},7]}"#, "candidates[1]: expected an object, found a number"),
            (r#"{"candidates":[{}],}"#, "request body is not JSON: expected a name in quotes at byte 19"),
            (r#"{"candidates":[{}"#, "request body ends where ',' or ']' was expected"),
            (r#"{"candidates":[{"#, "request body ends where the end of candidates[0] was expected"),
            (r#"{"candidates":[{}]} x"#, "bytes behind the request's end, at byte 20"),
            (r#"{"candidates":[{}],"candidates":[{}]}"#, r#""candidates" is there twice"#),
            (r#"{"candidate":[{}]}"#, "unknown name 'candidate' in the request; did you mean 'candidates'?"),
            (
                r#"{"rows":[{}]}"#,
                "unknown name 'rows' in the request; known are candidates, context, score, ranking, external, k, diversity, seed, now",
            ),
            (r#"{"score":1}"#, "score: expected an expression as text, found the number 1"),
            (r#"{"score":x}"#, "score: expected value at line 1 column 1"),
            (r#"{"score":}"#, "request body is not JSON: expected a value at byte 9"),
            (r#"{"k":0}"#, "k: expected a whole number above 0, found the number 0"),
            (r#"{"k":-1}"#, "k: expected a whole number above 0, found the number -1"),
            (r#"{"k":1.5}"#, "k: expected a whole number above 0, found the number 1.5"),
            (r#"{"seed":-1}"#, "seed: expected a whole number or a text, found the number -1"),
            (
                r#"{"now":"soon"}"#,
                "now: expected milliseconds since 1970 or a text like 2026-11-21T10:30:00Z, found the text 'soon'",
            ),
            (r#"{"context":[1]}"#, "context: expected an object"),
            (r#"{"external":7}"#, "external: expected an object, found the number 7"),
            (r#"{"diversity":{"max":1}}"#, r#"diversity: "by" is the name of a column, as in {"by":"author","max":2}"#),
            (
                r#"{"diversity":{"by":"a","max":0}}"#,
                "diversity.max: expected a whole number above 0, found the number 0",
            ),
            (r#"{"diversity":{"by":"a","min":1}}"#, "diversity: unknown name 'min'; known are by, max"),
            (
                r#"{"score":"1","ranking":"r","candidates":[{}]}"#,
                r#"both "score" and "ranking" in the request; send one of them"#,
            ),
            (deep.as_str(), "candidates[0]: nested deeper than 32"),
            (many.as_str(), "4097 candidates; the limit is 4096"),
        ] {
            assert_eq!(Request::parse(body.as_bytes()).unwrap_err().message(), message, "{body}");
        }
    }

    proptest::proptest! {
        /// Whatever bytes come: an answer, and no panic.
        #[test]
        fn any_bytes_are_answered(words in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", "\"", ",", ":", "\\", "\"candidates\":", "\"k\":", "\"context\":", "1", "{\"id\":1}", " ", "é",
        ]), 0..40)) {
            let body = words.concat();
            if let Ok(request) = Request::parse(body.as_bytes()) {
                assert!(request.candidates.iter().all(|c| c.starts_with(b"{") && c.ends_with(b"}")));
            }
        }
    }
}
