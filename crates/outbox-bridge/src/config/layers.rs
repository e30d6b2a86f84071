//! The configuration file and the environment as one tree, in which every value knows where it came from.
//!
//! figment merges the layers and keeps the origins. Its own file and environment providers are not used: their errors
//! quote the text they fail on, and the environment's guesses types, so that the password `12345` becomes a number.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::keys::ENVIRONMENT_PREFIX;
use super::problem::{ConfigError, Origin, Problem};
use crate::diagnosis::Code;

pub(super) struct Layers {
    figment: Figment,
    tree: Dict,
    /// Variables that cannot be read at all.
    pub(super) problems: Vec<Problem>,
}

struct Layer {
    name: &'static str,
    path: Option<PathBuf>,
    values: Dict,
}

const FILE: &str = "file";
const ENVIRONMENT: &str = "environment";

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let metadata = Metadata::named(self.name);
        match &self.path {
            Some(path) => metadata.source(Source::File(path.clone())),
            None => metadata,
        }
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Layers {
    /// Reads the file and picks the bridge's variables.
    pub(super) fn read(
        path: &Path,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let file = Layer { name: FILE, path: Some(path.to_owned()), values: read_file(path)? };
        let (values, problems) = read_environment(variables);
        let figment = Figment::from(file).merge(Layer { name: ENVIRONMENT, path: None, values });
        match figment.find_value("") {
            Ok(Value::Dict(_, tree)) => Ok(Self { figment, tree, problems }),
            _ => Err(file_problem(path, "is not a table of sections", "write sections such as [source]")),
        }
    }

    pub(super) fn tree(&self) -> &Dict {
        &self.tree
    }

    /// Where the value with this tag, of the key with this full name, came from.
    pub(super) fn origin(&self, tag: Tag, key: &str) -> Origin {
        let metadata = self.figment.get_metadata(tag);
        match metadata.and_then(|metadata| metadata.source.as_ref()).and_then(Source::file_path) {
            Some(path) => Origin::File(path.to_owned()),
            None if metadata.is_some() => Origin::Environment(super::keys::environment_variable(key)),
            None => Origin::Absent,
        }
    }
}

fn file_problem(path: &Path, cause: impl Into<String>, remedy: impl Into<String>) -> ConfigError {
    ConfigError::new(vec![Problem {
        key: String::new(),
        origin: Origin::File(path.to_owned()),
        cause: cause.into(),
        remedy: remedy.into(),
        code: Code::CONFIG_FILE,
    }])
}

fn read_file(path: &Path) -> Result<Dict, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        file_problem(
            path,
            format!("the file cannot be read ({error})"),
            "name a readable file with --config; `outbox-bridge --help` shows the smallest one that works",
        )
    })?;
    let syntax_error = |error: toml::de::Error| {
        // The error's `Display` shows the line itself, which may hold a secret; its message does not.
        let at = error.span().and_then(|span| text.get(..span.start)).map(position);
        let place = at.map(|(line, column)| format!(" at line {line}, column {column}")).unwrap_or_default();
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        file_problem(path, format!("not TOML{place}: {message}"), "correct the line")
    };
    let table: toml::Table = toml::from_str(&text).map_err(syntax_error)?;
    match Value::serialize(table) {
        Ok(Value::Dict(_, values)) => Ok(values),
        _ => Err(file_problem(
            path,
            "holds a value that no key takes",
            "remove dates and numbers out of range",
        )),
    }
}

/// Line and column, from 1, of what follows `before`.
fn position(before: &str) -> (usize, usize) {
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

fn read_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> (Dict, Vec<Problem>) {
    let mut chosen = Vec::new();
    let mut problems = Vec::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let key = path.to_lowercase().replace("__", ".");
        match value.into_string() {
            Ok(value) => chosen.push((key, value)),
            Err(_) => problems.push(Problem {
                key,
                origin: Origin::Environment(name),
                cause: "its value is not UTF-8".to_owned(),
                remedy: "set it to UTF-8 text".to_owned(),
                code: Code::CONFIG_VALUE,
            }),
        }
    }
    // Sorted, so that `A` comes before `A__B`, whose section then replaces it.
    chosen.sort();
    let mut values = Dict::new();
    for (key, value) in chosen {
        insert(&mut values, &mut key.split('.').peekable(), value);
    }
    (values, problems)
}

fn insert(values: &mut Dict, path: &mut std::iter::Peekable<std::str::Split<'_, char>>, value: String) {
    let Some(name) = path.next() else { return };
    if path.peek().is_none() {
        values.insert(name.to_owned(), Value::from(value));
        return;
    }
    let section = values.entry(name.to_owned()).or_insert_with(|| Value::from(Dict::new()));
    if !matches!(section, Value::Dict(..)) {
        *section = Value::from(Dict::new());
    }
    if let Value::Dict(_, section) = section {
        insert(section, path, value);
    }
}
