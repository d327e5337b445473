//! From a config to a program: what every name means, and what may be done with it.
//!
//! In: a [`Config`] and what is [`Known`] of columns and model. Out: a [`Program`], or the first thing that makes no
//! sense, with its character and the nearest known word. Moments and lengths of time are numbers of milliseconds; that
//! they are such matters to decays, whose origin is now for a moment and 0 for all else.

use tidemill_base::{Error, Result};

use super::{
    Program, column_type,
    config::{BASES, BUILT_IN, Base, Config, Decay, Fallback},
    emit::{Emitter, Value},
    kernel::{Curve, Op},
    nearest,
    parse::{Expr, Id, Infix, Prefix},
    program::Code,
    token::{Source, short},
};

/// What is known before any item is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Columns of the model's source.
    pub columns: Vec<(String, ColumnType)>,
    /// The model's name.
    pub model: String,
    /// What the model says of an item.
    pub output: Output,
    /// Whether items may bring columns of their own: then a name that nobody knows is a column, and that it is there is
    /// checked when the items are.
    pub open: bool,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// Numbers with something behind the point, or truths.
    Number,
    /// Whole numbers, or numbers of which nothing is known: a decay by time reads them as milliseconds since 1970.
    Whole,
    /// Moments: milliseconds since 1970, or texts like 2026-11-21T10:30:00Z.
    Time,
    /// Texts, which can be compared with texts.
    Text,
    /// What a score cannot read: lists and the like.
    Other,
}

/// What a model says of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// How probable a positive label is: `pctr`.
    Probability,
    /// The expected number.
    Value,
    /// How probable each of so many classes is: `MODEL.class_0` and so on.
    Classes(usize),
}

/// A column that a program reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Numbers of the items, NaN where there is none.
    Number {
        /// Its name, parts of which lead into objects.
        path: String,
        /// The place in the score that names it, if it is neither a column of the source nor has a default.
        undeclared: Option<String>,
    },
    /// 1 where the text of the items is this one, 0 where it is another, NaN where there is none.
    TextIs {
        /// Its name, parts of which lead into objects.
        path: String,
        /// The text.
        text: String,
        /// As for numbers.
        undeclared: Option<String>,
    },
    /// What the model says: the number of a prediction.
    Prediction,
    /// How probable the model finds this class.
    Class(usize),
}

/// A number of the request that a program reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// Milliseconds since 1970, fixed once for the request.
    Now,
    /// A number under `external`.
    External {
        /// Its path, without `external.`.
        path: String,
        /// What it is if the request has none.
        default: Option<f64>,
    },
}

/// Compiles a config.
pub(super) fn compile(config: &Config, known: &Known) -> Result<Program> {
    let mut compiler = Compiler {
        config,
        known,
        source: Source { what: "score", text: &config.text },
        emitter: Emitter::default(),
        columns: Vec::new(),
        given: Vec::new(),
    };
    let mut parts: Vec<Part> = Vec::with_capacity(config.tree.parts.len());
    for (expr, at) in &config.tree.parts {
        let part = compiler.part(expr, *at, &parts)?;
        parts.push(part);
    }
    let (result, _) = compiler.number(&parts[parts.len() - 1])?;
    let Compiler { emitter, columns, given, .. } = compiler;
    let code: Code = emitter.finish(result, given.len());
    Ok(Program { code, columns, given })
}

/// A part of an expression.
#[derive(Clone, Debug)]
enum Part {
    Value(Value, Type),
    Text(String, usize),
    /// A column of the items: whether it is read as numbers or as texts is seen where it is used.
    Column(String, usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Type {
    Number,
    /// Milliseconds since 1970.
    Time,
    /// Milliseconds.
    Duration,
}

struct Compiler<'a> {
    config: &'a Config,
    known: &'a Known,
    source: Source<'a>,
    emitter: Emitter,
    columns: Vec<Column>,
    given: Vec<Given>,
}

impl Compiler<'_> {
    fn part(&mut self, expr: &Expr, at: usize, parts: &[Part]) -> Result<Part> {
        match expr {
            Expr::Number(x) => Ok(Part::Value(self.emitter.constant(*x), Type::Number)),
            Expr::Duration(ms) => Ok(Part::Value(self.emitter.constant(*ms), Type::Duration)),
            Expr::Text(text) => Ok(Part::Text(text.clone(), at)),
            Expr::Name(name) => self.name(name, at),
            Expr::Prefix(op, of) => {
                let (value, ty) = self.number(&parts[*of])?;
                Ok(match op {
                    Prefix::Plus => Part::Value(value, ty),
                    Prefix::Minus => Part::Value(self.emitter.op(Op::Neg, &[value]), ty),
                    Prefix::Not => Part::Value(self.emitter.op(Op::Not, &[value]), Type::Number),
                })
            }
            Expr::Infix(op, a, b) => self.infix(*op, &parts[*a], &parts[*b], at),
            Expr::Choose(condition, a, b) => {
                let (condition, _) = self.number(&parts[*condition])?;
                let ((a, first), (b, second)) = (self.number(&parts[*a])?, self.number(&parts[*b])?);
                Ok(Part::Value(self.emitter.op(Op::Choose, &[condition, a, b]), common(first, second)))
            }
            Expr::Call(name, arguments) => self.call(name, arguments, parts, at),
        }
    }

    fn name(&mut self, name: &str, at: usize) -> Result<Part> {
        if name == "now" {
            return Ok(Part::Value(self.now(), Type::Time));
        }
        if let Some(path) = name.strip_prefix("external.") {
            return self.external(name, path, at);
        }
        if let Some(output) = self.output(name, at)? {
            let value = self.column(output);
            return Ok(Part::Value(value, Type::Number));
        }
        if self.column_type(name) == Some(ColumnType::Other) {
            let what =
                format!("column '{}' is none that a score can read: numbers, moments and texts are", short(name));
            return Err(self.source.fault(at, what));
        }
        let known = self.config.defaults.contains_key(name) || self.column_type(name).is_some();
        if known || self.known.open && !self.is_function(name) && name != "external" {
            return Ok(Part::Column(name.to_string(), at));
        }
        if self.is_function(name) {
            return Err(self.source.fault(at, format!("'{name}' is a function; write {name}(...)")));
        }
        let outputs = ["pctr", "prediction", "now"].into_iter();
        let readable = self.known.columns.iter().filter(|(_, ty)| *ty != ColumnType::Other);
        let names = readable.map(|(n, _)| n.as_str());
        let defaults = self.config.defaults.keys().map(String::as_str);
        let near = nearest(name, names.chain(defaults).chain(outputs));
        let advice = near.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
        let what = format!("no column '{}', and no default for one{advice}", short(name));
        Err(self.source.fault(at, what))
    }

    fn external(&mut self, name: &str, path: &str, at: usize) -> Result<Part> {
        let default = match self.config.defaults.get(name) {
            Some(Fallback::Number(x)) => Some(*x),
            Some(Fallback::Text(_)) => {
                return Err(self.source.fault(at, format!("the default of {} is a text", short(name))));
            }
            None => None,
        };
        let value = self.give(Given::External { path: path.to_string(), default });
        Ok(Part::Value(value, if names_a_time(path) { Type::Time } else { Type::Number }))
    }

    /// The model's output of this name, if it is one.
    fn output(&self, name: &str, at: usize) -> Result<Option<Column>> {
        let output = self.known.output;
        if name == "prediction" || name == "pctr" && output == Output::Probability {
            return Ok(Some(Column::Prediction));
        }
        let Some(part) = name.strip_prefix(self.known.model.as_str()).and_then(|rest| rest.strip_prefix('.')) else {
            return Ok(None);
        };
        let class = part.strip_prefix("class_").and_then(|k| k.parse::<usize>().ok());
        match (part, output, class) {
            ("output", ..) | ("probability", Output::Probability, _) | ("value", Output::Value, _) => {
                Ok(Some(Column::Prediction))
            }
            (_, Output::Classes(classes), Some(class)) if class < classes => Ok(Some(Column::Class(class))),
            // The name of a model may be that of an object as well.
            _ if self.known.open || self.config.defaults.contains_key(name) => Ok(None),
            _ => {
                let outputs = match output {
                    Output::Probability => "output and probability".to_string(),
                    Output::Value => "output and value".to_string(),
                    Output::Classes(classes) => format!("output and class_0 to class_{}", classes - 1),
                };
                let message = format!("model '{}' has no '{}'; it has {outputs}", self.known.model, short(part));
                Err(self.source.fault(at, message))
            }
        }
    }

    fn infix(&mut self, op: Infix, a: &Part, b: &Part, at: usize) -> Result<Part> {
        if let (Infix::Equal | Infix::NotEqual, Some(equal)) = (op, self.texts(a, b, at)?) {
            let value = if op == Infix::Equal { equal } else { self.emitter.op(Op::Not, &[equal]) };
            return Ok(Part::Value(value, Type::Number));
        }
        let ((x, first), (y, second)) = (self.number(a)?, self.number(b)?);
        let (op, args) = match op {
            Infix::Or => (Op::Or, [x, y]),
            Infix::And => (Op::And, [x, y]),
            Infix::Equal => (Op::Equal, [x, y]),
            Infix::NotEqual => (Op::NotEqual, [x, y]),
            Infix::Less => (Op::Less, [x, y]),
            Infix::LessEqual => (Op::LessEqual, [x, y]),
            Infix::Greater => (Op::Less, [y, x]),
            Infix::GreaterEqual => (Op::LessEqual, [y, x]),
            Infix::Plus => (Op::Add, [x, y]),
            Infix::Minus => (Op::Sub, [x, y]),
            Infix::Times => (Op::Mul, [x, y]),
            Infix::Over => (Op::Div, [x, y]),
            Infix::Power => (Op::Pow, [x, y]),
        };
        let ty = match (op, first, second) {
            (Op::Sub, Type::Time, Type::Time) => Type::Duration,
            (Op::Add, Type::Time, _) | (Op::Add, _, Type::Time) | (Op::Sub, Type::Time, _) => Type::Time,
            (Op::Add | Op::Sub, Type::Duration, _) | (Op::Add | Op::Sub, _, Type::Duration) => Type::Duration,
            (Op::Mul, Type::Duration, Type::Number) | (Op::Mul, Type::Number, Type::Duration) => Type::Duration,
            (Op::Div, Type::Duration, Type::Number) => Type::Duration,
            _ => Type::Number,
        };
        Ok(Part::Value(self.emitter.op(op, &args), ty))
    }

    /// Whether a text equals a text, if that is what is asked.
    fn texts(&mut self, a: &Part, b: &Part, at: usize) -> Result<Option<Value>> {
        let (path, place, text) = match (a, b) {
            (Part::Text(a, _), Part::Text(b, _)) => {
                return Ok(Some(self.emitter.constant(f64::from(u8::from(a == b)))));
            }
            (Part::Column(path, place), Part::Text(text, _)) | (Part::Text(text, _), Part::Column(path, place)) => {
                (path, *place, text)
            }
            (Part::Column(a, _), Part::Column(b, _)) if self.is_text(a) || self.is_text(b) => {
                return Err(self.source.fault(at, "a text is compared with a text in quotes, as in user == 'x'"));
            }
            _ => return Ok(None),
        };
        if let Some(ColumnType::Number | ColumnType::Whole) = self.column_type(path) {
            return Err(self.source.fault(place, format!("'{}' is a number, compared with a text", short(path))));
        }
        let default = match self.config.defaults.get(path) {
            Some(Fallback::Text(default)) => f64::from(u8::from(default == text)),
            _ => 0.0,
        };
        let undeclared = self.undeclared(path, place);
        let column = self.column(Column::TextIs { path: path.clone(), text: text.clone(), undeclared });
        let default = self.emitter.constant(default);
        Ok(Some(self.emitter.op(Op::Fallback, &[column, default])))
    }

    fn call(&mut self, name: &str, arguments: &[Id], parts: &[Part], at: usize) -> Result<Part> {
        let count = arguments.len();
        let arity = |allowed: &[usize]| match allowed.contains(&count) {
            true => Ok(()),
            false => {
                let allowed: Vec<String> = allowed.iter().map(usize::to_string).collect();
                let things = if allowed == ["1"] { "argument" } else { "arguments" };
                Err(self.source.fault(at, format!("{name} takes {} {things}, not {count}", allowed.join(" or "))))
            }
        };
        if let Some(decay) = self.decay_named(name) {
            arity(&[1])?;
            return self.decay(name, &decay, &parts[arguments[0]], at);
        }
        let unary = match name {
            "ln" => Some(Op::Ln),
            "log" => Some(Op::Log10),
            "sin" => Some(Op::Sin),
            "cos" => Some(Op::Cos),
            "tan" => Some(Op::Tan),
            "abs" => Some(Op::Abs),
            "trunc" => Some(Op::Trunc),
            "round" => Some(Op::Round),
            _ => None,
        };
        if let Some(op) = unary {
            arity(&[1])?;
            let (value, ty) = self.number(&parts[arguments[0]])?;
            let keeps = matches!(op, Op::Abs | Op::Trunc | Op::Round);
            return Ok(Part::Value(self.emitter.op(op, &[value]), if keeps { ty } else { Type::Number }));
        }
        match name {
            "min" | "max" => {
                if count < 2 {
                    return Err(self.source.fault(at, format!("{name} takes 2 arguments or more, not {count}")));
                }
                let op = if name == "min" { Op::Min } else { Op::Max };
                let (mut value, mut ty) = self.number(&parts[arguments[0]])?;
                for argument in &arguments[1..] {
                    let (next, next_type) = self.number(&parts[*argument])?;
                    (value, ty) = (self.emitter.op(op, &[value, next]), common(ty, next_type));
                }
                Ok(Part::Value(value, ty))
            }
            "now" => arity(&[0]).map(|()| Part::Value(self.now(), Type::Time)),
            "rand" => {
                arity(&[0, 2])?;
                self.rand(arguments, parts, at)
            }
            "rand_normal" => {
                arity(&[0, 4])?;
                self.rand_normal(arguments, parts, at)
            }
            "to_unix_timestamp" => {
                arity(&[1])?;
                let (value, _) = self.number(&parts[arguments[0]])?;
                let second = self.emitter.constant(1000.0);
                Ok(Part::Value(self.emitter.op(Op::Div, &[value, second]), Type::Number))
            }
            "dist" => {
                arity(&[4, 5])?;
                self.distance(arguments, parts, at)
            }
            _ => {
                let own = self.config.functions.iter().map(|(name, _)| name.as_str());
                let near = nearest(name, BUILT_IN.into_iter().chain(own));
                let advice = near.map_or(String::new(), |near| format!("; did you mean '{near}'?"));
                Err(self.source.fault(at, format!("no function '{}'{advice}", short(name))))
            }
        }
    }

    fn rand(&mut self, arguments: &[Id], parts: &[Part], at: usize) -> Result<Part> {
        let call = self.emitter.call();
        let uniform = self.emitter.op(Op::Rand(call), &[]);
        let [low, high] = arguments else { return Ok(Part::Value(uniform, Type::Number)) };
        let ((low, first), (high, second)) = (self.number(&parts[*low])?, self.number(&parts[*high])?);
        if let (Some(a), Some(b)) = (self.emitter.as_constant(low), self.emitter.as_constant(high))
            && a > b
        {
            return Err(self.source.fault(at, format!("rand({a}, {b}): the first end lies above the second")));
        }
        let width = self.emitter.op(Op::Sub, &[high, low]);
        let part = self.emitter.op(Op::Mul, &[width, uniform]);
        Ok(Part::Value(self.emitter.op(Op::Add, &[low, part]), common(first, second)))
    }

    fn rand_normal(&mut self, arguments: &[Id], parts: &[Part], at: usize) -> Result<Part> {
        let call = self.emitter.call();
        if arguments.is_empty() {
            return Ok(Part::Value(self.emitter.op(Op::RandNormal(call), &[]), Type::Number));
        }
        let args = arguments.iter().map(|id| Ok(self.number(&parts[*id])?.0)).collect::<Result<Vec<_>>>()?;
        let constant = |i: usize| self.emitter.as_constant(args[i]);
        if let (Some(a), Some(b)) = (constant(0), constant(1))
            && a > b
        {
            let message = format!("rand_normal({a}, {b}, ...): the first end lies above the second");
            return Err(self.source.fault(at, message));
        }
        if let Some(sigma) = constant(2).filter(|sigma| *sigma <= 0.0) {
            return Err(self.source.fault(at, format!("rand_normal: sigma is {sigma}; it is above 0")));
        }
        Ok(Part::Value(self.emitter.op(Op::RandBetween(call), &args), Type::Number))
    }

    fn distance(&mut self, arguments: &[Id], parts: &[Part], at: usize) -> Result<Part> {
        let args = arguments[..4].iter().map(|id| Ok(self.number(&parts[*id])?.0)).collect::<Result<Vec<_>>>()?;
        let km_in_unit = match arguments.get(4).map(|id| &parts[*id]) {
            None => None,
            Some(Part::Text(unit, place)) => match unit.to_ascii_uppercase().as_str() {
                "K" | "KM" => None,
                "M" => Some(1.609_344),
                "N" => Some(1.852),
                _ => {
                    let message =
                        format!("dist: unit '{}' is none of 'M' (miles), 'N' (nautical) and 'K'", short(unit));
                    return Err(self.source.fault(*place, message));
                }
            },
            Some(_) => return Err(self.source.fault(at, "dist: the unit is a text in quotes, 'M', 'N' or 'K'")),
        };
        let km = self.emitter.op(Op::Distance, &args);
        let value = match km_in_unit {
            None => km,
            Some(unit) => {
                let unit = self.emitter.constant(unit);
                self.emitter.op(Op::Div, &[km, unit])
            }
        };
        Ok(Part::Value(value, Type::Number))
    }

    fn decay_named(&self, name: &str) -> Option<Decay> {
        let own = self.config.functions.iter().find(|(known, _)| known == name).map(|(_, decay)| decay.clone());
        own.or_else(|| BASES.iter().find(|(known, _)| *known == name).map(|(_, base)| Decay::bare(*base)))
    }

    fn decay(&mut self, name: &str, decay: &Decay, of: &Part, at: usize) -> Result<Part> {
        let (value, mut ty) = self.number(of)?;
        if (decay.scale.timed || decay.offset.timed) && ty == Type::Number {
            let may_be_time = match of {
                Part::Column(path, _) => {
                    let known = self.column_type(path);
                    known.is_none_or(|known| known == ColumnType::Whole)
                }
                _ => false,
            };
            if !may_be_time {
                let message = format!(
                    "{name}: its scale or offset is a length of time, but this is a number; \
                                       name a function in \"functions\" whose scale is a number"
                );
                return Err(self.source.fault(at, message));
            }
            ty = Type::Time;
        }
        let origin = match (decay.origin, ty) {
            (Some(origin), _) => self.emitter.constant(origin),
            (None, Type::Time) => self.now(),
            (None, _) => self.emitter.constant(0.0),
        };
        let scale = decay.scale.size;
        let slope = match decay.base {
            Base::Linear => (1.0 - decay.decay) / scale,
            Base::Exp => tidemill_model::math::real::ln(decay.decay) / scale,
            Base::Gauss => tidemill_model::math::real::ln(decay.decay) / scale / scale,
        };
        let curve = Curve { base: decay.base, direction: decay.direction, offset: decay.offset.size, slope };
        let curve = self.emitter.curve(curve);
        Ok(Part::Value(self.emitter.op(Op::Decay(curve), &[value, origin]), Type::Number))
    }

    /// A part as a number.
    fn number(&mut self, part: &Part) -> Result<(Value, Type)> {
        let (path, at) = match part {
            Part::Value(value, ty) => return Ok((*value, *ty)),
            Part::Text(_, at) => {
                return Err(self.source.fault(*at, "a text is no number; it can be compared with == and !="));
            }
            Part::Column(path, at) => (path, *at),
        };
        if self.is_text(path) {
            let message = format!("'{0}' is a text; compare it with one, as in {0} == 'x'", short(path));
            return Err(self.source.fault(at, message));
        }
        let ty = match self.column_type(path) {
            Some(ColumnType::Time) => Type::Time,
            Some(_) => Type::Number,
            None if names_a_time(path) => Type::Time,
            None => Type::Number,
        };
        let undeclared = self.undeclared(path, at);
        let column = self.column(Column::Number { path: path.clone(), undeclared });
        match self.config.defaults.get(path) {
            Some(Fallback::Number(x)) if !x.is_nan() => {
                let default = self.emitter.constant(*x);
                Ok((self.emitter.op(Op::Fallback, &[column, default]), ty))
            }
            _ => Ok((column, ty)),
        }
    }

    fn is_text(&self, path: &str) -> bool {
        match self.config.defaults.get(path) {
            Some(Fallback::Text(_)) => true,
            _ => self.column_type(path) == Some(ColumnType::Text),
        }
    }

    fn is_function(&self, name: &str) -> bool {
        let folded = name.to_ascii_lowercase();
        BUILT_IN.contains(&folded.as_str()) || self.config.functions.iter().any(|(known, _)| *known == folded)
    }

    fn column_type(&self, path: &str) -> Option<ColumnType> {
        column_type(&self.known.columns, path)
    }

    fn undeclared(&self, path: &str, at: usize) -> Option<String> {
        let declared = self.config.defaults.contains_key(path) || self.column_type(path).is_some();
        let fault = || self.source.fault(at, format!("no column '{}'", short(path)));
        (!declared).then(|| fault().message().to_string())
    }

    fn now(&mut self) -> Value {
        self.give(Given::Now)
    }

    fn give(&mut self, given: Given) -> Value {
        let known = self.given.iter().position(|g| *g == given);
        let i = known.unwrap_or_else(|| {
            self.given.push(given);
            self.given.len() - 1
        });
        self.emitter.given(i as u16)
    }

    fn column(&mut self, column: Column) -> Value {
        let same = |known: &Column| match (known, &column) {
            (Column::Number { path: a, .. }, Column::Number { path: b, .. }) => a == b,
            (Column::TextIs { path: a, text: s, .. }, Column::TextIs { path: b, text: t, .. }) => a == b && s == t,
            (known, column) => known == column,
        };
        let i = self.columns.iter().position(same).unwrap_or_else(|| {
            self.columns.push(column);
            self.columns.len() - 1
        });
        self.emitter.column(i as u16)
    }
}

fn common(a: Type, b: Type) -> Type {
    if a == b { a } else { Type::Number }
}

/// Whether a column whose type nobody declared is one of moments, by its name.
pub(super) fn names_a_time(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    matches!(last, "time" | "ts" | "timestamp") || ["_time", "_ts", "_at"].iter().any(|end| last.ends_with(end))
}

/// The error for a number that the request should have brought.
pub(super) fn no_external(path: &str) -> Error {
    Error::invalid(format!(
        "external.{0}: the score reads it, but the request has none; send it, or put \
                            \"external.{0}\" into defaults",
        short(path)
    ))
}
