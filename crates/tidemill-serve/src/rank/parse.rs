//! The grammar of a ranking expression.
//!
//! In: its text, at most 4 KiB, nested at most 64 deep. Out: a [`Tree`] in which what is computed first stands first, so
//! that nobody who walks it needs to recurse; or where it stops making sense. From loose to tight: `?:`, `||`, `&&`, `==
//! !=`, `< <= > >=`, `+ -`, `* /`, the prefixes `- + !`, and `^`, which is the only one that groups from the right.

use tidemill_base::Result;

use super::token::{Source, Token, short};

/// Bytes in an expression.
pub(super) const TEXT_MAX: usize = 4096;
/// Brackets, calls, prefixes, powers and alternatives inside one another.
pub(super) const NESTING_MAX: usize = 64;

/// A part of a tree, by its place in it.
pub(super) type Id = usize;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Number(f64),
    /// Milliseconds.
    Duration(f64),
    Text(String),
    /// A column, a number of the request, or an output of the model.
    Name(String),
    Prefix(Prefix, Id),
    Infix(Infix, Id, Id),
    Choose(Id, Id, Id),
    /// The name is in lower case.
    Call(String, Vec<Id>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Prefix {
    Minus,
    Plus,
    Not,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Infix {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Times,
    Over,
    Power,
}

/// A parsed expression: parts before what is made of them, the whole last; with the byte each begins or is joined at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree {
    pub parts: Vec<(Expr, usize)>,
}

/// Reads an expression; `what` is its name in errors.
pub(super) fn parse(what: &str, text: &str) -> Result<Tree> {
    let source = Source { what, text };
    if text.len() > TEXT_MAX {
        return Err(source.fault(0, format!("{} bytes; an expression has at most {TEXT_MAX}", text.len())));
    }
    let mut parser = Parser { source, tokens: source.tokens()?, next: 0, depth: 0, parts: Vec::new() };
    if parser.peek() == Token::End {
        return Err(source.fault(0, "the expression is empty"));
    }
    parser.expression()?;
    match parser.peek() {
        Token::End => Ok(Tree { parts: parser.parts }),
        Token::Name(word) => {
            let advice = match word.to_ascii_lowercase().as_str() {
                "and" => "; write '&&'",
                "or" => "; write '||'",
                _ => "",
            };
            Err(parser.fault(format!("expected an operator, found '{}'{advice}", short(word))))
        }
        token => Err(parser.fault(format!("expected an operator, found {}", token.shown()))),
    }
}

struct Parser<'a> {
    source: Source<'a>,
    tokens: Vec<(Token<'a>, usize)>,
    next: usize,
    depth: usize,
    parts: Vec<(Expr, usize)>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.next].0
    }

    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        // The end is never gone beyond.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn takes(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(s) if s == symbol);
        if found {
            self.take();
        }
        found
    }

    fn expect(&mut self, symbol: &str, why: &str) -> Result<()> {
        match self.takes(symbol) {
            true => Ok(()),
            false => Err(self.fault(format!("expected '{symbol}' {why}, found {}", self.peek().shown()))),
        }
    }

    fn fault(&self, message: impl std::fmt::Display) -> tidemill_base::Error {
        self.source.fault(self.at(), message)
    }

    fn put(&mut self, expr: Expr, at: usize) -> Id {
        self.parts.push((expr, at));
        self.parts.len() - 1
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Id>) -> Result<Id> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(self.fault(format!("nested deeper than {NESTING_MAX}")));
        }
        let id = read(self)?;
        self.depth -= 1;
        Ok(id)
    }

    fn expression(&mut self) -> Result<Id> {
        let condition = self.infix(0)?;
        let at = self.at();
        if !self.takes("?") {
            return Ok(condition);
        }
        let first = self.nested(Self::expression)?;
        self.expect(":", "and what holds otherwise")?;
        let second = self.nested(Self::expression)?;
        Ok(self.put(Expr::Choose(condition, first, second), at))
    }

    /// Operators that bind at least so tight.
    fn infix(&mut self, least: u8) -> Result<Id> {
        let mut left = self.prefix()?;
        while let Some((op, level)) = infix_of(self.peek()).filter(|(_, level)| *level >= least) {
            let at = self.at();
            self.take();
            let right = self.infix(level + 1)?;
            left = self.put(Expr::Infix(op, left, right), at);
            // a < b < c would compare a truth with c: nobody means that.
            if (2..=3).contains(&level) && infix_of(self.peek()).is_some_and(|(_, next)| next == level) {
                return Err(self.fault("comparisons do not chain; write a < b && b < c"));
            }
        }
        Ok(left)
    }

    fn prefix(&mut self) -> Result<Id> {
        let op = match self.peek() {
            Token::Symbol("-") => Prefix::Minus,
            Token::Symbol("+") => Prefix::Plus,
            Token::Symbol("!") => Prefix::Not,
            _ => return self.power(),
        };
        let at = self.at();
        self.take();
        let of = self.nested(Self::prefix)?;
        Ok(self.put(Expr::Prefix(op, of), at))
    }

    fn power(&mut self) -> Result<Id> {
        let base = self.operand()?;
        let at = self.at();
        if !self.takes("^") {
            return Ok(base);
        }
        let exponent = self.nested(Self::prefix)?;
        Ok(self.put(Expr::Infix(Infix::Power, base, exponent), at))
    }

    fn operand(&mut self) -> Result<Id> {
        let at = self.at();
        match self.peek() {
            Token::Symbol("(") => {
                self.take();
                let id = self.nested(Self::expression)?;
                self.expect(")", "to close the bracket")?;
                Ok(id)
            }
            Token::Symbol("*") if self.next > 0 && self.tokens[self.next - 1].0 == Token::Symbol("*") => {
                Err(self.fault("'**' is not known; write '^' for powers"))
            }
            Token::Symbol(_) | Token::End => {
                Err(self.fault(format!("expected a number, a name or a bracket, found {}", self.peek().shown())))
            }
            Token::Number(x) => self.leaf(Expr::Number(x)),
            Token::Duration(ms) => self.leaf(Expr::Duration(ms)),
            Token::Text(text) => self.leaf(Expr::Text(text.to_string())),
            Token::Name(name) => {
                self.take();
                match self.takes("(") {
                    true => self.call(name, at),
                    false => Ok(self.put(named(name), at)),
                }
            }
        }
    }

    fn leaf(&mut self, expr: Expr) -> Result<Id> {
        let at = self.at();
        self.take();
        Ok(self.put(expr, at))
    }

    fn call(&mut self, name: &str, at: usize) -> Result<Id> {
        let mut arguments = Vec::new();
        if !self.takes(")") {
            loop {
                arguments.push(self.nested(Self::expression)?);
                if !self.takes(",") {
                    break;
                }
            }
            self.expect(")", "or ','")?;
        }
        Ok(self.put(Expr::Call(name.to_ascii_lowercase(), arguments), at))
    }
}

fn named(name: &str) -> Expr {
    match name {
        "true" => Expr::Number(1.0),
        "false" => Expr::Number(0.0),
        _ => Expr::Name(name.to_string()),
    }
}

fn infix_of(token: Token<'_>) -> Option<(Infix, u8)> {
    let Token::Symbol(symbol) = token else { return None };
    Some(match symbol {
        "||" => (Infix::Or, 0),
        "&&" => (Infix::And, 1),
        "==" => (Infix::Equal, 2),
        "!=" => (Infix::NotEqual, 2),
        "<" => (Infix::Less, 3),
        "<=" => (Infix::LessEqual, 3),
        ">" => (Infix::Greater, 3),
        ">=" => (Infix::GreaterEqual, 3),
        "+" => (Infix::Plus, 4),
        "-" => (Infix::Minus, 4),
        "*" => (Infix::Times, 5),
        "/" => (Infix::Over, 5),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The tree with a bracket around everything that is made of parts.
    fn shown(text: &str) -> String {
        let tree = parse("score", text).unwrap();
        let mut texts: Vec<String> = Vec::new();
        for (expr, _) in &tree.parts {
            let t = |id: &Id| texts[*id].clone();
            texts.push(match expr {
                Expr::Number(x) => x.to_string(),
                Expr::Duration(ms) => format!("{ms}ms"),
                Expr::Text(text) => format!("'{text}'"),
                Expr::Name(name) => name.clone(),
                Expr::Prefix(op, a) => format!("({op:?} {})", t(a)),
                Expr::Infix(op, a, b) => format!("({} {op:?} {})", t(a), t(b)),
                Expr::Choose(a, b, c) => format!("({} ? {} : {})", t(a), t(b), t(c)),
                Expr::Call(name, all) => format!("{name}({})", all.iter().map(t).collect::<Vec<_>>().join(", ")),
            });
        }
        texts.pop().unwrap()
    }

    #[test]
    fn operators_bind_as_people_expect() {
        for (text, tree) in [
            ("-2^2", "(Minus (2 Power 2))"),
            ("2^-1", "(2 Power (Minus 1))"),
            ("2^3^2", "(2 Power (3 Power 2))"),
            ("-a*b", "((Minus a) Times b)"),
            ("a-b-c", "((a Minus b) Minus c)"),
            ("a+b*c^d", "(a Plus (b Times (c Power d)))"),
            ("a/b*c", "((a Over b) Times c)"),
            ("!a && b || c", "(((Not a) And b) Or c)"),
            ("a < b == c >= d", "((a Less b) Equal (c GreaterEqual d))"),
            ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
            ("a ? b ? 1 : 2 : 3", "(a ? (b ? 1 : 2) : 3)"),
            ("a || b ? c + 1 : d", "((a Or b) ? (c Plus 1) : d)"),
            ("LN(Max(a.b, external.c, 1d))", "ln(max(a.b, external.c, 86400000ms))"),
            ("rand() + true", "(rand() Plus 1)"),
        ] {
            assert_eq!(shown(text), tree, "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_said_with_its_place() {
        for (text, message) in [
            ("", "score, character 1: the expression is empty"),
            ("a +", "score, character 4: expected a number, a name or a bracket, found the end"),
            ("(a", "score, character 3: expected ')' to close the bracket, found the end"),
            ("a b", "score, character 3: expected an operator, found 'b'"),
            ("a and b", "score, character 3: expected an operator, found 'and'; write '&&'"),
            ("a)", "score, character 2: expected an operator, found ')'"),
            ("ln(a b)", "score, character 6: expected ')' or ',', found 'b'"),
            ("ln(a,)", "score, character 6: expected a number, a name or a bracket, found ')'"),
            ("a ? b", "score, character 6: expected ':' and what holds otherwise, found the end"),
            ("a ** b", "score, character 4: '**' is not known; write '^' for powers"),
            ("1 < a < 3", "score, character 7: comparisons do not chain; write a < b && b < c"),
            ("a == b != c", "score, character 8: comparisons do not chain; write a < b && b < c"),
        ] {
            assert_eq!(parse("score", text).unwrap_err().message(), message, "{text}");
        }
    }

    /// What a stranger sends may neither fill the stack nor take long.
    #[test]
    fn length_and_nesting_are_bounded() {
        let brackets = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
        for (open, close) in [("(", ")"), ("ln(", ")"), ("-", ""), ("!", ""), ("2^", ""), ("a?b:", "")] {
            let nested = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
            assert!(parse("score", &nested(NESTING_MAX)).is_ok(), "{open}");
            let message = parse("score", &nested(NESTING_MAX + 1)).unwrap_err().message().to_string();
            assert!(message.ends_with("nested deeper than 64"), "{open}: {message}");
            assert!(parse("score", &nested(800)).is_err());
        }
        assert!(parse("score", &brackets(64)).is_ok());
        let sum = |bytes: usize| format!("{}1", "1+".repeat((bytes - 1) / 2));
        assert_eq!(parse("score", &sum(TEXT_MAX - 1)).unwrap().parts.len(), TEXT_MAX - 1);
        let message = parse("score", &sum(TEXT_MAX + 1)).unwrap_err().message().to_string();
        assert_eq!(message, "score, character 1: 4097 bytes; an expression has at most 4096");
    }

    proptest! {
        /// Whatever bytes come: a tree or an error with a place, and no panic.
        #[test]
        fn any_text_is_answered(text in prop_oneof![
            ".{0,80}",
            proptest::collection::vec(proptest::sample::select(vec![
                "(", ")", "+", "-", "*", "/", "^", "!", "?", ":", "&&", "||", "<", "<=", "==", "!=", ",", "ln", "max",
                "a", "a.b", "1", "1d", ".5", "'x'", " ", "é", ".", "'", "1e", "rand()",
            ]), 0..40).prop_map(|words| words.concat()),
        ]) {
            match parse("score", &text) {
                Ok(tree) => {
                    for (i, (expr, _)) in tree.parts.iter().enumerate() {
                        let below = match expr {
                            Expr::Prefix(_, a) => *a < i,
                            Expr::Infix(_, a, b) => a.max(b) < &i,
                            Expr::Choose(a, b, c) => a.max(b).max(c) < &i,
                            Expr::Call(_, all) => all.iter().all(|a| *a < i),
                            _ => true,
                        };
                        prop_assert!(below);
                    }
                }
                Err(e) => prop_assert!(e.message().starts_with("score, character ")),
            }
        }
    }
}
