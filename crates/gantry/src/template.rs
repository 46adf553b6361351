//! Go templates: `--format` of listings and of inspect.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gotmpl::parse::{BranchNode, Expr, ListNode, Node, PipeNode, SmolStr};
use gotmpl::{FuncMap, MissingKey, TemplateError, Value, ValueFunc};
use serde_json::Value as Json;

use crate::error::CliError;
use crate::terminal;

/// Name under which a template is parsed: messages begin with it.
const NAME: &str = "format";

/// The JSON that template values were made from, by the address of the value.
///
/// A template's maps are sorted, but `{{json .}}` must give the order that the object has,
/// and the text as it was before it was made safe for a terminal.
type Originals = HashMap<usize, Json>;

/// A parsed template.
pub struct Template {
    template: gotmpl::Template,
}

impl Template {
    /// Parses `source` with the functions that Docker offers.
    ///
    /// # Errors
    /// [`CliError::Template`].
    pub fn parse(source: &str, on_terminal: bool) -> Result<Template, CliError> {
        Self::with_functions(source, functions(Arc::default(), on_terminal))
    }

    /// Parses `source` with functions that leave their text alone: what a table's head is
    /// made with.
    ///
    /// # Errors
    /// [`CliError::Template`].
    pub fn parse_header(source: &str) -> Result<Template, CliError> {
        let mut functions = functions(Arc::default(), false);
        for name in [
            "json", "split", "join", "title", "lower", "upper", "truncate",
        ] {
            functions.insert(name.to_owned(), Arc::new(first));
        }
        Self::with_functions(source, functions)
    }

    fn with_functions(source: &str, functions: FuncMap) -> Result<Template, CliError> {
        let parse = || -> gotmpl::Result<gotmpl::Template> {
            let mut template = gotmpl::Template::new(NAME)
                .missing_key(MissingKey::Error)
                .funcs(functions)
                .parse(source)?;
            let names: Vec<String> = template
                .templates()
                .into_iter()
                .map(str::to_owned)
                .collect();
            for name in names {
                if let Some(mut body) = template.lookup(&name).cloned() {
                    rewrite_list(&mut body);
                    template = template.add_parse_tree(&name, body);
                }
            }
            Ok(template)
        };
        let template = parse().map_err(CliError::Template)?;
        Ok(Template { template })
    }

    /// The text that the template gives for `value`.
    ///
    /// # Errors
    /// [`CliError::Template`].
    pub fn render(&self, value: &Value) -> Result<String, CliError> {
        // The rewritten body stands under its name; an empty body stands nowhere.
        match self.template.lookup(NAME) {
            Some(_) => self.template.execute_template_to_string(NAME, value),
            None => self.template.execute_to_string(value),
        }
        .map_err(CliError::Template)
    }
}

/// The text that `source` gives for a JSON document, as `inspect --format` wants it.
///
/// # Errors
/// [`CliError::Template`].
pub fn render_json(source: &str, json: &Json, on_terminal: bool) -> Result<String, CliError> {
    let mut originals = Originals::new();
    let value = value_of(json, &mut originals, on_terminal);
    let functions = functions(Arc::new(originals), on_terminal);
    Template::with_functions(source, functions)?.render(&value)
}

/// What `--format` undoes before it parses: shells hand `\t` over as two characters.
pub fn unescape(source: &str) -> String {
    source.replace("\\t", "\t").replace("\\n", "\n")
}

/// Turns a method call with arguments (`.Label "key"`), which gotmpl refuses, into a call
/// of the function that stands in the field.
fn rewrite_list(list: &mut ListNode) {
    for node in &mut list.nodes {
        match node {
            Node::List(list) => rewrite_list(list),
            Node::Action(action) => rewrite_pipe(&mut action.pipe),
            Node::If(branch) | Node::Range(branch) | Node::With(branch) => rewrite_branch(branch),
            Node::Template(template) => {
                if let Some(pipe) = &mut template.pipe {
                    rewrite_pipe(pipe);
                }
            }
            Node::Define(define) => rewrite_list(&mut define.body),
            Node::Text(_) | Node::Break(_) | Node::Continue(_) => {}
        }
    }
}

fn rewrite_branch(branch: &mut BranchNode) {
    rewrite_pipe(&mut branch.pipe);
    rewrite_list(&mut branch.body);
    if let Some(body) = &mut branch.else_body {
        rewrite_list(body);
    }
}

fn rewrite_pipe(pipe: &mut PipeNode) {
    for (index, command) in pipe.commands.iter_mut().enumerate() {
        for argument in &mut command.args {
            if let Expr::Pipe(_, inner) = argument {
                rewrite_pipe(inner);
            }
        }
        let called = index > 0 || command.args.len() > 1;
        let field = matches!(
            command.args.first(),
            Some(Expr::Field(..) | Expr::Variable(_, _, _))
        );
        if called && field {
            let call = Expr::Identifier(command.pos, SmolStr::new_static("call"));
            command.args.insert(0, call);
        }
    }
}

/// Makes a template's value of a JSON one.
fn value_of(json: &Json, originals: &mut Originals, on_terminal: bool) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => {
            let shown: Arc<str> = terminal::shown(text, on_terminal).into();
            if *shown != **text {
                originals.insert(shown.as_ptr() as usize, json.clone());
            }
            Value::String(shown)
        }
        Json::Array(items) => {
            let items: Arc<[Value]> = items
                .iter()
                .map(|item| value_of(item, originals, on_terminal))
                .collect();
            // An empty list has no address of its own.
            if !items.is_empty() {
                originals.insert(items.as_ptr() as usize, json.clone());
            }
            Value::List(items)
        }
        Json::Object(fields) => {
            let mut named: BTreeMap<Arc<str>, Value> = fields
                .iter()
                .map(|(key, field)| {
                    let key = terminal::shown(key, on_terminal).into();
                    (key, value_of(field, originals, on_terminal))
                })
                .collect();
            // The wire says `Id`, Docker's own structures `ID`: templates use either.
            if let (Some(id), None) = (named.get("Id").cloned(), named.get("ID")) {
                named.insert(Arc::from("ID"), id);
            }
            let fields = Arc::new(named);
            originals.insert(Arc::as_ptr(&fields) as usize, json.clone());
            Value::Map(fields)
        }
    }
}

/// Makes JSON of a template's value, the original where there is one.
fn json_of(value: &Value, originals: &Originals) -> Json {
    let original = |address: usize| originals.get(&address).cloned();
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => original(text.as_ptr() as usize)
            .unwrap_or_else(|| Json::String(text.as_ref().to_owned())),
        Value::List(items) => original(items.as_ptr() as usize).unwrap_or_else(|| {
            Json::Array(items.iter().map(|item| json_of(item, originals)).collect())
        }),
        Value::Map(fields) => original(Arc::as_ptr(fields) as usize).unwrap_or_else(|| {
            let fields = fields.iter();
            Json::Object(
                fields
                    .filter(|(_, field)| !field.is_function())
                    .map(|(key, field)| (key.as_ref().to_owned(), json_of(field, originals)))
                    .collect(),
            )
        }),
        _ => Json::Null,
    }
}

fn functions(originals: Arc<Originals>, on_terminal: bool) -> FuncMap {
    let mut functions = FuncMap::new();
    let mut add = |name: &str, function: ValueFunc| {
        functions.insert(name.to_owned(), function);
    };
    add(
        "json",
        Arc::new(move |values| {
            let json = json_of(values.first().unwrap_or(&Value::Nil), &originals).to_string();
            let json = match on_terminal {
                true => terminal::escape_json(&json).into_owned(),
                false => json,
            };
            Ok(Value::String(json.into()))
        }),
    );
    add(
        "lower",
        Arc::new(|values| Ok(string(text(values, 0)?.to_lowercase()))),
    );
    add(
        "upper",
        Arc::new(|values| Ok(string(text(values, 0)?.to_uppercase()))),
    );
    add(
        "title",
        Arc::new(|values| Ok(string(title(&text(values, 0)?)))),
    );
    add("split", Arc::new(split));
    add("join", Arc::new(join));
    add("pad", Arc::new(pad));
    add("truncate", Arc::new(truncate));
    add("index", Arc::new(index));
    functions
}

fn string(text: String) -> Value {
    Value::String(text.into())
}

fn text(values: &[Value], position: usize) -> gotmpl::Result<Arc<str>> {
    match values.get(position) {
        Some(Value::String(text)) => Ok(Arc::clone(text)),
        other => Err(TemplateError::TypeMismatch {
            expected: "string",
            got: other.map_or("nothing", Value::type_name),
        }),
    }
}

fn count(values: &[Value], position: usize) -> gotmpl::Result<usize> {
    match values.get(position).and_then(Value::as_int) {
        Some(number) => Ok(usize::try_from(number).unwrap_or(0)),
        None => Err(TemplateError::TypeMismatch {
            expected: "int",
            got: values.get(position).map_or("nothing", Value::type_name),
        }),
    }
}

fn first(values: &[Value]) -> gotmpl::Result<Value> {
    Ok(values.first().cloned().unwrap_or(Value::Nil))
}

fn title(text: &str) -> String {
    let mut start = true;
    let mut output = String::with_capacity(text.len());
    for character in text.chars() {
        if start {
            output.extend(character.to_uppercase());
        } else {
            output.push(character);
        }
        start = !(character.is_alphanumeric() || matches!(character, '_' | '\''));
    }
    output
}

fn split(values: &[Value]) -> gotmpl::Result<Value> {
    let (whole, separator) = (text(values, 0)?, text(values, 1)?);
    let parts: Vec<Value> = if separator.is_empty() {
        whole.chars().map(|one| string(one.to_string())).collect()
    } else {
        whole
            .split(separator.as_ref())
            .map(|part| string(part.to_owned()))
            .collect()
    };
    Ok(Value::List(parts.into()))
}

fn join(values: &[Value]) -> gotmpl::Result<Value> {
    let separator = text(values, 1)?;
    match values.first() {
        Some(Value::List(items)) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            Ok(string(items.join(&separator)))
        }
        Some(Value::Nil) => Ok(string(String::new())),
        other => Err(TemplateError::TypeMismatch {
            expected: "list",
            got: other.map_or("nothing", Value::type_name),
        }),
    }
}

fn pad(values: &[Value]) -> gotmpl::Result<Value> {
    /// More would only fill the memory.
    const WIDEST: usize = 4096;
    let source = text(values, 0)?;
    if source.is_empty() {
        return Ok(Value::String(source));
    }
    let before = " ".repeat(count(values, 1)?.min(WIDEST));
    let after = " ".repeat(count(values, 2)?.min(WIDEST));
    Ok(string(format!("{before}{source}{after}")))
}

fn truncate(values: &[Value]) -> gotmpl::Result<Value> {
    let (source, length) = (text(values, 0)?, count(values, 1)?);
    Ok(string(source.chars().take(length).collect()))
}

/// `index` as Go has it for the typed objects that Docker's templates see: a missing key of
/// a map of strings gives the empty string, and not `<no value>`.
fn index(values: &[Value]) -> gotmpl::Result<Value> {
    let Some((container, keys)) = values.split_first() else {
        return Err(TemplateError::ArgCount {
            name: "index".to_owned(),
            expected: 1,
            got: 0,
        });
    };
    let mut current = container.clone();
    for key in keys {
        let next = current.index(key)?;
        current = match (&current, next) {
            (Value::Map(fields), Value::Nil) => {
                let holds_lists = fields.values().any(|field| matches!(field, Value::List(_)));
                let holds_text = fields
                    .values()
                    .all(|field| matches!(field, Value::String(_)));
                match (holds_text, holds_lists) {
                    (true, _) => string(String::new()),
                    (false, true) => Value::List(Arc::from([])),
                    (false, false) => Value::Nil,
                }
            }
            (_, next) => next,
        };
    }
    Ok(current)
}

#[cfg(test)]
mod tests;
