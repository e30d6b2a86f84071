//! Subject templates: literals and `{placeholder}`s, parsed when the configuration is read.
//!
//! A template is valid only if every subject it can yield is one that a stream can hold, whatever the row says. So the
//! literals are checked here, and each inserted value is encoded as (a part of) one token by
//! [`outbox_event::subject::encode_token`]. At most one placeholder stands in a token: with two, different pairs of
//! values could yield the same token.

use std::{fmt, fmt::Write as _, num::NonZeroU16};

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// `{aggregate_type}`
    AggregateType,
    /// `{aggregate_id}`
    AggregateId,
    /// `{type}`, the event type
    EventType,
    /// `{partition_key}`
    PartitionKey,
    /// `{partition:16}`: the partition of the partition key among so many
    Partition(NonZeroU16),
    /// `{id}`, the event id
    Id,
    /// `{schema}`
    Schema,
    /// `{table}`
    Table,
}

const NAMES: [(&str, Placeholder); 7] = [
    ("aggregate_type", Placeholder::AggregateType),
    ("aggregate_id", Placeholder::AggregateId),
    ("type", Placeholder::EventType),
    ("partition_key", Placeholder::PartitionKey),
    ("id", Placeholder::Id),
    ("schema", Placeholder::Schema),
    ("table", Placeholder::Table),
];

/// What to insert for the placeholders, as the row has it: encoding is the template's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SubjectValues<'a> {
    /// For `{aggregate_type}`.
    pub aggregate_type: &'a str,
    /// For `{aggregate_id}`.
    pub aggregate_id: &'a str,
    /// For `{type}`.
    pub event_type: &'a str,
    /// For `{partition_key}`.
    pub partition_key: &'a str,
    /// For `{id}`.
    pub id: &'a str,
    /// For `{schema}`.
    pub schema: &'a str,
    /// For `{table}`.
    pub table: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Placeholder(Placeholder),
}

/// A parsed subject template.
///
/// ```
/// use outbox_bridge::route::{SubjectTemplate, SubjectValues};
///
/// let template = SubjectTemplate::parse("orders.{aggregate_type}.{type}")?;
/// let values = SubjectValues { aggregate_type: "order", event_type: "placed.v1", ..SubjectValues::default() };
/// let mut subject = String::new();
/// template.render(&values, &mut subject);
/// assert_eq!(subject, "orders.order.placed%2Ev1");
/// assert_eq!(template.subject_filter(), "orders.*.*");
/// # Ok::<(), outbox_bridge::route::TemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectTemplate {
    text: String,
    parts: Vec<Part>,
}

/// Why a text is no subject template. Columns count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Nothing between two dots, at the beginning or at the end.
    #[error("the token at column {column} is empty")]
    EmptyToken {
        /// Where.
        column: usize,
    },
    /// A character that a subject cannot have there.
    #[error("{character:?} at column {column} cannot stand in a subject")]
    Character {
        /// Where.
        column: usize,
        /// Which.
        character: char,
    },
    /// `{` without `}`.
    #[error("the brace at column {column} is not closed")]
    Unclosed {
        /// Where.
        column: usize,
    },
    /// `}` without `{`.
    #[error("the brace at column {column} closes nothing")]
    Unopened {
        /// Where.
        column: usize,
    },
    /// A placeholder that does not exist.
    #[error("there is no placeholder {{{name}}} (column {column})")]
    UnknownPlaceholder {
        /// Where.
        column: usize,
        /// What was written.
        name: String,
    },
    /// A number of partitions that is none, zero or too large.
    #[error("the number of partitions at column {column} must be from 1 to {max}", max = NonZeroU16::MAX)]
    Partitions {
        /// Where.
        column: usize,
    },
    /// A second placeholder in one token.
    #[error(
        "a second placeholder in one token (column {column}) would let different rows have the same subject"
    )]
    TwoInOneToken {
        /// Where.
        column: usize,
    },
    /// `$` at the beginning: the server's own subjects.
    #[error("subjects that begin with $ are the server's own")]
    Reserved,
}

impl TemplateError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::EmptyToken { .. } => "put a word or a placeholder between the dots",
            Self::Character { character: '*' | '>', .. } => "name one subject: wildcards are for subscribers",
            Self::Character { .. } => "use printable ASCII without white space",
            Self::Unclosed { .. } | Self::Unopened { .. } => {
                "write placeholders as {type}; a subject cannot hold a brace of its own"
            }
            Self::UnknownPlaceholder { .. } => {
                "use {aggregate_type}, {aggregate_id}, {type}, {partition_key}, {partition:16}, {id}, {schema} or \
                 {table}"
            }
            Self::Partitions { .. } => "write how many partitions there are, as in {partition:16}",
            Self::TwoInOneToken { .. } => "put a dot between the two",
            Self::Reserved => "begin with another word",
        }
    }
}

impl SubjectTemplate {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// [`TemplateError`] for anything that could yield an invalid or ambiguous subject.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.starts_with('$') {
            return Err(TemplateError::Reserved);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut token_start = 1;
        let mut token_has_placeholder = false;
        let mut characters = (1..).zip(text.chars());
        while let Some((column, character)) = characters.next() {
            match character {
                '{' => {
                    let name = placeholder_name(&mut characters).ok_or(TemplateError::Unclosed { column })?;
                    let placeholder = placeholder(&name, column)?;
                    if token_has_placeholder {
                        return Err(TemplateError::TwoInOneToken { column });
                    }
                    token_has_placeholder = true;
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Placeholder(placeholder));
                }
                '}' => return Err(TemplateError::Unopened { column }),
                '.' => {
                    if column == token_start {
                        return Err(TemplateError::EmptyToken { column });
                    }
                    token_start = column + 1;
                    token_has_placeholder = false;
                    literal.push('.');
                }
                '*' | '>' => return Err(TemplateError::Character { column, character }),
                _ if !character.is_ascii_graphic() => {
                    return Err(TemplateError::Character { column, character });
                }
                _ => literal.push(character),
            }
        }
        if text.is_empty() || text.ends_with('.') {
            return Err(TemplateError::EmptyToken { column: token_start });
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Appends the subject for `values` to `out`.
    pub fn render(&self, values: &SubjectValues<'_>, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Placeholder(Placeholder::Partition(count)) => {
                    let partition = outbox_event::partition_of(values.partition_key, *count);
                    write!(out, "{partition}").expect("writing to a string does not fail");
                }
                Part::Placeholder(placeholder) => {
                    outbox_event::subject::encode_token(values.get(*placeholder), out);
                }
            }
        }
    }

    /// Whether the template needs this value.
    #[must_use]
    pub fn uses(&self, placeholder: Placeholder) -> bool {
        self.parts.contains(&Part::Placeholder(placeholder))
    }

    /// The narrowest wildcard subject that covers every subject of the template.
    #[must_use]
    pub fn subject_filter(&self) -> String {
        let tokens = self.text.split('.').map(|token| if token.contains('{') { "*" } else { token });
        tokens.collect::<Vec<_>>().join(".")
    }

    /// Whether the filters of both cover a common subject.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (one, other) = (self.subject_filter(), other.subject_filter());
        one.split('.').count() == other.split('.').count()
            && one.split('.').zip(other.split('.')).all(|(a, b)| a == b || a == "*" || b == "*")
    }
}

/// The placeholder with this name.
fn placeholder(name: &str, column: usize) -> Result<Placeholder, TemplateError> {
    if let Some(count) = name.strip_prefix("partition:") {
        return count.parse().map(Placeholder::Partition).map_err(|_| TemplateError::Partitions { column });
    }
    let known = NAMES.into_iter().find(|(known, _)| *known == name);
    known
        .map(|(_, placeholder)| placeholder)
        .ok_or_else(|| TemplateError::UnknownPlaceholder { column, name: name.to_owned() })
}

/// Reads up to and over the closing brace.
fn placeholder_name(characters: &mut impl Iterator<Item = (usize, char)>) -> Option<String> {
    let mut name = String::new();
    for (_, character) in characters {
        match character {
            '}' => return Some(name),
            '{' => return None,
            _ => name.push(character),
        }
    }
    None
}

impl fmt::Display for SubjectTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'a> SubjectValues<'a> {
    fn get(&self, placeholder: Placeholder) -> &'a str {
        match placeholder {
            Placeholder::AggregateType => self.aggregate_type,
            Placeholder::AggregateId => self.aggregate_id,
            Placeholder::EventType => self.event_type,
            Placeholder::PartitionKey | Placeholder::Partition(_) => self.partition_key,
            Placeholder::Id => self.id,
            Placeholder::Schema => self.schema,
            Placeholder::Table => self.table,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, values: &SubjectValues<'_>) -> String {
        let mut subject = String::new();
        SubjectTemplate::parse(template).expect(template).render(values, &mut subject);
        subject
    }

    #[test]
    fn what_is_no_template() {
        use TemplateError::*;
        for (text, error) in [
            ("", EmptyToken { column: 1 }),
            (".a", EmptyToken { column: 1 }),
            ("a..b", EmptyToken { column: 3 }),
            ("a.", EmptyToken { column: 3 }),
            ("{type}.", EmptyToken { column: 8 }),
            ("$JS.API", Reserved),
            ("orders.*", Character { column: 8, character: '*' }),
            ("orders.>", Character { column: 8, character: '>' }),
            ("or ders", Character { column: 3, character: ' ' }),
            ("a\r\nb", Character { column: 2, character: '\r' }),
            ("büro", Character { column: 2, character: 'ü' }),
            ("a.{type", Unclosed { column: 3 }),
            ("a.{{type}}", Unclosed { column: 3 }),
            ("a.type}", Unopened { column: 7 }),
            ("a.{}", UnknownPlaceholder { column: 3, name: String::new() }),
            ("a.{kind}", UnknownPlaceholder { column: 3, name: "kind".to_owned() }),
            ("a.{partition}", UnknownPlaceholder { column: 3, name: "partition".to_owned() }),
            ("a.{partition:}", Partitions { column: 3 }),
            ("a.{partition:0}", Partitions { column: 3 }),
            ("a.{partition:65536}", Partitions { column: 3 }),
            ("a.{type}{id}", TwoInOneToken { column: 9 }),
            ("a.{type}-{id}", TwoInOneToken { column: 10 }),
        ] {
            assert_eq!(SubjectTemplate::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn every_placeholder_has_its_value() {
        let values = SubjectValues {
            aggregate_type: "a",
            aggregate_id: "b",
            event_type: "c",
            partition_key: "d",
            id: "e",
            schema: "f",
            table: "g",
        };
        let template = NAMES.map(|(name, _)| format!("{{{name}}}")).join(".");
        assert_eq!(render(&template, &values), "a.b.c.d.e.f.g");
        assert_eq!(render("x.y-{type}z", &values), "x.y-cz");
        assert_eq!(render("plain", &values), "plain");
        let partition = outbox_event::partition_of("d", NonZeroU16::new(16).expect("not 0"));
        assert_eq!(render("x.{partition:16}.{type}", &values), format!("x.{partition}.c"));
    }

    #[test]
    fn overlaps() {
        for (one, other, expected) in [
            ("orders.{type}", "orders.placed", true),
            ("orders.{type}", "bills.{type}", false),
            ("orders.{type}", "orders.{type}.{id}", false),
            ("{schema}.x", "orders.{type}", true),
            ("orders.a-{type}", "orders.b-{type}", true),
        ] {
            let parse = |text| SubjectTemplate::parse(text).expect("a template");
            assert_eq!(parse(one).overlaps(&parse(other)), expected, "{one} {other}");
            assert_eq!(parse(other).overlaps(&parse(one)), expected, "{other} {one}");
        }
    }

    fn values() -> impl Strategy<Value = String> {
        prop_oneof!["[.*>$%{} \\r\\n\\ta-b]{0,8}", ".{0,12}", Just(String::new())]
    }

    proptest! {
        #[test]
        fn no_value_can_change_the_shape(event_type in values(), id in values()) {
            let template = "{type}.orders.x-{id}";
            let values = SubjectValues { event_type: &event_type, id: &id, ..SubjectValues::default() };
            let subject = render(template, &values);
            let tokens: Vec<&str> = subject.split('.').collect();
            prop_assert_eq!(tokens.len(), 3);
            prop_assert!(tokens.iter().all(|token| !token.is_empty()));
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(!subject.contains(['*', '>', '$']));
        }

        #[test]
        fn different_rows_have_different_subjects(a in (values(), values()), b in (values(), values())) {
            let subject = |(event_type, id): &(String, String)| {
                let values = SubjectValues { event_type, id, ..SubjectValues::default() };
                render("orders.{type}.x-{id}", &values)
            };
            prop_assert_eq!(subject(&a) == subject(&b), a == b);
        }

        #[test]
        fn parsing_never_panics_and_what_parses_prints_back(text in "[a-c.{}*>$ type_id]{0,24}") {
            if let Ok(template) = SubjectTemplate::parse(&text) {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
