//! `[[outbox]]`: which table goes to which stream, under which subjects.

use std::fmt;
use std::time::Duration;

use super::problem::Fault;
use super::reader::Section;
use crate::route::SubjectTemplate;

/// One outbox table and where its rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// The table.
    pub table: TableName,
    /// The stream. Outboxes with the same stream share one writer and keep their common order.
    pub stream: String,
    /// The subject of each message.
    pub subject: SubjectTemplate,
    /// What stands in `ce-source`; `None`: `//<server>/<schema>.<table>`.
    pub source: Option<String>,
    /// Which column holds what.
    pub columns: Columns,
    /// How long published rows stay in the table; `None`: for ever.
    pub retention: Option<Duration>,
}

/// Which column of an outbox table holds what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The event id.
    pub id: String,
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// The event type.
    pub event_type: String,
    /// The body.
    pub payload: String,
    /// Further headers, a JSON object.
    pub headers: HeadersColumn,
    /// The body's media type; `None`: `application/json`.
    pub content_type: Option<String>,
    /// The ordering key; `None`: the aggregate's id.
    pub partition_key: Option<String>,
    /// The time of the insert, for clean-up and audit.
    pub created_at: String,
}

/// The column with further headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadersColumn {
    /// Not configured: this column, if the table has it.
    IfPresent(String),
    /// Configured: the table must have it.
    Required(String),
    /// Configured as empty: none, even if the table has a column `headers`.
    None,
}

/// A table with its schema. `Display` quotes what needs quoting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema (MySQL's database).
    pub schema: String,
    /// The table.
    pub table: String,
}

impl TableName {
    /// The name for SQL text, both parts in backticks.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part =
            |name: &str| if name.contains(['.', '`']) { quote_identifier(name) } else { name.to_owned() };
        write!(f, "{}.{}", part(&self.schema), part(&self.table))
    }
}

/// `name` in backticks, for SQL text.
#[must_use]
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub(super) fn read(section: &Section<'_>) -> Option<Outbox> {
    let table = section.parsed("table", parse_table);
    let stream = section.parsed("stream", parse_stream);
    let subject = section.parsed("subject", |text| {
        SubjectTemplate::parse(text).map_err(|error| Fault::new(error.to_string(), error.remedy()))
    });
    let source = section.parsed("source", parse_source);
    let columns = read_columns(section);
    let retention = section.optional_duration("retention");
    Some(Outbox { table: table?, stream: stream?, subject: subject?, source, columns: columns?, retention })
}

fn read_columns(section: &Section<'_>) -> Option<Columns> {
    let column = |key: &str| section.parsed(key, parse_column);
    let headers = section.parsed("columns.headers", |text| match text {
        "" => Ok(HeadersColumn::None),
        text => parse_column(text).map(HeadersColumn::Required),
    });
    let (id, aggregate_type, aggregate_id) =
        (column("columns.id"), column("columns.aggregate_type"), column("columns.aggregate_id"));
    let (event_type, payload) = (column("columns.type"), column("columns.payload"));
    Some(Columns {
        headers: headers.unwrap_or_else(|| HeadersColumn::IfPresent("headers".to_owned())),
        content_type: column("columns.content_type"),
        partition_key: column("columns.partition_key"),
        created_at: column("columns.created_at")?,
        id: id?,
        aggregate_type: aggregate_type?,
        aggregate_id: aggregate_id?,
        event_type: event_type?,
        payload: payload?,
    })
}

/// MySQL's longest identifier, in characters.
const IDENTIFIER_LENGTH_MAX: usize = 64;

fn parse_table(text: &str) -> Result<TableName, Fault> {
    const FORM: &str = "write \"schema.table\", names with dots or backticks in backticks";
    let fault = |cause: String| Fault::new(cause, FORM);
    let mut parts = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let mut part = String::new();
        if rest.next_if_eq(&'`').is_some() {
            loop {
                match rest.next() {
                    Some('`') if rest.next_if_eq(&'`').is_some() => part.push('`'),
                    Some('`') => break,
                    Some(c) => part.push(c),
                    None => return Err(fault(format!("{text:?} has a backtick that is not closed"))),
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| *c != '.') {
                if c == '`' || c.is_whitespace() {
                    return Err(fault(format!("{text:?} holds {c:?} outside backticks")));
                }
                part.push(c);
            }
        }
        check_identifier(&part).map_err(&fault)?;
        parts.push(part);
        match rest.next() {
            None => break,
            Some('.') => {}
            Some(c) => return Err(fault(format!("{text:?} goes on with {c:?} behind a backtick"))),
        }
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, table]) => Ok(TableName { schema, table }),
        Err(parts) if parts.len() == 1 => Err(fault(format!("{text:?} names no schema"))),
        Err(_) => Err(fault(format!("{text:?} has more than a schema and a table"))),
    }
}

fn parse_column(text: &str) -> Result<String, Fault> {
    match check_identifier(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(cause) => Err(Fault::new(cause, "name a column of the table, without backticks")),
    }
}

fn check_identifier(name: &str) -> Result<(), String> {
    match name.chars().count() {
        0 => Err("a name is empty".to_owned()),
        length if length > IDENTIFIER_LENGTH_MAX => {
            Err(format!("a name has {length} characters, and MySQL allows {IDENTIFIER_LENGTH_MAX}"))
        }
        _ if name.chars().any(char::is_control) => Err("a name holds a control character".to_owned()),
        _ => Ok(()),
    }
}

/// JetStream's longest stream name, in bytes.
const STREAM_NAME_LENGTH_MAX: usize = 255;

fn parse_stream(text: &str) -> Result<String, Fault> {
    let allowed =
        |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
    if !text.is_empty() && text.len() <= STREAM_NAME_LENGTH_MAX && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is not a stream name"),
        "use letters, digits, - and _: JetStream allows no dot, wildcard, slash or white space",
    ))
}

/// `ce-source` is a URI reference: never empty, and it becomes a header value.
fn parse_source(text: &str) -> Result<String, Fault> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is not a URI reference"),
        "write for instance \"//shop/orders\" in printable ASCII without spaces, or remove it",
    ))
}

/// Letters, digits, `-` and `_`, at least one.
pub(super) fn is_plain_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names() {
        for (text, schema, table) in [
            ("shop.outbox", "shop", "outbox"),
            ("`shop`.`outbox`", "shop", "outbox"),
            ("`my.shop`.outbox", "my.shop", "outbox"),
            ("`a``b`.`c d`", "a`b", "c d"),
            ("büro.postausgang", "büro", "postausgang"),
        ] {
            let name = parse_table(text).expect(text);
            assert_eq!((name.schema.as_str(), name.table.as_str()), (schema, table));
            assert_eq!(parse_table(&name.quoted()), Ok(name.clone()));
        }
        for text in [
            "",
            "outbox",
            ".outbox",
            "shop.",
            "a.b.c",
            "`shop.outbox",
            "`shop`outbox.x",
            "sh op.outbox",
            "a`b.c",
        ] {
            assert!(parse_table(text).is_err(), "{text}");
        }
        assert!(parse_table(&format!("a.{}", "b".repeat(65))).is_err());
    }

    #[test]
    fn stream_names() {
        assert!(parse_stream("ORDERS-1_x").is_ok());
        for text in ["", "a.b", "a b", "a*", ">", "a/b", "a\\b", "a\nb", &"a".repeat(256)] {
            assert!(parse_stream(text).is_err(), "{text}");
        }
    }
}
