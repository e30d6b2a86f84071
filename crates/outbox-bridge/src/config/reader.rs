//! Typed access to one section: looks keys up, holds them to the table of keys, and notes every problem.
//!
//! A getter that finds a problem notes it and goes on with a stand-in (the default, or nothing), so that one pass finds
//! all problems. What was read may be used only if none was noted.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::value::{Dict, Value};

use super::keys::{self, KEYS, Key, Kind, Presence};
use super::layers::Layers;
use super::problem::{Fault, Origin, Problem};
use super::units::{format_duration, parse_duration};
use super::{ByteSize, ClientCertificate, Secret};
use crate::diagnosis::Code;

/// A value that is one of a few words; the table of keys lists the same words.
pub(super) trait Choice: Copy + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

/// One section of the tree, which may be absent.
pub(super) struct Section<'a> {
    layers: &'a Layers,
    problems: &'a RefCell<Vec<Problem>>,
    values: Option<&'a Dict>,
    /// What problems call the section: `outbox[0]`.
    shown: String,
    /// What the table of keys calls it: `outbox`.
    name: &'static str,
}

struct Found<'a> {
    value: &'a Value,
    origin: Origin,
}

impl<'a> Section<'a> {
    /// The section `name`, or the top level if `name` is empty.
    pub(super) fn new(layers: &'a Layers, problems: &'a RefCell<Vec<Problem>>, name: &'static str) -> Self {
        let tree = layers.tree();
        let values = if name.is_empty() { Some(tree) } else { tree.get(name).and_then(Value::as_dict) };
        Self { layers, problems, values, shown: name.to_owned(), name }
    }

    /// Element `index` of the array of sections `name`.
    pub(super) fn element(&self, name: &'static str, index: usize, values: &'a Dict) -> Self {
        Self {
            layers: self.layers,
            problems: self.problems,
            values: Some(values),
            shown: format!("{name}[{index}]"),
            name,
        }
    }

    /// Notes a problem with `key` of this section.
    pub(super) fn problem(&self, key: &str, fault: Fault) {
        let origin = self.lookup(key).map_or(Origin::Absent, |found| found.origin);
        self.note(key, origin, fault);
    }

    /// Whether the key has a value.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.lookup(key).is_some()
    }

    fn note(&self, key: &str, origin: Origin, Fault { cause, remedy, code }: Fault) {
        let problem = Problem { key: join(&self.shown, key), origin, cause, remedy, code };
        self.problems.borrow_mut().push(problem);
    }

    fn lookup(&self, key: &str) -> Option<Found<'a>> {
        let mut path = key.split('.');
        let mut value = self.values?.get(path.next()?)?;
        for name in path {
            value = value.as_dict()?.get(name)?;
        }
        let origin = self.layers.origin(value.tag(), &join(self.name, key));
        Some(Found { value, origin })
    }

    fn entry(&self, key: &str) -> &'static Key {
        let name = join(self.name, key);
        keys::find(&name).unwrap_or_else(|| unreachable!("{name} is missing from the table of keys"))
    }

    /// The text of `key`, or of its default; a missing required key is a problem.
    fn text_with_origin(&self, key: &str) -> Option<(String, Origin)> {
        let entry = self.entry(key);
        match (self.lookup(key), entry.presence) {
            (Some(Found { value: Value::String(_, text), origin }), _) => Some((text.clone(), origin)),
            (Some(found), _) => {
                let cause = format!("expected {}, found {}", expectation(entry.kind), describe(found.value));
                let remedy = format!("write {}", example(entry.kind));
                self.note(key, found.origin, Fault::new(cause, remedy));
                None
            }
            (None, Presence::Default(text)) => Some((text.to_owned(), Origin::Absent)),
            (None, Presence::Optional) => None,
            (None, Presence::Required) => {
                let remedy = format!("set it: {}", entry.meaning);
                let fault = Fault::of(Code::CONFIG_MISSING_KEY, "is required", remedy);
                self.note(key, Origin::Absent, fault);
                None
            }
        }
    }

    /// The text of `key` as `parse` understands it.
    pub(super) fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, Fault>) -> Option<T> {
        let (text, origin) = self.text_with_origin(key)?;
        parse(&text).map_err(|fault| self.note(key, origin, fault)).ok()
    }

    /// The texts of `key`, each as `parse` understands it.
    pub(super) fn parsed_list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, Fault>) -> Vec<T> {
        let Some(Found { value: Value::Array(_, values), origin }) = self.lookup(key) else {
            let Some((text, origin)) = self.text_with_origin(key) else { return Vec::new() };
            let texts = text.split(',').map(str::trim);
            return texts
                .filter_map(|text| parse(text).map_err(|fault| self.note(key, origin.clone(), fault)).ok())
                .collect();
        };
        if values.is_empty() {
            self.note(key, origin, Fault::new("the array is empty", "name at least one"));
            return Vec::new();
        }
        let parsed = values.iter().filter_map(|value| {
            let result = match value {
                Value::String(_, text) => parse(text),
                other => Err(Fault::new(
                    format!("expected texts, found {}", describe(other)),
                    "write [\"…\", \"…\"]",
                )),
            };
            result.map_err(|fault| self.note(key, origin.clone(), fault)).ok()
        });
        parsed.collect()
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> bool {
        let default = matches!(self.entry(key).presence, Presence::Default("true"));
        match self.lookup(key) {
            None => default,
            Some(Found { value: Value::Bool(_, flag), .. }) => *flag,
            Some(_) => self.parsed(key, parse_flag).unwrap_or(default),
        }
    }

    /// An integer within the limits of the table.
    pub(super) fn optional_integer<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        let Kind::Integer { min, max } = self.entry(key).kind else { unreachable!("{key} is no integer") };
        let within = |number: Option<u64>| match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(number),
            None => Err(Fault::new(
                format!("is not an integer from {min} to {max}"),
                format!("write an integer from {min} to {max}"),
            )),
        };
        let number = match self.lookup(key) {
            Some(Found { value: value @ Value::Num(..), origin }) => {
                let number = value.to_i128().and_then(|number| u64::try_from(number).ok());
                within(number).map_err(|fault| self.note(key, origin, fault)).ok()
            }
            _ => self.parsed(key, |text| within(text.trim().parse().ok())),
        };
        T::try_from(number?).ok()
    }

    /// As [`Self::optional_integer`], for a key with a default.
    pub(super) fn integer<T: TryFrom<u64> + Default>(&self, key: &str) -> T {
        self.optional_integer(key).unwrap_or_default()
    }

    /// As [`Self::optional_duration`], for a key with a default.
    pub(super) fn duration(&self, key: &str) -> Duration {
        self.optional_duration(key).unwrap_or_default()
    }

    /// A duration within the limits of the table.
    pub(super) fn optional_duration(&self, key: &str) -> Option<Duration> {
        let Kind::Duration { min, max } = self.entry(key).kind else { unreachable!("{key} is no duration") };
        let remedy = format!(
            "write a duration such as \"5s\" or \"250ms\", from {} to {}",
            format_duration(min),
            format_duration(max)
        );
        let parse = |text: &str| match parse_duration(text) {
            Some(duration) if (min..=max).contains(&duration) => Ok(duration),
            Some(_) => Err(Fault::new(format!("{text:?} is out of its limits"), remedy.clone())),
            None => Err(Fault::new(format!("{text:?} is not a duration"), remedy.clone())),
        };
        self.parsed(key, parse)
    }

    /// A size within the limits of the table.
    pub(super) fn size(&self, key: &str) -> ByteSize {
        let Kind::Size { min, .. } = self.entry(key).kind else { unreachable!("{key} is no size") };
        self.optional_size(key).unwrap_or(min)
    }

    /// As [`Section::size`], for a key without a default.
    pub(super) fn optional_size(&self, key: &str) -> Option<ByteSize> {
        let Kind::Size { min, max } = self.entry(key).kind else { unreachable!("{key} is no size") };
        let remedy = format!("write a size such as \"8MiB\", from {min} to {max}");
        let within = |size: ByteSize| match size {
            size if (min..=max).contains(&size) => Ok(size),
            size => Err(Fault::new(format!("{size} is out of its limits"), remedy.clone())),
        };
        match self.lookup(key) {
            Some(Found { value: value @ Value::Num(..), origin }) => {
                let bytes = value.to_i128().and_then(|bytes| u64::try_from(bytes).ok());
                let size = bytes.map(ByteSize::from_bytes).unwrap_or(ByteSize::from_bytes(0));
                within(size).map_err(|fault| self.note(key, origin, fault)).ok()
            }
            _ => self.parsed(key, |text| match text.parse() {
                Ok(size) => within(size),
                Err(_) => Err(Fault::new(format!("{text:?} is not a size"), remedy.clone())),
            }),
        }
    }

    /// One of the words of `T`.
    pub(super) fn choice<T: Choice>(&self, key: &str) -> T {
        let entry = self.entry(key);
        debug_assert!(
            matches!(entry.kind, Kind::Choice(words) if words.iter().eq(T::NAMES.iter().map(|(name, _)| name))),
            "the table of keys and the type of {key} differ"
        );
        let parse = |text: &str| match T::NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, choice)) => Ok(*choice),
            None => {
                Err(Fault::new(format!("{text:?} is not a choice"), format!("write {}", example(entry.kind))))
            }
        };
        let default = T::NAMES.first().map(|(_, choice)| *choice);
        self.parsed(key, parse).or(default).unwrap_or_else(|| unreachable!("{key} has no choices"))
    }

    /// The path that `key` holds, made absolute or relative to the working folder; it names a file that can be read.
    pub(super) fn file(&self, key: &str) -> Option<PathBuf> {
        let (path, origin) = self.path(key)?;
        match std::fs::File::open(&path.resolved) {
            Ok(_) => Some(path.resolved),
            Err(error) => {
                self.note(key, origin, path.unreadable(&error));
                None
            }
        }
    }

    fn path(&self, key: &str) -> Option<(FilePath, Origin)> {
        let (text, origin) = self.text_with_origin(key)?;
        if text.is_empty() {
            self.note(key, origin, Fault::new("is empty", "name a file, or remove the key"));
            return None;
        }
        let folder = match &origin {
            Origin::File(file) => file.parent().unwrap_or(Path::new("")),
            Origin::Environment(_) | Origin::Absent => Path::new(""),
        };
        Some((FilePath { resolved: folder.join(&text), written: text }, origin))
    }

    /// The secret in the environment's `key`, or in the file that `file_key` names.
    pub(super) fn secret(&self, key: &str, file_key: &str) -> Option<Secret> {
        let direct = self.lookup(key);
        let from_file = self.lookup(file_key).and_then(|_| self.secret_file(file_key));
        let Some(Found { value, origin }) = direct else { return from_file };
        let remedy = |what: &str| {
            format!(
                "{what} {}, or set {}",
                join(&self.shown, file_key),
                keys::environment_variable(&join(self.name, key))
            )
        };
        if matches!(origin, Origin::File(_)) {
            let fault = Fault::of(
                Code::CONFIG_SECRET,
                "a secret must not stand in the configuration file",
                remedy("put it into a file and name that in"),
            );
            self.note(key, origin, fault);
        } else if self.lookup(file_key).is_some() {
            self.note(key, origin, Fault::new(format!("{file_key} is set as well"), "set one of the two"));
        } else if let Value::String(_, text) = value {
            return self.not_empty(key, origin, text);
        }
        from_file
    }

    fn secret_file(&self, key: &str) -> Option<Secret> {
        let (path, origin) = self.path(key)?;
        match std::fs::read_to_string(&path.resolved) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                self.not_empty(key, origin, text.strip_suffix('\r').unwrap_or(text))
            }
            Err(error) => {
                self.note(key, origin, path.unreadable(&error));
                None
            }
        }
    }

    fn not_empty(&self, key: &str, origin: Origin, text: &str) -> Option<Secret> {
        if text.is_empty() {
            self.note(key, origin, Fault::new("the secret is empty", "fill it, or remove the key"));
            return None;
        }
        Some(Secret::new(text))
    }

    /// A client certificate: both files or neither.
    pub(super) fn client_certificate(&self, cert_key: &str, key_key: &str) -> Option<ClientCertificate> {
        let (cert_file, key_file) = (self.file(cert_key), self.file(key_key));
        for (present, absent) in [(cert_key, key_key), (key_key, cert_key)] {
            if self.lookup(present).is_some() && self.lookup(absent).is_none() {
                let absent = join(&self.shown, absent);
                self.problem(
                    present,
                    Fault::new(format!("is useless without {absent}"), format!("set {absent} too")),
                );
            }
        }
        Some(ClientCertificate { cert_file: cert_file?, key_file: key_file? })
    }

    /// Notes every key that the table does not have, and everything that is no section where one belongs.
    pub(super) fn refuse_unknown(&self) {
        if let Some(values) = self.values {
            self.refuse_unknown_in(values, "");
        }
    }

    fn refuse_unknown_in(&self, values: &Dict, path: &str) {
        for (name, value) in values {
            let key = join(path, name);
            let full = join(self.name, &key);
            let origin = self.layers.origin(value.tag(), &full);
            let within = format!("{full}.");
            if keys::find(&full).is_some() || full == "outbox" {
                continue;
            }
            if !KEYS.iter().any(|known| known.name.starts_with(&within)) {
                let fault = Fault::of(Code::CONFIG_UNKNOWN_KEY, "there is no such key", suggestion(&full));
                self.note(&key, origin, fault);
                continue;
            }
            match value {
                Value::Dict(_, section) => self.refuse_unknown_in(section, &key),
                other => {
                    let cause = format!("is a section, found {}", describe(other));
                    self.note(&key, origin, Fault::new(cause, format!("write [{full}] and its keys below")));
                }
            }
        }
    }
}

struct FilePath {
    written: String,
    resolved: PathBuf,
}

impl FilePath {
    /// A secret put in place of a path by mistake has no slash as a rule, so only what looks like a path is shown.
    fn unreadable(&self, error: &std::io::Error) -> Fault {
        let shown = if self.written.contains('/') {
            format!("{} cannot be read", self.resolved.display())
        } else {
            "the file that it names cannot be read".to_owned()
        };
        // The kind alone: some errors repeat the path.
        let remedy = "name a file that exists and that the bridge's user may read";
        Fault::new(format!("{shown} ({})", error.kind()), remedy)
    }
}

fn parse_flag(text: &str) -> Result<bool, Fault> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Fault::new(format!("{text:?} is neither true nor false"), "write true or false")),
    }
}

/// The known key that was probably meant.
fn suggestion(unknown: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |key: &&Key| {
        let elsewhere = last(key.name) == last(unknown);
        let whole = strsim::damerau_levenshtein(key.name, unknown);
        if elsewhere { whole.min(2) } else { whole }
    };
    let nearest =
        KEYS.iter().min_by_key(distance).filter(|key| distance(key) <= 3.max(last(unknown).len() / 2));
    match nearest {
        Some(key) => format!("did you mean {}?", key.name),
        None => "remove it".to_owned(),
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::String(..) | Value::Char(..) => "text",
        Value::Bool(..) => "a flag",
        Value::Num(..) => "a number",
        Value::Empty(..) => "nothing",
        Value::Dict(..) => "a section",
        Value::Array(..) => "an array",
    }
}

fn expectation(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Choice(_) | Kind::Secret => "text",
        Kind::Texts => "text or an array of texts",
        Kind::Flag => "true or false",
        Kind::Integer { .. } => "an integer",
        Kind::Duration { .. } => "a duration as text",
        Kind::Size { .. } => "a size",
        Kind::File => "a path as text",
    }
}

fn example(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "it in quotes".to_owned(),
        Kind::Texts => "\"…\" or [\"…\", \"…\"]".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Choice(words) => {
            words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
        }
        Kind::Integer { min, max } => format!("an integer from {min} to {max}"),
        Kind::Duration { .. } => "for instance \"5s\" or \"250ms\"".to_owned(),
        Kind::Size { .. } => "for instance \"8MiB\"".to_owned(),
        Kind::File => "\"/path/to/file\"".to_owned(),
    }
}
