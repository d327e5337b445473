//! The label join's ON clause: one equality of keys and one window of event time, and nothing else.

use arrow::datatypes::DataType;
use datafusion::{
    logical_expr::{Expr, cast},
    sql::sqlparser::{
        ast::{self, BinaryOperator, Ident, Spanned},
        tokenizer::Span,
    },
};

use super::{
    Catalog,
    relation::{Feedback, JoinRelation, LEFT, Relation, base, replace, right},
    select::From,
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::value::{interval_ms, type_name},
    planner::or,
};

const EXAMPLE: &str = "c.rt BETWEEN i.rt AND i.rt + INTERVAL '10' MINUTE";

/// Without a window every impression would wait for ever.
pub(crate) fn needs_time_bound(span: Span) -> Fault {
    Fault::new(
        span,
        format!("stream join needs a time bound (for example {EXAMPLE}): its state would grow without limit"),
    )
}

/// Types of feedback that one join can take.
const FEEDBACK_MAX: usize = 16;

/// Binds `from LEFT JOIN right ON on`; `aliases` are those of the impressions and of this feedback.
pub(crate) fn bind(
    from: From,
    right: Relation,
    aliases: [&Ident; 2],
    on: &ast::Expr,
    catalog: &Catalog,
) -> Checked<From> {
    let span = or(on.span(), aliases[1].span);
    let is_view_of_join = from.widths.len() == 1 && from.relation.join.is_some();
    for (is_join, alias) in [(is_view_of_join, aliases[0]), (right.join.is_some(), aliases[1])] {
        if is_join {
            let what = format!("a join over '{}', which is a join itself", alias.value);
            let instead = "join two sources or views of single sources; further feedback joins in the same SELECT";
            return Err(Fault::unsupported(alias.span, what, instead));
        }
    }
    if !right.features.is_empty() {
        let what = format!("feature views read by the feedback '{}'", aliases[1].value);
        return Err(Fault::unsupported(aliases[1].span, what, "join feature views to the impressions"));
    }
    let feedback = from.relation.join.as_ref().map_or(0, |join| join.feedback.len());
    if feedback == FEEDBACK_MAX {
        let what = format!("more than {FEEDBACK_MAX} types of feedback");
        return Err(Fault::unsupported(aliases[1].span, what, "train a second model for the others"));
    }
    let times = event_times(&from, &right, aliases)?;
    let mut from = with(from, right, aliases[1], feedback);
    let on_clause = On { from: &from, times: &times, feedback, catalog, span };
    let mut found = Found::default();
    for condition in conjuncts(on) {
        on_clause.condition(condition, &mut found)?;
    }
    let window = match (found.from_impression, found.to_end) {
        (true, Some(window)) => window,
        (false, None) => return Err(needs_time_bound(span)),
        (true, None) => return Err(needs_time_bound(span).hint("the window's end is missing")),
        (false, Some(_)) => return Err(needs_time_bound(span).hint("the window's begin is missing")),
    };
    let Some(key) = found.key else {
        let fault = Fault::new(span, "stream join needs an equality of keys");
        return Err(fault.hint(format!("write ON {}.key = {}.key AND ...", aliases[0].value, aliases[1].value)));
    };
    let join = from.relation.join.as_mut().expect("with() makes a join");
    let join = &mut join.feedback[feedback];
    (join.left_key, join.right_key, join.right_key_bare) = (key.left, key.right, key.right_bare);
    (join.key_type, join.right_key_text) = (key.ty, key.right_text);
    join.window_ms = window;
    Ok(from)
}

/// The column of the event time of either side, in its own table.
fn event_times(from: &From, right: &Relation, aliases: [&Ident; 2]) -> Checked<[Option<usize>; 2]> {
    let mut times = [None; 2];
    for (i, (relation, alias)) in [(&from.relation, aliases[0]), (right, aliases[1])].into_iter().enumerate() {
        let source = &relation.left.source;
        if source.event_time.is_none() {
            let message = format!("stream join needs event time: source '{}' has no WATERMARK", source.spec.name);
            let hint = "add WATERMARK FOR ts AS ts - INTERVAL '10' SECOND to its columns";
            return Err(Fault::new(alias.span, message).hint(hint));
        }
        let columns = if i == 0 { from.widths[0] } else { relation.columns.len() };
        times[i] = (0..columns).find(|&c| relation.is_event_time(c));
    }
    Ok(times)
}

/// Columns of all sides; keys and window are filled in by the caller.
fn with(from: From, other: Relation, alias: &Ident, feedback: usize) -> From {
    let prefix = right(feedback);
    let to_right = |name: &str| name.strip_prefix(LEFT).map(|n| base(&prefix, n));
    let table = other.columns.iter().map(|c| (c.name.clone(), c.ty.clone())).collect::<Vec<_>>();
    let From { mut relation, scope, mut widths, aggregates } = from;
    let scope = scope.with(&alias.value, table);
    widths.push(other.columns.len());
    relation.used.extend(&other.used);
    relation.columns.extend(other.columns.into_iter().map(|mut c| {
        c.expr = replace(c.expr, &to_right);
        c
    }));
    let mut side = other.left;
    for filter in &mut side.filters {
        filter.expr = replace(filter.expr.clone(), &to_right);
    }
    let nothing = datafusion::logical_expr::lit(false);
    let join = relation.join.get_or_insert_with(|| JoinRelation { feedback: Vec::new(), emit: None });
    join.feedback.push(Feedback {
        right: side,
        left_key: nothing.clone(),
        right_key: nothing.clone(),
        right_key_bare: nothing,
        right_key_text: String::new(),
        key_type: DataType::Null,
        window_ms: 0,
        aggregates: Vec::new(),
    });
    From { relation, scope, widths, aggregates }
}

#[derive(Default)]
struct Found {
    key: Option<Key>,
    from_impression: bool,
    to_end: Option<i64>,
}

struct Key {
    left: Expr,
    right: Expr,
    right_bare: Expr,
    right_text: String,
    ty: DataType,
}

struct On<'a> {
    from: &'a From,
    times: &'a [Option<usize>; 2],
    feedback: usize,
    catalog: &'a Catalog<'a>,
    span: Span,
}

/// `side.rt + offset`
struct Time {
    table: usize,
    offset: i64,
}

impl On<'_> {
    fn condition(&self, condition: &ast::Expr, found: &mut Found) -> Checked<()> {
        let span = or(condition.span(), self.span);
        match condition {
            ast::Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let key = self.key(left, right, span)?;
                if found.key.replace(key).is_some() {
                    let instead = "join on one column; build it in a view, for example a || ':' || b AS key";
                    return Err(Fault::unsupported(span, "a second equality of keys", instead));
                }
                Ok(())
            }
            ast::Expr::Between { expr, negated: false, low, high } => {
                self.ascending(low, expr, span, found)?;
                self.ascending(expr, high, span, found)
            }
            ast::Expr::BinaryOp { left, op: BinaryOperator::LtEq, right } => self.ascending(left, right, span, found),
            ast::Expr::BinaryOp { left, op: BinaryOperator::GtEq, right } => self.ascending(right, left, span, found),
            ast::Expr::BinaryOp { op: op @ (BinaryOperator::Lt | BinaryOperator::Gt), .. } => {
                let instead = format!("the window holds both its ends: write {op}=");
                Err(Fault::unsupported(span, format!("'{op}' on event time"), instead))
            }
            _ => Err(self.other(condition, span)),
        }
    }

    fn other(&self, condition: &ast::Expr, span: Span) -> Fault {
        // A name that does not exist is the more helpful complaint.
        if let Err(fault) = self.from.scope.resolve(condition) {
            return fault;
        }
        let instead = format!(
            "ON takes one equality of keys and one window, for example {EXAMPLE}; filter either side in a view"
        );
        Fault::unsupported(span, format!("the join condition '{condition}'"), instead)
    }

    fn key(&self, a: &ast::Expr, b: &ast::Expr, span: Span) -> Checked<Key> {
        self.from.scope.resolve(a)?;
        self.from.scope.resolve(b)?;
        let (left, right) = match (&self.from.scope.tables_of(a)[..], &self.from.scope.tables_of(b)[..]) {
            ([0], [t]) if *t == self.feedback + 1 => (a, b),
            ([t], [0]) if *t == self.feedback + 1 => (b, a),
            _ => {
                let fault = Fault::new(span, "an equality of keys compares one side of the join with the other");
                return Err(fault.hint("filter either side in a view of its own"));
            }
        };
        let (left_expr, left_ty) = self.from.plan(left, self.catalog, span)?;
        let (right_expr, right_ty) = self.from.plan(right, self.catalog, span)?;
        let (left_expr, left_ty) = crate::planner::to_plain_type(left_expr, &left_ty);
        let (right_expr, right_ty) = crate::planner::to_plain_type(right_expr, &right_ty);
        let ty = match (&left_ty, &right_ty) {
            (a, b) if a == b => left_ty.clone(),
            (DataType::Int32 | DataType::Int64, DataType::Int32 | DataType::Int64) => DataType::Int64,
            _ => {
                let (l, r) = (type_name(&left_ty), type_name(&right_ty));
                let fault = Fault::new(span, format!("join keys have different types: {left} is {l}, {right} is {r}"));
                return Err(fault.hint("cast one of them: CAST(x AS BIGINT)"));
            }
        };
        if !matches!(ty, DataType::Int64 | DataType::Int32 | DataType::Utf8 | DataType::Timestamp(..)) {
            let message = format!("a join key is BIGINT, INT, STRING or TIMESTAMP, not {}", type_name(&ty));
            return Err(Fault::new(span, message));
        }
        let to_type = |expr: Expr, from: &DataType| if *from == ty { expr } else { cast(expr, ty.clone()) };
        Ok(Key {
            left: to_type(left_expr, &left_ty),
            right: to_type(right_expr.clone(), &right_ty),
            right_bare: right_expr,
            right_text: right.to_string(),
            ty,
        })
    }

    /// `earlier <= later`: the window's begin or its end.
    fn ascending(&self, earlier: &ast::Expr, later: &ast::Expr, span: Span, found: &mut Found) -> Checked<()> {
        let (e, l) = (self.time(earlier)?, self.time(later)?);
        let (Some(e), Some(l)) = (e, l) else {
            let condition = format!("{earlier} <= {later}");
            let instead = format!(
                "ON takes one equality of keys and one window, for example {EXAMPLE}; filter either side in a view"
            );
            return Err(Fault::unsupported(span, format!("the join condition '{condition}'"), instead));
        };
        match (e.table, l.table) {
            (0, 1) if e.offset == 0 && l.offset == 0 && !found.from_impression => {
                found.from_impression = true;
                Ok(())
            }
            (1, 0) if found.to_end.is_none() => {
                let window = l.offset - e.offset;
                if window <= 0 {
                    let message = format!("window must be longer than 0, got {window} ms");
                    return Err(Fault::new(or(later.span(), span), message).hint(format!("write {EXAMPLE}")));
                }
                found.to_end = Some(window);
                Ok(())
            }
            (0, 1) if e.offset != 0 || l.offset != 0 => {
                let instead = format!("the window begins with the impression: write {EXAMPLE}");
                Err(Fault::unsupported(span, "feedback before its impression", instead))
            }
            (0, 1) | (1, 0) => Err(Fault::new(span, "the window has this end already")),
            _ => {
                let fault = Fault::new(span, "the window compares the event times of both sides");
                Err(fault.hint(format!("write {EXAMPLE}")))
            }
        }
    }

    /// `rt`, `rt + INTERVAL ...` or `rt - INTERVAL ...`; `None`: something else.
    fn time(&self, expr: &ast::Expr) -> Checked<Option<Time>> {
        match strip(expr) {
            ast::Expr::Identifier(ident) => self.time_column(std::slice::from_ref(ident)).map(Some),
            ast::Expr::CompoundIdentifier(parts) => self.time_column(parts).map(Some),
            ast::Expr::BinaryOp { left, op: op @ (BinaryOperator::Plus | BinaryOperator::Minus), right } => {
                let Some(time) = self.time(left)? else { return Ok(None) };
                let Some(length) = length_ms(right, self.span)? else { return Ok(None) };
                let offset = if *op == BinaryOperator::Plus { time.offset + length } else { time.offset - length };
                Ok(Some(Time { offset, ..time }))
            }
            _ => Ok(None),
        }
    }

    fn time_column(&self, parts: &[Ident]) -> Checked<Time> {
        let (table, column) = self.from.scope.column(parts)?;
        // Of several feedbacks, this one or another.
        let side = match table {
            0 => Some(0),
            t => (t == self.feedback + 1).then_some(1),
        };
        let time = side.and_then(|side| self.times[side]);
        if time == Some(column) {
            return Ok(Time { table: side.unwrap_or(0), offset: 0 });
        }
        let span = parts[0].span.union(&parts[parts.len() - 1].span);
        let written = parts.iter().map(|p| p.value.as_str()).collect::<Vec<_>>().join(".");
        let fault = Fault::new(span, format!("'{written}' is not the event time of its source"));
        Err(match time {
            _ if side.is_none() => {
                fault.hint("a window is between the impression and the feedback that is joined here")
            }
            Some(time) => {
                let name = &self.from.relation.columns[self.from.index(table, time)].name;
                fault.hint(format!("that is '{name}' (WATERMARK FOR)"))
            }
            None => fault.hint("the view below must select the event time (WATERMARK FOR) as it is"),
        })
    }
}

/// Parts that all must hold, brackets around them removed.
pub(crate) fn conjuncts(expr: &ast::Expr) -> Vec<&ast::Expr> {
    let (mut parts, mut open) = (Vec::new(), vec![expr]);
    while let Some(expr) = open.pop() {
        match strip(expr) {
            ast::Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                open.extend([right.as_ref(), left.as_ref()])
            }
            other => parts.push(other),
        }
    }
    parts
}

fn strip(mut expr: &ast::Expr) -> &ast::Expr {
    while let ast::Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

/// An INTERVAL, or a number of milliseconds for a BIGINT event time.
fn length_ms(expr: &ast::Expr, span: Span) -> Checked<Option<i64>> {
    let literal = |e: &ast::Expr| match strip(e) {
        ast::Expr::Value(v) => match &v.value {
            ast::Value::Number(n, _) => Some(n.clone()),
            ast::Value::SingleQuotedString(s) => Some(s.trim().to_string()),
            _ => None,
        },
        _ => None,
    };
    match strip(expr) {
        ast::Expr::Interval(interval) if interval.last_field.is_none() => {
            let span = or(expr.span(), span);
            let Some(text) = literal(&interval.value) else { return Ok(None) };
            let (number, unit) = match (&interval.leading_field, text.split_once(' ')) {
                (Some(unit), None) => (text.clone(), unit.to_string()),
                (None, Some((number, unit))) => (number.to_string(), unit.trim().to_string()),
                _ => return Err(Fault::new(span, "write a length of time as INTERVAL '10' MINUTE")),
            };
            interval_ms(&number, &unit, span).map(Some)
        }
        ast::Expr::Value(v) => match &v.value {
            ast::Value::Number(n, _) => Ok(n.parse::<i64>().ok().filter(|ms| *ms < 1 << 50)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}
