//! `CREATE SOURCE name (columns, computed columns, WATERMARK FOR ...) WITH (name = value, ...)`, of bounded history also
//! `SWITCH TO stream AT TIMESTAMP '...'`.

use arrow::{compute::kernels::cast_utils::string_to_timestamp_nanos, datatypes::DataType};
use datafusion::sql::sqlparser::{
    ast::Expr,
    tokenizer::{Span, Token, TokenWithSpan},
};
use tidemill_stream::source::SwitchAt;

use super::{
    cursor::{Cursor, Name, span_of},
    stock,
    value::{self, Written},
};
use crate::diagnostic::{Checked, Fault};

/// A source as it was declared.
#[derive(Clone, Debug)]
pub(crate) struct SourceDef {
    pub name: Name,
    pub columns: Vec<ColumnDef>,
    pub computed: Vec<ComputedDef>,
    pub primary_key: Option<Name>,
    pub watermark: Option<WatermarkDef>,
    pub settings: Vec<Written>,
    /// The word WITH, or where it is missing.
    pub with: Span,
    pub switch: Option<SwitchDef>,
}

/// The stream that a history goes on as.
#[derive(Clone, Debug)]
pub(crate) struct SwitchDef {
    pub to: Name,
    pub at: SwitchAt,
}

#[derive(Clone, Debug)]
pub(crate) struct ColumnDef {
    pub name: Name,
    pub ty: DataType,
    pub not_null: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ComputedDef {
    pub name: Name,
    pub expr: Expr,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub(crate) struct WatermarkDef {
    pub column: Name,
    pub bound_ms: i64,
}

/// Reads what stands behind `CREATE SOURCE`.
pub(crate) fn parse(c: &mut Cursor) -> Checked<SourceDef> {
    let mut def = SourceDef {
        name: c.name("the source's name")?,
        columns: Vec::new(),
        computed: Vec::new(),
        primary_key: None,
        watermark: None,
        settings: Vec::new(),
        with: c.here(),
        switch: None,
    };
    if c.take(&Token::LParen) {
        while !c.take(&Token::RParen) {
            item(c.up_to_comma(), c, &mut def)?;
            if !c.take(&Token::Comma) {
                c.expect(&Token::RParen)?;
                break;
            }
        }
    }
    def.with = c.here();
    if c.take_word("WITH") {
        c.expect(&Token::LParen)?;
        loop {
            def.settings.push(value::setting(c)?);
            if !c.take(&Token::Comma) {
                break;
            }
        }
        c.expect(&Token::RParen)?;
    }
    if c.take_word("SWITCH") {
        c.expect_word("TO")?;
        def.switch = Some(SwitchDef { to: c.name("the stream's name")?, at: switch_at(c)? });
    }
    if !c.is_done() {
        return Err(c.expected("WITH (...), SWITCH TO or the end of the statement", &["WITH", "SWITCH"]));
    }
    Ok(def)
}

/// `AT TIMESTAMP '2026-11-21T00:00:00Z'`, in epoch milliseconds too, `AT OFFSET 81220`, or nothing.
fn switch_at(c: &mut Cursor) -> Checked<SwitchAt> {
    if !c.take_word("AT") {
        return Ok(SwitchAt::End);
    }
    if c.take_word("OFFSET") {
        return Ok(SwitchAt::Offset(value::whole(c, "an offset")?.0));
    }
    if !c.take_word("TIMESTAMP") {
        return Err(c.expected("TIMESTAMP or OFFSET", &["TIMESTAMP", "OFFSET"]));
    }
    let (text, span) = value::value(c)?;
    let ms = match text.parse::<i64>() {
        Ok(ms) => Some(ms),
        Err(_) => string_to_timestamp_nanos(&text).ok().map(|nanos| nanos.div_euclid(1_000_000)),
    };
    ms.map(SwitchAt::Time).ok_or_else(|| {
        let fault = Fault::new(span, format!("'{text}' is no time"));
        fault.hint("write AT TIMESTAMP '2026-11-21T00:00:00Z', or epoch milliseconds")
    })
}

fn item(tokens: &[TokenWithSpan], outer: &Cursor, def: &mut SourceDef) -> Checked<()> {
    if tokens.is_empty() {
        return Err(outer.expected("a column", &[]));
    }
    let mut c = Cursor::new(tokens);
    let item = &mut c;
    if item.take_words(&["WATERMARK", "FOR"]) {
        let watermark = watermark(item)?;
        if def.watermark.replace(watermark).is_some() {
            return Err(Fault::new(tokens[0].span, "a source has one WATERMARK"));
        }
    } else if item.take_words(&["PRIMARY", "KEY"]) {
        item.expect(&Token::LParen)?;
        let name = item.name("a column")?;
        if item.take(&Token::Comma) {
            return Err(Fault::unsupported(name.span, "a PRIMARY KEY of several columns", "name one column"));
        }
        item.expect(&Token::RParen)?;
        primary_key(def, name)?;
    } else {
        let name = item.name("a column's name")?;
        if item.take_word("AS") {
            let rest = item.up_to_comma();
            def.computed.push(ComputedDef { name, expr: stock::parse_expr(rest)?, span: span_of(rest) });
        } else {
            column(item, name, def)?;
        }
    }
    if c.is_done() { Ok(()) } else { Err(c.expected("',' or ')'", &["PRIMARY", "NOT"])) }
}

fn column(c: &mut Cursor, name: Name, def: &mut SourceDef) -> Checked<()> {
    let ty = value::column_type(c)?;
    let mut not_null = false;
    loop {
        if c.take_words(&["PRIMARY", "KEY"]) {
            primary_key(def, name.clone())?;
        } else if c.take_words(&["NOT", "NULL"]) {
            not_null = true;
        } else if !c.take_word("NULL") {
            break;
        }
    }
    def.columns.push(ColumnDef { name, ty, not_null });
    Ok(())
}

fn primary_key(def: &mut SourceDef, name: Name) -> Checked<()> {
    let span = name.span;
    match def.primary_key.replace(name) {
        Some(_) => Err(Fault::new(span, "a source has one PRIMARY KEY column")),
        None => Ok(()),
    }
}

/// `rt AS rt - INTERVAL '10' SECOND`, `rt AS rt` or `rt`.
fn watermark(c: &mut Cursor) -> Checked<WatermarkDef> {
    let column = c.name("the event time column")?;
    let mut bound_ms = 0;
    if c.take_word("AS") {
        let again = c.name("the event time column")?;
        if !again.text.eq_ignore_ascii_case(&column.text) {
            let hint = format!("write WATERMARK FOR {0} AS {0} - INTERVAL '10' SECOND", column.text);
            return Err(Fault::new(again.span, "a watermark is the event time less a bound").hint(hint));
        }
        if c.take(&Token::Minus) {
            bound_ms = value::interval(c)?.0;
        }
    }
    Ok(WatermarkDef { column, bound_ms })
}
