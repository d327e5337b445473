//! Names in expressions: which column of which table is meant.
//!
//! Names are found as they are written, or, when there is none, without regard to letter case. Behind this point a
//! column is called by its flat name, the table's number and the column's name.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::{
    common::DFSchema,
    sql::sqlparser::ast::{self, Ident, visit_expressions, visit_expressions_mut},
};

use crate::{
    diagnostic::{Checked, Fault, list},
    planner::schema_of,
    suggest::nearest,
};

/// The tables that an expression can name.
#[derive(Clone, Default)]
pub(crate) struct Scope {
    tables: Vec<Table>,
}

#[derive(Clone)]
struct Table {
    alias: String,
    columns: Vec<(String, DataType)>,
}

impl Scope {
    pub fn new() -> Self {
        Self { tables: Vec::new() }
    }

    pub fn with(mut self, alias: &str, columns: impl IntoIterator<Item = (String, DataType)>) -> Self {
        self.tables.push(Table { alias: alias.to_string(), columns: columns.into_iter().collect() });
        self
    }

    /// All columns under their flat names.
    pub fn schema(&self) -> DFSchema {
        schema_of(
            self.tables
                .iter()
                .enumerate()
                .flat_map(|(t, table)| table.columns.iter().map(move |(name, ty)| (flat(t, name), ty))),
        )
    }

    /// The table of this name.
    pub fn table(&self, ident: &Ident) -> Checked<usize> {
        let aliases: Vec<&str> = self.tables.iter().map(|t| t.alias.as_str()).collect();
        find(&aliases, &ident.value).ok_or_else(|| {
            let fault = Fault::new(ident.span, format!("no table or alias '{}' in this SELECT", ident.value));
            fault.nearest(&ident.value, aliases, "tables")
        })
    }

    /// Table and column of `column` or `table.column`.
    pub fn column(&self, parts: &[Ident]) -> Checked<(usize, usize)> {
        match parts {
            [column] => self.any_column(column),
            [table, column] => {
                let t = self.table(table)?;
                let names = self.names(t);
                find(&names, &column.value).map(|c| (t, c)).ok_or_else(|| {
                    let message = format!("no column '{}' in '{}'", column.value, self.tables[t].alias);
                    let fault = Fault::new(column.span, message);
                    fault.nearest(&column.value, names, "columns")
                })
            }
            _ => {
                let span = parts.first().map_or(ast::Ident::new("").span, |p| p.span);
                Err(Fault::new(span, "a column is named 'column' or 'table.column'"))
            }
        }
    }

    fn any_column(&self, column: &Ident) -> Checked<(usize, usize)> {
        let found = |same: &dyn Fn(&str) -> bool| -> Vec<(usize, usize)> {
            let all = self.tables.iter().enumerate();
            all.flat_map(|(t, table)| table.columns.iter().enumerate().map(move |(c, (name, _))| (t, c, name)))
                .filter(|(_, _, name)| same(name))
                .map(|(t, c, _)| (t, c))
                .collect()
        };
        let mut matches = found(&|name| name == column.value);
        if matches.is_empty() {
            matches = found(&|name| name.eq_ignore_ascii_case(&column.value));
        }
        match matches[..] {
            [one] => Ok(one),
            [] => Err(self.unknown(column)),
            _ => {
                let places: Vec<String> = matches
                    .iter()
                    .map(|&(t, c)| format!("{}.{}", self.tables[t].alias, self.tables[t].columns[c].0))
                    .collect();
                let fault = Fault::new(column.span, format!("column '{}' is ambiguous", column.value));
                Err(fault.hint(format!("write {}", places.join(" or "))))
            }
        }
    }

    fn unknown(&self, column: &Ident) -> Fault {
        let name = &column.value;
        let known: Vec<&str> = (0..self.tables.len()).flat_map(|t| self.names(t)).collect();
        let fault = Fault::new(column.span, format!("no column '{name}'"));
        match nearest(name, known.iter().copied()) {
            Some(near) => fault.hint(format!("did you mean '{near}'?")),
            None if column.quote_style == Some('"') => {
                fault.hint(format!("text is written in single quotes: '{name}'"))
            }
            None if known.is_empty() => fault,
            None => fault.hint(format!("columns: {}", list(&known))),
        }
    }

    /// The expression with flat names; every name in it exists.
    pub fn resolve(&self, expr: &ast::Expr) -> Checked<ast::Expr> {
        let mut expr = expr.clone();
        let flow = visit_expressions_mut(&mut expr, |part| {
            let parts = match part {
                ast::Expr::Identifier(ident) => std::slice::from_ref(ident),
                ast::Expr::CompoundIdentifier(parts) => parts.as_slice(),
                _ => return ControlFlow::Continue(()),
            };
            match self.column(parts) {
                Ok((t, c)) => {
                    let span = parts[0].span.union(&parts[parts.len() - 1].span);
                    let value = flat(t, &self.tables[t].columns[c].0);
                    *part = ast::Expr::Identifier(Ident { value, quote_style: Some('"'), span });
                    ControlFlow::Continue(())
                }
                Err(fault) => ControlFlow::Break(fault),
            }
        });
        match flow {
            ControlFlow::Break(fault) => Err(fault),
            ControlFlow::Continue(()) => Ok(expr),
        }
    }

    /// Tables that an expression names a column of; unknown names are skipped.
    pub fn tables_of(&self, expr: &ast::Expr) -> Vec<usize> {
        let mut tables = Vec::new();
        let _ = visit_expressions(expr, |part| {
            let column = match part {
                ast::Expr::Identifier(ident) => self.column(std::slice::from_ref(ident)),
                ast::Expr::CompoundIdentifier(parts) => self.column(parts),
                _ => return ControlFlow::<()>::Continue(()),
            };
            tables.extend(column.map(|(t, _)| t));
            ControlFlow::Continue(())
        });
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    fn names(&self, table: usize) -> Vec<&str> {
        self.tables[table].columns.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// The flat name of a table's column.
pub(crate) fn flat(table: usize, column: &str) -> String {
    format!("{table}.{column}")
}

/// Table and column of a flat name.
pub(crate) fn unflat(name: &str) -> Option<(usize, &str)> {
    let (table, column) = name.split_once('.')?;
    Some((table.parse().ok()?, column))
}

/// The place of a name among others: as written, or the only one that differs in letter case.
pub(crate) fn find(names: &[&str], written: &str) -> Option<usize> {
    if let Some(exact) = names.iter().position(|n| *n == written) {
        return Some(exact);
    }
    let mut near = names.iter().enumerate().filter(|(_, n)| n.eq_ignore_ascii_case(written));
    match (near.next(), near.next()) {
        (Some((i, _)), None) => Some(i),
        _ => None,
    }
}
