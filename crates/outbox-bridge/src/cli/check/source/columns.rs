//! Whether a table's definition suits its roles. Pure.

use super::table::subject;
use crate::cli::check::{Finding, Severity};
use crate::config::{Columns, HeadersColumn, Outbox, TableName};
use crate::decode::ColumnDefinition;
use crate::exit::report;

/// A table as `information_schema` describes it.
#[derive(Debug, Clone)]
pub(super) struct Described {
    /// As the server spells it.
    pub(super) name: TableName,
    pub(super) is_view: bool,
    pub(super) engine: String,
    /// Whether a rollback takes rows back.
    pub(super) transactional: bool,
    pub(super) columns: Vec<Column>,
    /// The columns that are unique by themselves.
    pub(super) unique: Vec<String>,
}

/// A column as `information_schema` describes it.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) definition: ColumnDefinition,
    pub(super) nullable: bool,
    /// `CHARACTER_OCTET_LENGTH`.
    pub(super) bytes_max: Option<u64>,
}

/// How large a table's payloads can get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Payload {
    pub(in crate::cli) table: String,
    pub(in crate::cli) stream: String,
    /// The column with its type: `payload (json)`.
    pub(in crate::cli) column: String,
    pub(in crate::cli) bytes_max: u64,
}

/// A table whose ids are numbers, which other tables may have as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Numbered {
    pub(in crate::cli) table: String,
    pub(in crate::cli) stream: String,
    /// The column with its type: `id (bigint)`.
    pub(in crate::cli) column: String,
}

impl Payload {
    /// No value is larger than the packet that it comes in.
    pub(super) fn capped(self, packet_bytes_max: Option<u64>) -> Self {
        Self { bytes_max: packet_bytes_max.map_or(self.bytes_max, |max| self.bytes_max.min(max)), ..self }
    }
}

/// What a column is to the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Id,
    /// What becomes a header or a part of the subject, and must not be NULL.
    Text,
    /// The same, and NULL means that it is not set.
    OptionalText,
    Payload,
    Headers,
}

/// Which key names which column as what. The default column of headers is left out: it may be missing.
fn mapped(columns: &Columns) -> Vec<(&'static str, &str, Role)> {
    let mut list = vec![
        ("id", columns.id.as_str(), Role::Id),
        ("aggregate_type", &columns.aggregate_type, Role::Text),
        ("aggregate_id", &columns.aggregate_id, Role::Text),
        ("type", &columns.event_type, Role::Text),
        ("payload", &columns.payload, Role::Payload),
    ];
    if let HeadersColumn::Required(column) = &columns.headers {
        list.push(("headers", column, Role::Headers));
    }
    list.extend(
        columns.content_type.iter().map(|column| ("content_type", column.as_str(), Role::OptionalText)),
    );
    list.extend(
        columns.partition_key.iter().map(|column| ("partition_key", column.as_str(), Role::OptionalText)),
    );
    list
}

/// Judges a table as the outbox that the configuration says it is.
pub(super) fn assess(outbox: &Outbox, table: &Described) -> Vec<Finding> {
    let subject = subject(&outbox.table);
    if table.is_view {
        let remedy = "name the table behind it in [[outbox]]: only tables are in the log";
        return vec![Finding::new(Severity::Error, subject, "is a view", remedy)];
    }
    let mut findings = Vec::new();
    let mut find = |severity, problem: String, remedy: String| {
        findings.push(Finding::new(severity, &subject, problem, remedy));
    };
    if table.name != outbox.table {
        let problem = format!("is written {} in the log, and names are compared exactly", table.name);
        find(Severity::Error, problem, format!("write table = \"{}\" in [[outbox]]", table.name));
    }
    let blackhole = table.engine.eq_ignore_ascii_case("BLACKHOLE");
    if !table.transactional && !blackhole {
        find(
            Severity::Warning,
            format!(
                "has engine {}, which takes nothing back: rolled-back inserts stay, and are published",
                table.engine
            ),
            format!("ALTER TABLE {} ENGINE = InnoDB", outbox.table.quoted()),
        );
    }
    let names: Vec<&str> = table.columns.iter().map(|column| column.definition.name.as_str()).collect();
    let mut roles = mapped(&outbox.columns);
    if let HeadersColumn::IfPresent(name) = &outbox.columns.headers
        && names.iter().any(|known| known.eq_ignore_ascii_case(name))
    {
        roles.push(("headers", name, Role::Headers));
    }
    for (key, name, role) in roles {
        let known = |column: &&Column| column.definition.name.eq_ignore_ascii_case(name);
        let Some(column) = table.columns.iter().find(known) else {
            find(
                Severity::Error,
                format!("has no column {name}, which is its {key} (columns.{key} of the [[outbox]])"),
                format!("add it, or name another in [outbox.columns]; there are: {}", names.join(", ")),
            );
            continue;
        };
        if let Some((severity, problem, remedy)) = misfit(column, role) {
            find(severity, format!("column {name} ({key}): {problem}"), remedy);
        }
        if column.nullable && matches!(role, Role::Id | Role::Text) {
            find(
                Severity::Warning,
                format!("column {name} ({key}) may be NULL, and a row in which it is stops the bridge"),
                "declare it NOT NULL".to_owned(),
            );
        }
        let unique = || table.unique.iter().any(|unique| unique.eq_ignore_ascii_case(name));
        if role == Role::Id && !blackhole && !unique() {
            find(
                Severity::Warning,
                format!(
                    "column {name} ({key}) is not unique: of two events with one id, consumers see only the first"
                ),
                format!("ALTER TABLE {} ADD UNIQUE ({})", outbox.table.quoted(), quoted(name)),
            );
        }
    }
    if findings.is_empty() {
        findings.push(Finding::note(subject, format!("fits; engine {}", table.engine)));
    }
    findings
}

fn quoted(name: &str) -> String {
    crate::config::quote_identifier(name)
}

/// What the types are to the roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Becomes text as it is: strings, numbers, dates.
    Text,
    Json,
    /// 16 bytes, which are a UUID.
    Uuid,
    /// Text only if the bytes happen to be UTF-8.
    Bytes,
    /// Never text.
    Opaque,
    Unknown,
}

fn kind(definition: &ColumnDefinition) -> Kind {
    let text = definition.column_type.to_ascii_lowercase();
    let base = text.split(['(', ' ']).next().unwrap_or_default();
    match base {
        "binary" if text.starts_with("binary(16)") => Kind::Uuid,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes,
        "json" => Kind::Json,
        "bit" | "vector" | "geometry" | "point" | "linestring" | "polygon" | "multipoint"
        | "multilinestring" | "multipolygon" | "geometrycollection" | "geomcollection" => Kind::Opaque,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" | "tinyint"
        | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "float" | "double" | "real"
        | "decimal" | "numeric" | "year" | "date" | "time" | "datetime" | "timestamp" | "uuid" | "inet4"
        | "inet6" => Kind::Text,
        _ => Kind::Unknown,
    }
}

/// What is wrong with a column in its role, with the remedy.
fn misfit(column: &Column, role: Role) -> Option<(Severity, String, String)> {
    let definition = &column.definition;
    let spelled = &definition.column_type;
    if let Err(error) = definition.parse() {
        let remedy = "give it a type or character set that the bridge knows, for instance utf8mb4".to_owned();
        return Some((Severity::Error, report(&error), remedy));
    }
    let use_text = || "use a text type, such as VARCHAR(255)".to_owned();
    match (kind(definition), role) {
        (Kind::Unknown, _) => {
            Some((Severity::Error, format!("type {spelled} is not supported"), "use another type".to_owned()))
        }
        (Kind::Bytes, Role::Text | Role::OptionalText) => Some((
            Severity::Warning,
            format!("type {spelled} holds bytes, and a value that is no UTF-8 text stops the bridge"),
            use_text(),
        )),
        (Kind::Opaque, Role::Text | Role::OptionalText) => {
            Some((Severity::Error, format!("type {spelled} holds no text"), use_text()))
        }
        (Kind::Opaque, Role::Id) => Some((
            Severity::Warning,
            format!("type {spelled} is a strange id: it is published as hexadecimal digits"),
            "use BINARY(16) with a UUID, or a text".to_owned(),
        )),
        (Kind::Opaque, Role::Payload) => Some((
            Severity::Warning,
            format!("type {spelled} is published as the server stores it inside"),
            "use JSON, a TEXT or a BLOB type".to_owned(),
        )),
        (Kind::Uuid | Kind::Opaque, Role::Headers) => {
            Some((Severity::Error, format!("type {spelled} holds no JSON object"), "use JSON".to_owned()))
        }
        _ => None,
    }
}

/// How large a value of a type without `CHARACTER_OCTET_LENGTH` can get: JSON is limited by its packet alone.
const JSON_BYTES_MAX: u64 = 1 << 30;

/// How large the payloads of `outbox` can get, if its table has the column.
pub(super) fn payload(outbox: &Outbox, table: &Described) -> Option<Payload> {
    let name = &outbox.columns.payload;
    let column = table.columns.iter().find(|column| column.definition.name.eq_ignore_ascii_case(name))?;
    let unlimited = || (kind(&column.definition) == Kind::Json).then_some(JSON_BYTES_MAX);
    Some(Payload {
        table: outbox.table.to_string(),
        stream: outbox.stream.clone(),
        column: format!("{name} ({})", column.definition.column_type),
        bytes_max: column.bytes_max.or_else(unlimited)?,
    })
}

/// What stands for the ids of `outbox`, if they are numbers.
pub(super) fn numbered(outbox: &Outbox, table: &Described) -> Option<Numbered> {
    let name = &outbox.columns.id;
    let column = table.columns.iter().find(|column| column.definition.name.eq_ignore_ascii_case(name))?;
    let spelled = &column.definition.column_type;
    let base = spelled.split(['(', ' ']).next().unwrap_or_default().to_ascii_lowercase();
    (base.ends_with("int") || base == "decimal").then(|| Numbered {
        table: outbox.table.to_string(),
        stream: outbox.stream.clone(),
        column: format!("{name} ({spelled})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::tests::config;

    fn column(name: &str, column_type: &str) -> Column {
        let text = column_type.contains("char") || column_type.contains("text");
        Column {
            definition: ColumnDefinition {
                name: name.to_owned(),
                column_type: column_type.to_owned(),
                character_set: text.then(|| "utf8mb4".to_owned()),
            },
            nullable: false,
            bytes_max: None,
        }
    }

    /// What `init` creates.
    fn table() -> Described {
        Described {
            name: TableName { schema: "shop".to_owned(), table: "outbox".to_owned() },
            is_view: false,
            engine: "InnoDB".to_owned(),
            transactional: true,
            columns: vec![
                column("seq", "bigint unsigned"),
                column("id", "binary(16)"),
                column("aggregate_type", "varchar(64)"),
                column("aggregate_id", "varchar(255)"),
                column("type", "varchar(128)"),
                column("payload", "json"),
                column("headers", "json"),
            ],
            unique: vec!["seq".to_owned(), "id".to_owned()],
        }
    }

    fn change(name: &str, change: impl Fn(&mut Column)) -> Described {
        let mut table = table();
        table.columns.iter_mut().filter(|column| column.definition.name == name).for_each(change);
        table
    }

    fn retype(name: &str, column_type: &str) -> Described {
        change(name, |changed| *changed = column(name, column_type))
    }

    fn findings(table: &Described, more: &str) -> Vec<Finding> {
        assess(&config(more).outboxes[0], table)
    }

    #[test]
    fn what_init_creates_fits() {
        for engine in ["InnoDB", "BLACKHOLE"] {
            let engine = engine.to_owned();
            let transactional = engine == "InnoDB";
            let table = Described { engine, transactional, ..table() };
            let [note] = findings(&table, "").try_into().expect("one finding");
            assert_eq!(note.severity, Severity::Note, "{note}");
        }
    }

    #[test]
    fn misfits() {
        let without = |name: &str| {
            let mut table = table();
            table.columns.retain(|column| column.definition.name != name);
            table
        };
        let other = TableName { schema: "shop".to_owned(), table: "Outbox".to_owned() };
        let plain = |columns: &str| format!("[outbox.columns]\n{columns}\n");
        use Severity::{Error, Warning};
        for (table, more, severity, words) in [
            (Described { is_view: true, ..table() }, String::new(), Error, "is a view"),
            (Described { name: other, ..table() }, String::new(), Error, "shop.Outbox in the log"),
            (
                Described { transactional: false, engine: "MyISAM".to_owned(), ..table() },
                String::new(),
                Warning,
                "MyISAM",
            ),
            (without("payload"), String::new(), Error, "has no column payload"),
            (without("headers"), plain("headers = \"headers\""), Error, "has no column headers"),
            (
                table(),
                plain("partition_key = \"tenant\""),
                Error,
                "no column tenant, which is its partition_key",
            ),
            (
                change("id", |column| column.nullable = true),
                String::new(),
                Warning,
                "column id (id) may be NULL",
            ),
            (change("type", |column| column.nullable = true), String::new(), Warning, "may be NULL"),
            (Described { unique: vec!["seq".to_owned()], ..table() }, String::new(), Warning, "not unique"),
            (retype("aggregate_id", "varbinary(20)"), String::new(), Warning, "no UTF-8"),
            (retype("aggregate_id", "point"), String::new(), Error, "holds no text"),
            (retype("id", "bit(64)"), String::new(), Warning, "strange id"),
            (retype("payload", "geometry"), String::new(), Warning, "as the server stores it"),
            (retype("headers", "binary(16)"), String::new(), Error, "no JSON object"),
            (retype("aggregate_type", "xmltype"), String::new(), Error, "not supported"),
            (
                change("type", |column| column.definition.character_set = Some("klingon".to_owned())),
                String::new(),
                Error,
                "is not understood",
            ),
        ] {
            let [finding] = findings(&table, &more).try_into().expect("one finding");
            assert_eq!(finding.severity, severity, "{finding}");
            assert!(finding.problem.contains(words) && !finding.remedy.is_empty(), "{finding}");
        }
    }

    #[test]
    fn types_that_suit() {
        for (name, column_type) in [
            ("id", "char(36)"),
            ("id", "bigint"),
            ("id", "uuid"),
            ("aggregate_id", "binary(16)"),
            ("aggregate_id", "int unsigned"),
            ("type", "enum('a','b')"),
            ("payload", "longblob"),
            ("payload", "mediumtext"),
            ("headers", "longtext"),
        ] {
            let [note] = findings(&retype(name, column_type), "").try_into().expect("one finding");
            assert_eq!(note.severity, Severity::Note, "{note}");
        }
    }

    #[test]
    fn how_large_a_payload_can_get() {
        let config = config("");
        let of = |table: &Described| payload(&config.outboxes[0], table).map(|payload| payload.bytes_max);
        assert_eq!(of(&table()), Some(1 << 30));
        assert_eq!(of(&change("payload", |column| column.bytes_max = Some(65_535))), Some(65_535));
        assert_eq!(of(&retype("payload", "int")), None);
        let capped = payload(&config.outboxes[0], &table()).expect("a payload").capped(Some(1 << 26));
        assert_eq!((capped.bytes_max, capped.column.as_str()), (1 << 26, "payload (json)"));
    }
}
