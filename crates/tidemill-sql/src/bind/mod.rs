//! Statements to a program: every name is found, every type checked, every expression planned.
//!
//! Names may be used before they are defined. A name that is defined again with OR REPLACE means, for each statement, its
//! last definition before that statement.

mod aggregate;
mod alter;
mod feature_view;
mod features;
mod fingerprint;
mod join;
mod pipeline;
mod relation;
mod scope;
mod select;
mod sink;
mod source;
mod together;
mod train;
mod views;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::sql::sqlparser::{ast::Ident, tokenizer::Span};

use feature_view::BoundView;
use relation::{BoundSource, Relation};

use crate::{
    diagnostic::{Checked, Diagnostic, Fault},
    parse::{self, FeatureViewDef, Parsed, SelectDef, SourceDef, cursor::Name, sink::SinkDef, tail::Task},
    planner::Planner,
    program::{Known, Program, Statement},
    script::{self, Piece},
};

/// Binding recurses as deep as expressions and views nest; their bounds fit into this many times over.
const STACK_BYTES: usize = 256 << 20;

/// Reads and binds a program. Nothing is opened or run.
pub fn bind(text: &str, known: &Known) -> Result<Program, Diagnostic> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("bind".into()).stack_size(STACK_BYTES);
        let bound = builder.spawn_scoped(scope, || bind_here(text, known).map_err(|fault| fault.locate(text)));
        let bound = bound.map_err(|e| Fault::new(Span::empty(), format!("no thread to bind on: {e}")).locate(text))?;
        bound.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn bind_here(text: &str, known: &Known) -> Checked<Program> {
    let pieces = script::split(text)?;
    if pieces.is_empty() {
        return Err(
            Fault::new(Span::empty(), "nothing to run").hint("write CREATE SOURCE ...; SELECT ... TO TRAIN ...")
        );
    }
    let parsed = pieces.iter().map(|p| parse::parse(&p.tokens)).collect::<Checked<Vec<_>>>()?;
    let catalog = Catalog::new(&parsed)?;
    catalog.check_all()?;
    let mut statements = Vec::new();
    let mut trained: Vec<String> = Vec::new();
    let mut planned = Vec::new();
    for (at, statement) in parsed.iter().enumerate() {
        match statement {
            Parsed::ShowModels => statements.push(Statement::ShowModels),
            Parsed::Alter(def) => statements.push(Statement::AlterModel(alter::bind(def, known, &trained)?)),
            Parsed::Source { .. } | Parsed::View { .. } | Parsed::FeatureView { .. } | Parsed::Sink(_) => {}
            Parsed::Task { select, task } => {
                let relation = select::bind(select, &catalog, at)?;
                match task {
                    Task::Train(tail) => {
                        if trained.contains(&tail.model.text) {
                            let message = format!("model '{}' is trained twice in this program", tail.model.text);
                            return Err(Fault::new(tail.model.span, message));
                        }
                        let of_model = sinks_of(&parsed, &tail.model.text)?;
                        let defs: Vec<&SinkDef> = of_model.iter().map(|(_, def)| *def).collect();
                        let (mut job, mut plan) = train::train(tail, &relation, &defs, &catalog, known)?;
                        let also = of_model.iter().map(|(statement, _)| *statement).chain([at]);
                        plan.statements = relation.used.iter().copied().chain(also).collect();
                        plan.at = statements.len();
                        job.text = text_of(text, &pieces, &plan.statements);
                        planned.push(plan);
                        trained.push(job.model.clone());
                        statements.push(Statement::Train(Box::new(job)));
                    }
                    Task::Evaluate(tail) => {
                        let job = train::evaluate(tail, &relation, &catalog, known, &trained)?;
                        statements.push(Statement::Evaluate(Box::new(job)));
                    }
                }
            }
        }
    }
    sink::check_all(sinks(&parsed).map(|(_, def)| def), &trained)?;
    together::join(&mut statements, &planned, &catalog, |used| text_of(text, &pieces, used))?;
    Ok(Program { statements, text: text.to_string() })
}

/// The program's sinks, each with its place.
fn sinks(parsed: &[Parsed]) -> impl Iterator<Item = (usize, &SinkDef)> + Clone {
    parsed.iter().enumerate().filter_map(|(i, statement)| match statement {
        Parsed::Sink(def) => Some((i, def)),
        _ => None,
    })
}

/// Those of one model.
fn sinks_of<'a>(parsed: &'a [Parsed], model: &str) -> Checked<Vec<(usize, &'a SinkDef)>> {
    let mut of_model = Vec::new();
    for (i, def) in sinks(parsed) {
        if def.model()?.text == model {
            of_model.push((i, def));
        }
    }
    Ok(of_model)
}

/// These statements, as they were written.
fn text_of(text: &str, pieces: &[Piece], used: &BTreeSet<usize>) -> String {
    used.iter().map(|i| format!("{};\n", &text[pieces[*i].bytes.clone()])).collect()
}

/// Everything that FROM can name.
pub(crate) struct Catalog<'a> {
    pub planner: Planner,
    definitions: Vec<Definition<'a>>,
    sources: RefCell<BTreeMap<usize, Arc<BoundSource>>>,
    relations: RefCell<BTreeMap<(usize, usize), Relation>>,
    feature_views: RefCell<BTreeMap<(usize, usize), Arc<BoundView>>>,
    /// Whether some name has two definitions, so that a view may mean different things at different places.
    redefined: bool,
    /// Views being bound at the moment, outermost first.
    path: RefCell<Vec<usize>>,
}

struct Definition<'a> {
    name: &'a Name,
    statement: usize,
    what: What<'a>,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Source(&'a SourceDef),
    View(&'a SelectDef),
    FeatureView(&'a FeatureViewDef),
}

impl<'a> Catalog<'a> {
    fn new(parsed: &'a [Parsed]) -> Checked<Self> {
        let mut definitions: Vec<Definition> = Vec::new();
        let mut redefined = false;
        for (statement, p) in parsed.iter().enumerate() {
            let (name, what, replace) = match p {
                Parsed::Source { def, replace } => (&def.name, What::Source(def), *replace),
                Parsed::View { name, select, replace } => (name, What::View(select), *replace),
                Parsed::FeatureView { def, replace } => (&def.name, What::FeatureView(def), *replace),
                _ => continue,
            };
            if let Some(other) = definitions.iter().find(|d| d.name.text == name.text) {
                if !replace {
                    let line = other.name.span.start.line;
                    let fault = Fault::new(name.span, format!("'{}' is already defined in line {line}", name.text));
                    return Err(fault.hint("take another name, or write CREATE OR REPLACE"));
                }
                redefined = true;
            }
            definitions.push(Definition { name, statement, what });
        }
        Ok(Self {
            planner: Planner::new(),
            definitions,
            sources: RefCell::default(),
            relations: RefCell::default(),
            feature_views: RefCell::default(),
            redefined,
            path: RefCell::default(),
        })
    }

    /// Binds every definition, used or not: a mistake in one is a mistake in the program.
    fn check_all(&self) -> Checked<()> {
        for i in 0..self.definitions.len() {
            let Definition { name, statement, what } = &self.definitions[i];
            match what {
                What::FeatureView(_) => _ = self.bound_feature_view(i, *statement)?,
                _ => _ = self.bound(i, *statement, name.span)?,
            }
        }
        Ok(())
    }

    /// What a name in FROM stands for at statement `at`.
    pub fn relation(&self, ident: &Ident, at: usize) -> Checked<Relation> {
        let Some(i) = self.find(&ident.value, at) else {
            let fault = Fault::new(ident.span, format!("table '{}' not found", ident.value));
            return Err(fault.nearest(&ident.value, self.definitions.iter().map(|d| d.name.text.as_str()), "tables"));
        };
        self.bound(i, at, ident.span)
    }

    /// The feature view of this name, if it is one.
    pub fn feature_view(&self, ident: &Ident, at: usize) -> Checked<Option<Arc<BoundView>>> {
        match self.find(&ident.value, at) {
            Some(i) if matches!(self.definitions[i].what, What::FeatureView(_)) => {
                self.bound_feature_view(i, at).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn bound_feature_view(&self, i: usize, at: usize) -> Checked<Arc<BoundView>> {
        let key = (i, if self.redefined { at } else { 0 });
        if let Some(view) = self.feature_views.borrow().get(&key) {
            return Ok(view.clone());
        }
        let Definition { statement, what: What::FeatureView(def), .. } = &self.definitions[i] else {
            unreachable!("the caller has looked")
        };
        let view = Arc::new(feature_view::bind(def, self, *statement, at)?);
        self.feature_views.borrow_mut().insert(key, view.clone());
        Ok(view)
    }

    fn source_names(&self) -> impl Iterator<Item = &str> {
        let sources = self.definitions.iter().filter(|definition| matches!(definition.what, What::Source(_)));
        sources.map(|definition| definition.name.text.as_str())
    }

    /// Names of the program's feature views.
    fn feature_view_names(&self) -> impl Iterator<Item = &str> {
        let views = self.definitions.iter().filter(|definition| matches!(definition.what, What::FeatureView(_)));
        views.map(|definition| definition.name.text.as_str())
    }

    /// The last definition before `at`, or else the first one behind it.
    fn find(&self, name: &str, at: usize) -> Option<usize> {
        let among = |same: &dyn Fn(&str) -> bool| {
            let matching = || (0..self.definitions.len()).filter(|&i| same(&self.definitions[i].name.text));
            matching().rfind(|&i| self.definitions[i].statement < at).or_else(|| matching().next())
        };
        among(&|known| known == name).or_else(|| among(&|known| known.eq_ignore_ascii_case(name)))
    }

    fn bound(&self, i: usize, at: usize, span: Span) -> Checked<Relation> {
        let definition = &self.definitions[i];
        let key = (i, if self.redefined { at } else { 0 });
        if let Some(relation) = self.relations.borrow().get(&key) {
            return Ok(relation.clone());
        }
        let relation = match definition.what {
            What::Source(def) => Relation::of_source(self.source(def, definition.statement)?),
            What::View(select) => {
                self.enter(i, span)?;
                let mut relation = select::bind(select, self, at)?;
                self.path.borrow_mut().pop();
                relation.used.insert(definition.statement);
                relation
            }
            What::FeatureView(def) => {
                let fault = Fault::new(span, format!("feature view '{}' is joined, not selected from", def.name.text));
                return Err(fault.hint(format!(
                    "write FROM impressions i LEFT JOIN {} FOR SYSTEM_TIME AS OF i.rt f ON f.{1} = i.{1}",
                    def.name.text, def.key.text
                )));
            }
        };
        self.relations.borrow_mut().insert(key, relation.clone());
        Ok(relation)
    }

    fn enter(&self, i: usize, span: Span) -> Checked<()> {
        let mut path = self.path.borrow_mut();
        if let Some(begin) = path.iter().position(|&p| p == i) {
            let circle: Vec<&str> =
                path[begin..].iter().chain([&i]).map(|&p| self.definitions[p].name.text.as_str()).collect();
            let message = format!("view '{}' depends on itself: {}", circle[0], circle.join(" -> "));
            return Err(Fault::new(span, message));
        }
        path.push(i);
        Ok(())
    }

    fn source(&self, def: &SourceDef, statement: usize) -> Checked<Arc<BoundSource>> {
        if let Some(source) = self.sources.borrow().get(&statement) {
            return Ok(source.clone());
        }
        let mut source = source::bind(def, statement, &self.planner)?;
        if let Some(switch) = &def.switch {
            let to = self.find(&switch.to.text, statement).map(|i| &self.definitions[i]);
            let stream = match to {
                Some(Definition { statement: of_stream, what: What::Source(stream), .. })
                    if *of_stream != statement =>
                {
                    source::bind(stream, *of_stream, &self.planner).map(|bound| (stream.switch.is_some(), bound))
                }
                _ => {
                    let fault = Fault::new(switch.to.span, format!("source '{}' not found", switch.to.text));
                    return Err(fault.nearest(&switch.to.text, self.source_names(), "sources"));
                }
            };
            let (is_history, stream) = stream?;
            if is_history {
                let fault = Fault::new(switch.to.span, format!("'{}' is a history itself", switch.to.text));
                return Err(fault.hint("SWITCH TO names a stream; read all of the history as one source"));
            }
            source = source::switch(source, &stream, switch)?;
        }
        let source = Arc::new(source);
        self.sources.borrow_mut().insert(statement, source.clone());
        Ok(source)
    }
}
