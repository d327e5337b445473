//! A reader over the tokens of one statement, for the clauses that are ours and not the SQL parser's.
//!
//! Words are compared without regard to letter case; a quoted word is a name, never a keyword. What is missing is
//! reported at the place where it was expected, with the nearest keyword when a wrong one stands there.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Word};

use crate::{
    diagnostic::{Checked, Fault},
    suggest::nearest,
};

/// A name as it was written, and where.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub text: String,
    pub span: Span,
}

pub(crate) struct Cursor<'a> {
    tokens: &'a [TokenWithSpan],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(tokens: &'a [TokenWithSpan]) -> Self {
        Self { tokens, at: 0 }
    }

    pub fn peek(&self) -> Option<&'a TokenWithSpan> {
        self.tokens.get(self.at)
    }

    pub fn peek_at(&self, ahead: usize) -> Option<&'a TokenWithSpan> {
        self.tokens.get(self.at + ahead)
    }

    pub fn next(&mut self) -> Option<&'a TokenWithSpan> {
        let token = self.tokens.get(self.at);
        self.at += token.is_some() as usize;
        token
    }

    pub fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Tokens not read yet.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.at
    }

    /// Where the next token stands; behind the last one at the end.
    pub fn here(&self) -> Span {
        match self.peek() {
            Some(t) => t.span,
            None => self.tokens.last().map_or(Span::empty(), |t| Span::new(t.span.end, t.span.end)),
        }
    }

    pub fn is_word(&self, word: &str) -> bool {
        self.peek().is_some_and(|t| is_word(&t.token, word))
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += found as usize;
        found
    }

    /// Takes these words when all of them come next.
    pub fn take_words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(i, w)| self.peek_at(i).is_some_and(|t| is_word(&t.token, w)));
        if found {
            self.at += words.len();
        }
        found
    }

    pub fn expect_word(&mut self, word: &str) -> Checked<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.expected(word, &[word])) }
    }

    pub fn take(&mut self, token: &Token) -> bool {
        let found = self.peek().is_some_and(|t| t.token == *token);
        self.at += found as usize;
        found
    }

    pub fn expect(&mut self, token: &Token) -> Checked<()> {
        if self.take(token) { Ok(()) } else { Err(self.expected(&format!("'{token}'"), &[])) }
    }

    /// A name, quoted or not.
    pub fn name(&mut self, what: &str) -> Checked<Name> {
        match self.peek() {
            Some(TokenWithSpan { token: Token::Word(w), span }) => {
                self.at += 1;
                Ok(Name { text: w.value.clone(), span: *span })
            }
            _ => Err(self.expected(what, &[])),
        }
    }

    /// A name that may have parts: `model.l1`.
    pub fn dotted_name(&mut self, what: &str) -> Checked<Name> {
        let mut name = self.name(what)?;
        while self.take(&Token::Period) {
            let part = self.name(what)?;
            name.text = format!("{}.{}", name.text, part.text);
            name.span.end = part.span.end;
        }
        Ok(name)
    }

    /// `expected WHAT, found 'this'`, and the keyword that may have been meant.
    pub fn expected(&self, what: &str, keywords: &[&str]) -> Fault {
        expected(what, self.peek().map(|t| &t.token), self.here(), keywords)
    }

    /// All tokens up to the next comma or closing bracket of this level, which stays.
    pub fn up_to_comma(&mut self) -> &'a [TokenWithSpan] {
        let begin = self.at;
        let mut depth = 0usize;
        while let Some(t) = self.peek() {
            match t.token {
                Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                Token::RParen | Token::RBracket | Token::RBrace if depth == 0 => break,
                Token::RParen | Token::RBracket | Token::RBrace => depth -= 1,
                Token::Comma if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        &self.tokens[begin..self.at]
    }
}

pub(crate) fn expected(what: &str, found: Option<&Token>, here: Span, keywords: &[&str]) -> Fault {
    let found_text = match found {
        Some(token @ (Token::SingleQuotedString(_) | Token::Word(Word { quote_style: Some(_), .. }))) => {
            token.to_string()
        }
        Some(token) => format!("'{token}'"),
        None => "the end of the statement".to_string(),
    };
    let fault = Fault::new(here, format!("expected {what}, found {found_text}"));
    match found {
        Some(Token::Word(w)) => match nearest(&w.value, keywords.iter().copied()) {
            Some(word) if !word.eq_ignore_ascii_case(&w.value) => fault.hint(format!("did you mean {word}?")),
            _ => fault,
        },
        _ => fault,
    }
}

pub(crate) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// From the beginning of the first token to the end of the last.
pub(crate) fn span_of(tokens: &[TokenWithSpan]) -> Span {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => Span::new(first.span.start, last.span.end),
        _ => Span::empty(),
    }
}
