//! `SELECT`, bound: FROM gives a relation, WHERE goes down into its left input, the list becomes its columns.

use std::sync::Arc;

use datafusion::{
    logical_expr::Expr,
    sql::sqlparser::{
        ast::{
            self, ExcludeSelectItem, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, Query, Select, SelectItem,
            SelectItemQualifiedWildcardKind, SetExpr, Spanned, TableAlias, TableFactor, TableWithJoins,
            WildcardAdditionalOptions,
        },
        tokenizer::Span,
    },
};

use super::{
    Catalog, aggregate,
    feature_view::{self, BoundView},
    join,
    relation::{Filter, Relation, RelationColumn, expand, feedback_of, reads},
    scope::{Scope, find, flat, unflat},
};
use crate::{
    diagnostic::{Checked, Fault},
    parse::{
        AsOfDef, SelectDef,
        cursor::Name,
        tail::{EmitClause, EmitDef},
    },
    planner::or,
    suggest::nearest,
};

/// FROM, bound: the relation with the columns of all its tables, and how they are called in this SELECT.
pub(crate) struct From {
    pub relation: Relation,
    pub scope: Scope,
    /// How many columns each table has.
    pub widths: Vec<usize>,
    /// What is taken from all feedback that matches, as a table of its own behind the others.
    pub aggregates: Vec<(usize, usize)>,
}

impl From {
    /// A relation under a name.
    pub fn one(relation: Relation, alias: &str) -> Self {
        let columns = relation.columns.iter().map(|c| (c.name.clone(), c.ty.clone()));
        Self {
            scope: Scope::new().with(alias, columns),
            widths: vec![relation.columns.len()],
            aggregates: Vec::new(),
            relation,
        }
    }

    /// The place of a table's column among the relation's columns.
    pub fn index(&self, table: usize, column: usize) -> usize {
        self.widths[..table].iter().sum::<usize>() + column
    }

    /// Plans an expression and writes it out over the columns of the sources.
    pub fn plan(
        &self,
        expr: &ast::Expr,
        catalog: &Catalog,
        whole: Span,
    ) -> Checked<(Expr, arrow::datatypes::DataType)> {
        let span = or(expr.span(), whole);
        let resolved = self.scope.resolve(expr)?;
        let (planned, ty) = catalog.planner.plan(&resolved, &self.scope.schema(), span)?;
        let meaning = |name: &str| {
            let (table, column) = unflat(name)?;
            if table == self.widths.len() {
                return aggregate::meaning(self, column);
            }
            let from: usize = self.widths[..table].iter().sum();
            let columns = &self.relation.columns[from..from + self.widths[table]];
            columns.iter().find(|c| c.name == column).map(|c| c.expr.clone())
        };
        debug_assert!(reads(&planned).iter().all(|name| unflat(name).is_some_and(|(t, c)| *name == flat(t, c))));
        Ok((expand(planned, &meaning, span)?, ty))
    }
}

/// Binds a query as it stands at statement `at`.
pub(crate) fn bind(def: &SelectDef, catalog: &Catalog, at: usize) -> Checked<Relation> {
    let mut relation = query(&def.query, &def.as_of, catalog, at).map_err(|fault| mark(fault, def))?;
    if let Some((emit, span)) = &def.emit {
        set_emit(&mut relation, *emit, *span)?;
    }
    Ok(relation)
}

/// A refused clause is marked by its first word, where the whole query would be.
fn mark(fault: Fault, def: &SelectDef) -> Fault {
    let Some(what) = fault.message.strip_prefix("not supported yet: ") else { return fault };
    let place = def.marks.iter().find(|(word, _)| what.split(' ').next() == Some(word));
    place.map_or(fault.clone(), |(_, span)| Fault { span: *span, ..fault })
}

fn set_emit(relation: &mut Relation, emit: EmitClause, span: Span) -> Checked<()> {
    let Some(join) = &mut relation.join else {
        return Err(Fault::new(span, "EMIT says when a join emits; this SELECT has none").hint("leave it out"));
    };
    if join.emit.is_some() {
        return Err(Fault::new(span, "a view below has an EMIT of its own for this join").hint("keep one of the two"));
    }
    let window_ms = join.feedback.iter().map(|f| f.window_ms).max().unwrap_or(0);
    if let Some(EmitDef::Early { delay_ms, span }) = emit.when
        && delay_ms >= window_ms
    {
        let fault = Fault::new(span, "EARLY must come before the window's end");
        return Err(fault.hint("write a shorter time, or EMIT ON WINDOW CLOSE"));
    }
    join.emit = Some(emit);
    Ok(())
}

/// Binds a query over one relation, which its FROM names.
pub(crate) fn bind_over(query: &Query, relation: Relation, catalog: &Catalog) -> Checked<Relation> {
    let (select, span) = (plain(query)?, query.span());
    refuse_clauses(select, span)?;
    let (ident, alias) = only_table(query)?;
    let mut from = From::one(relation, alias.as_ref().map_or(&ident.value, |alias| &alias.name.value));
    if let Some(condition) = &select.selection {
        filter(&mut from, condition, catalog)?;
    }
    let columns = list(select, &mut from, catalog, span)?;
    Ok(Relation { columns, ..from.relation })
}

/// The one table that a query names in FROM.
pub(crate) fn table_of(query: &Query) -> Checked<Name> {
    let (ident, _) = only_table(query)?;
    Ok(Name { text: ident.value.clone(), span: ident.span })
}

fn only_table(query: &Query) -> Checked<(&Ident, &Option<TableAlias>)> {
    let (select, span) = (plain(query)?, query.span());
    let hint = "write SELECT columns FROM model WHERE condition";
    let [TableWithJoins { relation, joins }] = select.from.as_slice() else {
        return Err(Fault::new(span, "a sink takes its rows FROM one model").hint(hint));
    };
    match relation {
        TableFactor::Table { name, alias, args: None, .. } if joins.is_empty() => match name.0.as_slice() {
            [ast::ObjectNamePart::Identifier(ident)] => Ok((ident, alias)),
            _ => Err(Fault::new(or(relation.span(), span), format!("no model '{name}'")).hint("names have one part")),
        },
        _ => Err(Fault::new(or(relation.span(), span), "a sink takes its rows FROM one model").hint(hint)),
    }
}

fn query(query: &Query, as_of: &[AsOfDef], catalog: &Catalog, at: usize) -> Checked<Relation> {
    self::select(plain(query)?, as_of, catalog, at, query.span())
}

/// The SELECT that a query is, where it is nothing else.
fn plain(query: &Query) -> Checked<&Select> {
    let span = query.span();
    let refuse = |what: &str, instead: &str| Err(Fault::unsupported(span, what, instead));
    if query.with.is_some() {
        return refuse("WITH before SELECT", "write CREATE VIEW name AS SELECT ...; before the statement");
    }
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => select,
        SetExpr::SetOperation { op, .. } => {
            let instead = "several files are one source: write path = '*.csv'";
            return Err(Fault::unsupported(span, format!("{op} of queries"), instead));
        }
        _ => return refuse("this form of query", "write SELECT ... FROM ..."),
    };
    if let Some(order) = &query.order_by {
        let instead = "events are taken in the order of their event time: leave it out";
        return Err(Fault::unsupported(or(order.span(), span), "ORDER BY", instead));
    }
    if query.limit_clause.is_some() || query.fetch.is_some() {
        return refuse("LIMIT", "leave it out, or filter with WHERE");
    }
    let other = !query.locks.is_empty()
        || query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
        || !query.pipe_operators.is_empty();
    if other {
        return refuse("the clause at the end of this query", "leave it out");
    }
    Ok(select)
}

fn select(select: &Select, as_of: &[AsOfDef], catalog: &Catalog, at: usize, span: Span) -> Checked<Relation> {
    refuse_clauses(select, span)?;
    let mut from = match select.from.as_slice() {
        [one] => from(one, as_of, catalog, at)?,
        [] => return Err(Fault::new(span, "SELECT needs FROM a source or view")),
        [_, second, ..] => {
            let instead = "write a LEFT JOIN b ON a.key = b.key AND b.rt BETWEEN a.rt AND a.rt + INTERVAL '10' MINUTE";
            return Err(Fault::unsupported(or(second.span(), span), "several tables in FROM", instead));
        }
    };
    if let Some(condition) = &select.selection {
        filter(&mut from, condition, catalog)?;
    }
    let columns = list(select, &mut from, catalog, span)?;
    Ok(Relation { columns, ..from.relation })
}

fn refuse_clauses(select: &Select, span: Span) -> Checked<()> {
    let grouped = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(by, _) => !by.is_empty(),
    };
    let instead = "select the impression's own columns";
    let clauses: [(bool, &str, &str); 8] = [
        (grouped, "GROUP BY", instead),
        (select.having.is_some(), "HAVING", "filter with WHERE"),
        (select.distinct.is_some(), "DISTINCT", "declare the column PRIMARY KEY in CREATE SOURCE"),
        (select.qualify.is_some() || !select.named_window.is_empty(), "window clauses", instead),
        (select.top.is_some(), "TOP", "leave it out, or filter with WHERE"),
        (select.into.is_some(), "INTO a table", "write TO TRAIN ... INTO model"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW", instead),
        (
            select.prewhere.is_some()
                || !select.connect_by.is_empty()
                || !select.cluster_by.is_empty()
                || !select.distribute_by.is_empty()
                || !select.sort_by.is_empty()
                || select.exclude.is_some()
                || select.value_table_mode.is_some()
                || select.flavor != ast::SelectFlavor::Standard,
            "this form of SELECT",
            "write SELECT columns FROM source WHERE condition",
        ),
    ];
    match clauses.iter().find(|c| c.0) {
        Some((_, what, instead)) => Err(Fault::unsupported(span, what, *instead)),
        None => Ok(()),
    }
}

/// The impressions, with types of feedback and feature views, any number of each. Feedback comes first, as it is joined
/// to the impressions' own columns.
fn from(table: &TableWithJoins, as_of: &[AsOfDef], catalog: &Catalog, at: usize) -> Checked<From> {
    let (left, left_alias) = factor(&table.relation, as_of, catalog, at)?;
    let mut views = Vec::new();
    let mut aliases = vec![left_alias];
    let mut from = From::one(left, &aliases[0].value);
    for join in &table.joins {
        if let Some((view, alias)) = feature_view_of(join, catalog, at)? {
            views.push((join, view, alias));
            continue;
        }
        let (right, alias) = factor(&join.relation, as_of, catalog, at)?;
        let span = or(join.relation.span(), alias.span);
        let constraint = left_join(join, span)?;
        if aliases.iter().any(|before| before.value == alias.value) {
            let fault = Fault::new(alias.span, format!("'{}' names both sides of the join", alias.value));
            return Err(fault.hint("give one an alias: FROM a AS i LEFT JOIN b AS c"));
        }
        from = match constraint {
            JoinConstraint::On(on) => join::bind(from, right, [&aliases[0], &alias], on, catalog)?,
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                return Err(Fault::unsupported(span, "USING and NATURAL", "write ON a.key = b.key AND ..."));
            }
            JoinConstraint::None => return Err(join::needs_time_bound(span)),
        };
        aliases.push(alias);
    }
    for (join, view, alias) in views {
        let constraint = left_join(join, or(join.relation.span(), alias.span))?;
        let on = if let JoinConstraint::On(on) = constraint { Some(on) } else { None };
        if from.scope.table(&alias).is_ok() {
            let fault = Fault::new(alias.span, format!("'{}' names two tables of this SELECT", alias.value));
            return Err(fault.hint("give one an alias"));
        }
        from = feature_view::join(from, view, &alias, feature_view::as_of(as_of, &join.relation), on, catalog)?;
    }
    Ok(from)
}

fn feature_view_of(join: &Join, catalog: &Catalog, at: usize) -> Checked<Option<(Arc<BoundView>, Ident)>> {
    let TableFactor::Table { name, alias, .. } = &join.relation else { return Ok(None) };
    let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return Ok(None) };
    let Some(view) = catalog.feature_view(ident, at)? else { return Ok(None) };
    Ok(Some((view, alias_of(alias, ident, join.relation.span())?)))
}

fn left_join(join: &Join, span: Span) -> Checked<&JoinConstraint> {
    match &join.join_operator {
        JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => Ok(constraint),
        _ => {
            let instead = "write LEFT JOIN: every impression gives one sample, positive when feedback came";
            Err(Fault::unsupported(span, "a join that is not LEFT JOIN", instead))
        }
    }
}

/// FOR SYSTEM_TIME AS OF behind what is no feature view, whose name may be a slip.
fn no_feature_view(factor: &TableFactor, as_of: &AsOfDef, catalog: &Catalog) -> Fault {
    let named = match factor {
        TableFactor::Table { name, .. } => name.to_string(),
        _ => String::new(),
    };
    match nearest(&named, catalog.feature_view_names()) {
        Some(near) => Fault::new(factor.span(), format!("no feature view '{named}'; did you mean '{near}'?")),
        None => {
            let instead = "only feature views are read as of a time: CREATE FEATURE VIEW ...";
            Fault::unsupported(as_of.span, "FOR SYSTEM_TIME AS OF on what is no feature view", instead)
        }
    }
}

/// A table of FROM: what it stands for and how it is called.
fn factor(factor: &TableFactor, as_of: &[AsOfDef], catalog: &Catalog, at: usize) -> Checked<(Relation, Ident)> {
    let span = factor.span();
    if let Some(as_of) = feature_view::as_of(as_of, factor) {
        return Err(no_feature_view(factor, as_of, catalog));
    }
    match factor {
        TableFactor::Table { name, alias, args: None, version: None, sample: None, with_hints, .. }
            if with_hints.is_empty() =>
        {
            let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
                return Err(Fault::new(span, format!("no source or view '{name}'")).hint("names have one part"));
            };
            Ok((catalog.relation(ident, at)?, alias_of(alias, ident, span)?))
        }
        TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
            let unnamed = Ident { value: "subquery".into(), quote_style: None, span };
            Ok((query(subquery, as_of, catalog, at)?, alias_of(alias, &unnamed, span)?))
        }
        _ => Err(Fault::unsupported(span, "this form of table", "name a source or view in FROM")),
    }
}

fn alias_of(alias: &Option<TableAlias>, otherwise: &Ident, span: Span) -> Checked<Ident> {
    match alias {
        None => Ok(otherwise.clone()),
        Some(alias) if alias.columns.is_empty() => Ok(alias.name.clone()),
        Some(_) => Err(Fault::unsupported(span, "column names in an alias", "name columns with AS in a SELECT list")),
    }
}

/// WHERE: each of its parts goes to the left input, where it drops impressions before they are joined.
fn filter(from: &mut From, condition: &ast::Expr, catalog: &Catalog) -> Checked<()> {
    for part in join::conjuncts(condition) {
        let span = or(part.span(), condition.span());
        let (expr, ty) = from.plan(part, catalog, span)?;
        if ty != arrow::datatypes::DataType::Boolean {
            let message = format!("WHERE needs a condition, this is {}", crate::parse::value::type_name(&ty));
            return Err(Fault::new(span, message));
        }
        if let Some(name) = reads(&expr).iter().find_map(|n| feedback_of(n).map(|(_, column)| column.to_string())) {
            let message = format!(
                "WHERE cannot look at feedback ('{name}'): when an impression arrives nobody knows it yet, and dropping \
                 samples by their feedback would bias the model"
            );
            return Err(Fault::new(span, message)
                .hint("filter on the impression's columns, or filter feedback in a view of its own"));
        }
        from.relation.left.filters.push(Filter { expr, text: part.to_string() });
    }
    Ok(())
}

fn list(select: &Select, from: &mut From, catalog: &Catalog, span: Span) -> Checked<Vec<RelationColumn>> {
    let mut columns: Vec<RelationColumn> = Vec::new();
    for item in &select.projection {
        let item_span = or(item.span(), span);
        let added = match item {
            SelectItem::Wildcard(options) => wildcard(from, 0..from.widths.len(), options, item_span)?,
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                let [ast::ObjectNamePart::Identifier(ident)] = name.0.as_slice() else {
                    return Err(Fault::new(item_span, format!("no table or alias '{name}'")));
                };
                let table = from.scope.table(ident)?;
                wildcard(from, table..table + 1, options, item_span)?
            }
            SelectItem::UnnamedExpr(expr) => vec![column(from, expr, None, catalog, item_span)?],
            SelectItem::ExprWithAlias { expr, alias } => vec![column(from, expr, Some(alias), catalog, item_span)?],
            _ => return Err(Fault::unsupported(item_span, "this entry of a SELECT list", "write expression AS name")),
        };
        for new in added {
            if columns.iter().any(|c| c.name == new.name) {
                let fault = Fault::new(item_span, format!("column '{}' is in the SELECT list twice", new.name));
                return Err(fault.hint("name one of them with AS, or take the columns of one table with alias.*"));
            }
            columns.push(new);
        }
    }
    Ok(columns)
}

fn column(
    from: &mut From,
    expr: &ast::Expr,
    alias: Option<&Ident>,
    catalog: &Catalog,
    span: Span,
) -> Checked<RelationColumn> {
    let (planned, ty) = match aggregate::take_out(expr, from, catalog, span)? {
        Some(rest) => aggregate::with_table(from, |from| from.plan(&rest, catalog, span))?,
        None => from.plan(expr, catalog, span)?,
    };
    let name = match (alias, expr) {
        (Some(alias), _) => alias.value.clone(),
        (None, ast::Expr::Identifier(ident)) => name_of(from, std::slice::from_ref(ident))?,
        (None, ast::Expr::CompoundIdentifier(parts)) => name_of(from, parts)?,
        (None, other) => other.to_string(),
    };
    Ok(RelationColumn { name, ty, expr: planned, text: expr.to_string() })
}

/// The column's own name, however its letters were written.
fn name_of(from: &From, parts: &[Ident]) -> Checked<String> {
    let (table, column) = from.scope.column(parts)?;
    Ok(from.relation.columns[from.index(table, column)].name.clone())
}

fn wildcard(
    from: &From,
    tables: std::ops::Range<usize>,
    options: &WildcardAdditionalOptions,
    span: Span,
) -> Checked<Vec<RelationColumn>> {
    if options.opt_ilike.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
        || options.opt_alias.is_some()
    {
        return Err(Fault::unsupported(span, "this form of *", "write * EXCEPT (a, b)"));
    }
    let mut columns: Vec<RelationColumn> = tables
        .flat_map(|t| from.relation.columns[from.index(t, 0)..from.index(t, 0) + from.widths[t]].to_vec())
        .collect();
    for ident in excluded(options) {
        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        let Some(i) = find(&names, &ident.value) else {
            let fault = Fault::new(or(ident.span, span), format!("no column '{}' to leave out", ident.value));
            return Err(fault.nearest(&ident.value, names, "columns"));
        };
        columns.remove(i);
    }
    Ok(columns)
}

fn excluded(options: &WildcardAdditionalOptions) -> Vec<Ident> {
    let mut idents = Vec::new();
    if let Some(except) = &options.opt_except {
        idents.push(except.first_element.clone());
        idents.extend(except.additional_elements.iter().cloned());
    }
    let names = match &options.opt_exclude {
        Some(ExcludeSelectItem::Single(name)) => std::slice::from_ref(name),
        Some(ExcludeSelectItem::Multiple(names)) => names.as_slice(),
        None => &[],
    };
    idents.extend(names.iter().filter_map(|n| n.0.last().and_then(|p| p.as_ident().cloned())));
    idents
}
