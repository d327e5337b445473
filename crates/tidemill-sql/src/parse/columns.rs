//! The COLUMN clause: which columns are features, and how.
//!
//! Names stand here as they were written; whether they exist is the binder's question.

use datafusion::sql::sqlparser::tokenizer::{Span, Token};

use super::{
    cursor::{Cursor, Name},
    value,
};
use crate::diagnostic::{Checked, Fault};

/// One entry of the clause.
#[derive(Clone, Debug)]
pub(crate) enum ColumnItem {
    /// `* [EXCEPT (a, b)]`
    Star { except: Vec<Name>, span: Span },
    /// Anything else.
    Feature(FeatureDef),
}

#[derive(Clone, Debug)]
pub(crate) struct FeatureDef {
    pub kind: FeatureKind,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(crate) enum FeatureKind {
    Plain(Name),
    Numeric(Name),
    Category(Name),
    Hash(Name, u64),
    Bucket(Name, Vec<f64>),
    Cross(Vec<FeatureDef>, Option<u64>),
    Sparse(Name),
}

const FUNCTIONS: [&str; 6] = ["NUMERIC", "CATEGORY_ID", "CATEGORY_HASH", "BUCKET", "CROSS", "SPARSE"];
/// SQLFlow's, not built.
const FUNCTIONS_LATER: [&str; 6] = ["EMBEDDING", "INDICATOR", "DENSE", "SEQ_CATEGORY_ID", "CONCAT", "VOCABULARY"];

/// Reads the entries behind `COLUMN`.
pub(crate) fn parse(c: &mut Cursor) -> Checked<Vec<ColumnItem>> {
    let mut items = Vec::new();
    loop {
        items.push(item(c)?);
        if !c.take(&Token::Comma) {
            break;
        }
    }
    if c.is_word("FOR") {
        return Err(Fault::unsupported(
            c.here(),
            "COLUMN ... FOR a group of slots",
            "write one COLUMN list without FOR",
        ));
    }
    Ok(items)
}

fn item(c: &mut Cursor) -> Checked<ColumnItem> {
    let span = c.here();
    if !c.take(&Token::Mul) {
        return Ok(ColumnItem::Feature(feature(c)?));
    }
    let mut except = Vec::new();
    if c.take_word("EXCEPT") || c.take_word("EXCLUDE") {
        c.expect(&Token::LParen)?;
        loop {
            except.push(c.name("a column")?);
            if !c.take(&Token::Comma) {
                break;
            }
        }
        c.expect(&Token::RParen)?;
    }
    Ok(ColumnItem::Star { except, span })
}

fn feature(c: &mut Cursor) -> Checked<FeatureDef> {
    let name = c.name("a column or a column function")?;
    let begin = name.span.start;
    if c.peek().is_some_and(|t| t.token == Token::Period) {
        let advice = "the clause names columns of the SELECT list: write the name alone, or give it one with AS";
        return Err(Fault::new(name.span, format!("'{}.' does not belong here", name.text)).hint(advice));
    }
    if !c.take(&Token::LParen) {
        return Ok(FeatureDef { span: name.span, kind: FeatureKind::Plain(name) });
    }
    let kind = match name.text.to_ascii_uppercase().as_str() {
        "NUMERIC" => FeatureKind::Numeric(numeric_arguments(c)?),
        "CATEGORY_ID" => {
            let column = c.name("a column")?;
            if c.is_done() || c.peek().is_some_and(|t| t.token == Token::Comma) {
                let instead = format!(
                    "keys need no size: write CATEGORY_ID({0}), or CATEGORY_HASH({0}, n) for n keys",
                    column.text
                );
                return Err(Fault::unsupported(c.here(), "CATEGORY_ID with a size", instead));
            }
            FeatureKind::Category(column)
        }
        "CATEGORY_HASH" => {
            let column = c.name("a column")?;
            c.expect(&Token::Comma)?;
            FeatureKind::Hash(column, buckets(c)?)
        }
        "BUCKET" => {
            let column = if c.peek_at(1).is_some_and(|t| t.token == Token::LParen) && c.take_word("NUMERIC") {
                c.expect(&Token::LParen)?;
                let column = numeric_arguments(c)?;
                c.expect(&Token::RParen)?;
                column
            } else {
                c.name("a column")?
            };
            c.expect(&Token::Comma)?;
            FeatureKind::Bucket(column, boundaries(c)?)
        }
        "CROSS" => cross(c)?,
        "SPARSE" => FeatureKind::Sparse(c.name("a column")?),
        other => return Err(unknown_function(&name, other)),
    };
    let end = c.here().end;
    c.expect(&Token::RParen)?;
    Ok(FeatureDef { kind, span: Span::new(begin, end) })
}

fn unknown_function(name: &Name, upper: &str) -> Fault {
    if FUNCTIONS_LATER.contains(&upper) {
        let instead = format!("column functions are {}", FUNCTIONS.join(", "));
        return Fault::unsupported(name.span, format!("{upper}(...)"), instead);
    }
    let fault = Fault::new(name.span, format!("no column function '{}'", name.text));
    fault.nearest(&name.text, FUNCTIONS, "column functions")
}

/// `x` or SQLFlow's `x, 1`.
fn numeric_arguments(c: &mut Cursor) -> Checked<Name> {
    let column = c.name("a column")?;
    if c.take(&Token::Comma) {
        let (size, span) = value::whole(c, "1")?;
        if size != 1 {
            return Err(Fault::unsupported(span, "a NUMERIC column of several numbers", "give each number its column"));
        }
    }
    Ok(column)
}

fn buckets(c: &mut Cursor) -> Checked<u64> {
    let (n, span) = value::whole(c, "a number of buckets")?;
    if n == 0 {
        return Err(Fault::new(span, "a number of buckets is at least 1, got 0"));
    }
    Ok(n)
}

fn boundaries(c: &mut Cursor) -> Checked<Vec<f64>> {
    let begin = c.here();
    c.expect(&Token::LBracket)?;
    let mut numbers: Vec<f64> = Vec::new();
    loop {
        let here = c.here();
        let sign = if c.take(&Token::Minus) { -1.0 } else { 1.0 };
        let refused = c.expected("a boundary", &[]);
        match c.next().map(|t| &t.token) {
            Some(Token::Number(n, _)) => match n.parse::<f64>() {
                Ok(x) if x.is_finite() => numbers.push(sign * x),
                _ => return Err(Fault::new(here, format!("boundary '{n}' is not a finite number"))),
            },
            _ => return Err(refused),
        }
        if !c.take(&Token::Comma) {
            break;
        }
    }
    c.expect(&Token::RBracket)?;
    if numbers.windows(2).any(|w| w[0] >= w[1]) {
        return Err(Fault::new(begin, "boundaries of BUCKET must ascend"));
    }
    Ok(numbers)
}

fn cross(c: &mut Cursor) -> Checked<FeatureKind> {
    let begin = c.here();
    c.expect(&Token::LBracket)?;
    let mut parts = Vec::new();
    loop {
        let part = feature(c)?;
        match part.kind {
            FeatureKind::Numeric(_) | FeatureKind::Sparse(_) | FeatureKind::Cross(..) => {
                let hint = "cross columns, CATEGORY_ID(x), CATEGORY_HASH(x, n) or BUCKET(x, [...])";
                return Err(Fault::new(part.span, "CROSS takes categories").hint(hint));
            }
            _ => parts.push(part),
        }
        if !c.take(&Token::Comma) {
            break;
        }
    }
    c.expect(&Token::RBracket)?;
    if parts.len() < 2 {
        return Err(Fault::new(begin, "CROSS takes at least two columns"));
    }
    let buckets = if c.take(&Token::Comma) { Some(buckets(c)?) } else { None };
    Ok(FeatureKind::Cross(parts, buckets))
}
