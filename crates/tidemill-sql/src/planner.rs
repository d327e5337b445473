//! Scalar expressions: from the parser's tree to a planned expression, once a statement, never a batch.
//!
//! In: an expression whose names are resolved already, and the columns it may read. Out: a logical expression with its
//! type coercions written out, and at the end of binding a physical one. Only functions that depend on nothing but the
//! row are let in: a clock or a random number would make two runs differ. Whole-number arithmetic is checked: what
//! overflows refuses its row.

use std::{ops::ControlFlow, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::{
    common::{
        DFSchema,
        tree_node::{Transformed as Rewritten, TreeNode},
    },
    error::DataFusionError,
    execution::session_state::{SessionState, SessionStateBuilder},
    logical_expr::{Expr, ExprSchemable, Volatility, simplify::SimplifyContext},
    optimizer::simplify_expressions::ExprSimplifier,
    physical_expr::{PhysicalExpr, expressions::BinaryExpr},
    prelude::SessionConfig,
    sql::sqlparser::{
        ast::{self, Spanned, visit_expressions},
        tokenizer::Span,
    },
};

use crate::{
    diagnostic::{Checked, Fault},
    transform::words,
};

/// Names that people bring from other systems.
const ALIASES: [(&str, &str); 2] =
    [("to_timestamp_ms", "to_timestamp_millis"), ("to_timestamp_s", "to_timestamp_seconds")];

/// A failing expression with more parts than this is marked as a whole.
const BLAME_PARTS_MAX: usize = 200;

pub(crate) struct Planner {
    state: SessionState,
}

impl Planner {
    pub fn new() -> Self {
        let mut config = SessionConfig::new();
        let parser = &mut config.options_mut().sql_parser;
        parser.enable_ident_normalization = false;
        parser.map_string_types_to_utf8view = false;
        Self { state: SessionStateBuilder::new().with_config(config).with_default_features().build() }
    }

    /// Plans an expression over columns by their flat names; also gives its type. A fault marks the smallest part that
    /// fails.
    pub fn plan(&self, expr: &ast::Expr, schema: &DFSchema, whole: Span) -> Checked<(Expr, DataType)> {
        self.check(expr, whole)?;
        self.try_plan(expr, schema).map_err(|error| self.blame(expr, schema, error, whole))
    }

    fn try_plan(&self, expr: &ast::Expr, schema: &DFSchema) -> Result<(Expr, DataType), DataFusionError> {
        let expr = renamed(expr);
        let logical = self.state.create_logical_expr_from_sql_expr(ast::ExprWithAlias { expr, alias: None }, schema)?;
        let simplifier = self.simplifier(schema);
        let coerced = simplifier.coerce(logical, schema)?;
        let simple = simplifier.simplify(coerced)?;
        let ty = simple.get_type(schema)?;
        Ok((simple, ty))
    }

    fn simplifier(&self, schema: &DFSchema) -> ExprSimplifier {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(self.state.config_options()))
            .build();
        ExprSimplifier::new(context)
    }

    /// The physical form of a planned expression.
    pub fn physical(&self, expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let planned = self.state.create_physical_expr(expr.clone(), schema)?;
        let checked = planned.transform_up(|e| match e.downcast_ref::<BinaryExpr>() {
            Some(binary) => Ok(Rewritten::yes(Arc::new(binary.clone().with_fail_on_overflow(true)) as _)),
            None => Ok(Rewritten::no(e)),
        })?;
        Ok(checked.data)
    }

    /// Refuses what is no pure function of the row, and functions that do not exist.
    fn check(&self, expr: &ast::Expr, whole: Span) -> Checked<()> {
        let flow = visit_expressions(expr, |part| match self.check_part(part, whole) {
            Ok(()) => ControlFlow::Continue(()),
            Err(fault) => ControlFlow::Break(fault),
        });
        match flow {
            ControlFlow::Break(fault) => Err(fault),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn check_part(&self, part: &ast::Expr, whole: Span) -> Checked<()> {
        let span = or(part.span(), whole);
        match part {
            ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => {
                Err(Fault::unsupported(span, "a subquery in an expression", "write values, or a CREATE VIEW in FROM"))
            }
            ast::Expr::Function(f) => self.check_function(f, whole),
            ast::Expr::Cast { data_type: ast::DataType::Custom(name, _), .. } => {
                let written = name.to_string();
                let fault = Fault::new(or(name.span(), span), format!("unknown type '{written}'"));
                Err(fault.nearest(&written, CAST_TYPES, "types"))
            }
            _ => Ok(()),
        }
    }

    fn check_function(&self, f: &ast::Function, whole: Span) -> Checked<()> {
        let span = or(f.name.span(), whole);
        let name = function_name(f);
        if f.over.is_some() || self.state.window_functions().contains_key(&name) {
            return Err(Fault::unsupported(span, format!("{}(...) OVER", name.to_uppercase()), AGGREGATES_INSTEAD));
        }
        if self.state.aggregate_functions().contains_key(&name) {
            return Err(Fault::unsupported(span, format!("the aggregate {}", name.to_uppercase()), AGGREGATES_INSTEAD));
        }
        let Some(function) = self.state.scalar_functions().get(&name) else {
            if let Some((table, column)) =
                name.split_once('.').filter(|_| matches!(f.args, ast::FunctionArguments::None))
            {
                let fault = Fault::new(span, format!("'{column}' has a meaning of its own in SQL"));
                return Err(fault.hint(format!("as a column write {table}.\"{column}\"")));
            }
            let fault = Fault::new(span, format!("no function '{name}'"));
            let mut known: Vec<&str> = self.state.scalar_functions().keys().map(String::as_str).collect();
            known.extend(ALIASES.map(|a| a.0));
            known.sort_unstable();
            return Err(match crate::suggest::nearest(&name, known) {
                Some(near) => fault.hint(format!("did you mean {near}?")),
                None => fault.hint("scalar functions are those of DataFusion"),
            });
        };
        if function.signature().volatility != Volatility::Immutable {
            let message = format!("{name}() is not a function of the row: two runs would give different models");
            return Err(Fault::new(span, message).hint("put what it gives into the event"));
        }
        Ok(())
    }

    /// The fault of the smallest part that cannot be planned alone.
    fn blame(&self, expr: &ast::Expr, schema: &DFSchema, error: DataFusionError, whole: Span) -> Fault {
        let mut parts = 0;
        let _ = visit_expressions(expr, |_| {
            parts += 1;
            if parts > BLAME_PARTS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut smallest = (or(expr.span(), whole), error);
        if parts <= BLAME_PARTS_MAX {
            // Visited from the outside in: the last failing part whose own parts are sound is the culprit; any failing
            // part inside another one comes later and is smaller.
            let _ = visit_expressions(expr, |part| {
                if let Err(error) = self.try_plan(part, schema) {
                    smallest = (or(part.span(), smallest.0), error);
                }
                ControlFlow::<()>::Continue(())
            });
        }
        Fault::new(smallest.0, plan_words(&smallest.1))
    }
}

const CAST_TYPES: [&str; 8] = ["BIGINT", "INT", "DOUBLE", "REAL", "STRING", "VARCHAR", "BOOLEAN", "TIMESTAMP"];
const AGGREGATES_INSTEAD: &str = "expressions are functions of one row: select the impression's own columns";

/// An error of planning in our words.
pub(crate) fn plan_words(error: &DataFusionError) -> String {
    let text = error.find_root().strip_backtrace();
    let text = ["Error during planning: ", "Schema error: ", "This feature is not implemented: ", "Execution error: "]
        .iter()
        .fold(text.as_str(), |t, prefix| t.trim_start_matches(prefix));
    // A pattern's error shows the pattern over several lines; its cause stands on the last.
    match text.strip_prefix("External error: regex parse error:").and_then(|t| t.rsplit_once("error: ")) {
        Some((_, cause)) => format!("not a regular expression: {}", cause.trim()),
        None => words(text),
    }
}

fn function_name(f: &ast::Function) -> String {
    let name = f.name.to_string().to_lowercase();
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, real)| real.to_string())
}

/// The expression with function names as the engine knows them.
fn renamed(expr: &ast::Expr) -> ast::Expr {
    let mut expr = expr.clone();
    let _ = ast::visit_expressions_mut(&mut expr, |part| {
        if let ast::Expr::Function(f) = part {
            let name = function_name(f);
            if let [ast::ObjectNamePart::Identifier(ident)] = f.name.0.as_mut_slice() {
                ident.value = name;
            }
        }
        ControlFlow::<()>::Continue(())
    });
    expr
}

/// A span, or another one when it is nowhere.
pub(crate) fn or(span: Span, otherwise: Span) -> Span {
    if span.start.line == 0 { otherwise } else { span }
}

/// Columns by flat name, each of which may be NULL.
pub(crate) fn schema_of<'a>(columns: impl IntoIterator<Item = (String, &'a DataType)>) -> DFSchema {
    let fields: Vec<Field> = columns.into_iter().map(|(name, ty)| Field::new(name, ty.clone(), true)).collect();
    DFSchema::try_from(Schema::new(fields)).expect("names within one scope were checked to be different")
}

/// The type in which a column leaves a program: the few that features know.
pub(crate) fn plain_type(ty: &DataType) -> DataType {
    match ty {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 | DataType::Decimal32(..) | DataType::Decimal64(..) => DataType::Float64,
        DataType::Decimal128(..) | DataType::Decimal256(..) => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            DataType::Timestamp(TimeUnit::Millisecond, None)
        }
        DataType::Dictionary(_, value) => plain_type(value),
        other => other.clone(),
    }
}

/// The expression in its [`plain_type`].
pub(crate) fn to_plain_type(expr: Expr, ty: &DataType) -> (Expr, DataType) {
    let plain = plain_type(ty);
    if plain == *ty { (expr, plain) } else { (datafusion::logical_expr::cast(expr, plain.clone()), plain) }
}
