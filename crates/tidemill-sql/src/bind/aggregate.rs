//! `SUM(c.price)` in a SELECT over a join: what an impression takes from all feedback that matches it.
//!
//! In: an expression of the SELECT list. Out: the same with each such call replaced by a column of a table that stands
//! behind the others, and the calls kept beside the feedback that they read. There is no GROUP BY: the impression is the
//! group.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::{
    logical_expr::{Expr, cast},
    sql::sqlparser::{
        ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Spanned, visit_expressions_mut},
        tokenizer::Span,
    },
};
use tidemill_stream::join::Take;

use super::{
    Catalog,
    relation::{Aggregate, base, feedback_of, reads, right},
    select::From,
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::value::type_name,
    planner::{or, to_plain_type},
};

/// What the table of what was taken is called: no program can write this name.
const TABLE: &str = "#";

/// The expression without its aggregates, which are kept in `from`; `None`: there is none.
pub(super) fn take_out(
    expr: &ast::Expr,
    from: &mut From,
    catalog: &Catalog,
    whole: Span,
) -> Checked<Option<ast::Expr>> {
    if from.relation.join.is_none() {
        return Ok(None);
    }
    let (mut rest, mut any) = (expr.clone(), false);
    let flow = visit_expressions_mut(&mut rest, |part| {
        let span = or(part.span(), whole);
        let ast::Expr::Function(call) = part else { return ControlFlow::Continue(()) };
        let Some(take) = take_of(call) else { return ControlFlow::Continue(()) };
        match keep(call, take, from, catalog, span) {
            Ok(number) => {
                let ident = Ident { value: format!("{TABLE}{number}"), quote_style: Some('"'), span };
                (*part, any) = (ast::Expr::Identifier(ident), true);
                ControlFlow::Continue(())
            }
            Err(fault) => ControlFlow::Break(fault),
        }
    });
    match flow {
        ControlFlow::Break(fault) => Err(fault),
        ControlFlow::Continue(()) => Ok(any.then_some(rest)),
    }
}

/// Runs `work` while the scope has the table of what was taken.
pub(super) fn with_table<T>(from: &mut From, work: impl FnOnce(&From) -> T) -> T {
    let columns: Vec<(String, DataType)> =
        (0..from.aggregates.len()).map(|i| (format!("{TABLE}{i}"), aggregate(from, i).result())).collect();
    let without = std::mem::take(&mut from.scope);
    from.scope = without.clone().with(TABLE, columns);
    let done = work(from);
    from.scope = without;
    done
}

/// What a column of that table stands for.
pub(super) fn meaning(from: &From, column: &str) -> Option<Expr> {
    let i: usize = column.strip_prefix(TABLE)?.parse().ok()?;
    let (feedback, number) = *from.aggregates.get(i)?;
    Some(base(&right(feedback), &format!("#{number}")))
}

fn aggregate(from: &From, i: usize) -> &Aggregate {
    let (feedback, number) = from.aggregates[i];
    let join = from.relation.join.as_ref().expect("it was taken out of a join");
    &join.feedback[feedback].aggregates[number]
}

fn take_of(call: &ast::Function) -> Option<Take> {
    const NAMES: [(&str, Take); 7] = [
        ("FIRST", Take::First),
        ("FIRST_VALUE", Take::First),
        ("LAST", Take::Last),
        ("LAST_VALUE", Take::Last),
        ("COUNT", Take::Count),
        ("SUM", Take::Sum),
        ("MAX", Take::Max),
    ];
    let [ast::ObjectNamePart::Identifier(name)] = call.name.0.as_slice() else { return None };
    NAMES.into_iter().find(|(written, _)| name.value.eq_ignore_ascii_case(written)).map(|(_, take)| take)
}

/// Keeps the call beside its feedback and gives back its number among those of this SELECT.
fn keep(call: &ast::Function, take: Take, from: &mut From, catalog: &Catalog, span: Span) -> Checked<usize> {
    let name = call.name.to_string().to_ascii_uppercase();
    let FunctionArguments::List(list) = &call.args else {
        return Err(Fault::new(span, format!("{name} takes one column of the feedback")));
    };
    let is_plain = call.over.is_none() && call.filter.is_none() && call.within_group.is_empty();
    if !is_plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        let instead = format!("write {name}(c.column); filter the feedback in a view of its own");
        return Err(Fault::unsupported(span, format!("this form of {name}"), instead));
    }
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_slice() else {
        let fault = Fault::new(span, format!("{name} takes one column of the feedback"));
        return Err(fault.hint(format!("write {name}(c.key): a column that is never NULL counts every match")));
    };
    let (expr, ty) = from.plan(argument, catalog, span)?;
    let columns = reads(&expr);
    let mut feedback: Vec<usize> = columns.iter().filter_map(|name| feedback_of(name).map(|(f, _)| f)).collect();
    feedback.dedup();
    let [feedback] = feedback[..] else {
        let fault = Fault::new(span, format!("{name} is over the feedback that matches an impression"));
        return Err(fault.hint("name columns of one of the joined feedbacks in it"));
    };
    if columns.iter().any(|name| feedback_of(name).is_none_or(|(_, column)| column.starts_with(TABLE))) {
        let fault = Fault::new(span, format!("{name} takes columns of its feedback alone"));
        return Err(fault.hint(format!("take the impression's columns out of it: i.x * {name}(c.y)")));
    }
    let (expr, ty) = to_plain_type(expr, &ty);
    let (expr, ty) = match take {
        Take::Sum | Take::Max if ty == DataType::Float64 => (expr, ty),
        Take::Sum | Take::Max if ty.is_numeric() => (cast(expr, DataType::Float64), DataType::Float64),
        Take::Sum | Take::Max => {
            return Err(Fault::new(span, format!("{name} takes a number, this is {}", type_name(&ty))));
        }
        _ => (expr, ty),
    };
    let new = Aggregate { take, expr, ty, text: call.to_string() };
    let join = from.relation.join.as_mut().expect("feedback was read");
    let of_feedback = &mut join.feedback[feedback].aggregates;
    let number = of_feedback.iter().position(|a| *a == new).unwrap_or_else(|| {
        of_feedback.push(new);
        of_feedback.len() - 1
    });
    let at = from.aggregates.iter().position(|a| *a == (feedback, number));
    Ok(at.unwrap_or_else(|| {
        from.aggregates.push((feedback, number));
        from.aggregates.len() - 1
    }))
}
