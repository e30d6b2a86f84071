//! The outbox table and the least grants, as SQL.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::Dialect;
use crate::config::{Columns, Config, HeadersColumn, Outbox, quote_identifier};

/// Every schema and every outbox, as whoever owns them creates them.
pub(super) fn tables(config: &Config) -> String {
    let schemas: BTreeSet<_> = config.outboxes.iter().map(|outbox| &outbox.table.schema).collect();
    let schemas = schemas
        .into_iter()
        .map(|name| format!("CREATE DATABASE IF NOT EXISTS {};\n", quote_identifier(name)));
    let tables: Vec<String> = config.outboxes.iter().map(table).collect();
    schemas.collect::<String>() + &tables.join("\n")
}

pub(super) fn table(outbox: &Outbox) -> String {
    let columns = columns(&outbox.columns);
    let mut definitions: Vec<(String, String)> = Vec::new();
    let own = |name: &str| columns.iter().all(|(column, _)| !column.eq_ignore_ascii_case(name));
    if own("seq") {
        // Rows stand in the order of their inserts, and a random id does not scatter the primary key.
        definitions
            .push(("seq".to_owned(), "BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY".to_owned()));
    }
    let has_created_at = own("created_at");
    for (column, kind) in columns {
        // One column may serve two purposes; the first decides its type.
        if !definitions.iter().any(|(known, _)| known.eq_ignore_ascii_case(&column)) {
            definitions.push((column, kind.to_owned()));
        }
    }
    if has_created_at {
        let kind = "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)".to_owned();
        definitions.push(("created_at".to_owned(), kind));
    }
    let width =
        definitions.iter().map(|(column, _)| quote_identifier(column).chars().count()).max().unwrap_or(0);
    let lines: Vec<String> = definitions
        .iter()
        .map(|(column, kind)| format!("  {:width$} {kind}", quote_identifier(column)))
        .collect();
    format!(
        "CREATE TABLE {} (\n{}\n) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;\n",
        outbox.table.quoted(),
        lines.join(",\n")
    )
}

/// Names and types of the columns that the bridge reads, in the order of the table; both dialects know the types
/// (MariaDB's JSON is LONGTEXT with a check).
fn columns(columns: &Columns) -> Vec<(String, &'static str)> {
    let mut list = vec![
        (columns.id.clone(), "BINARY(16)   NOT NULL UNIQUE"),
        (columns.aggregate_type.clone(), "VARCHAR(64)  NOT NULL"),
        (columns.aggregate_id.clone(), "VARCHAR(255) NOT NULL"),
        (columns.event_type.clone(), "VARCHAR(128) NOT NULL"),
        (columns.payload.clone(), "JSON         NOT NULL"),
    ];
    match &columns.headers {
        HeadersColumn::IfPresent(name) | HeadersColumn::Required(name) => {
            list.push((name.clone(), "JSON         NULL"));
        }
        HeadersColumn::None => {}
    }
    list.extend(columns.content_type.clone().map(|name| (name, "VARCHAR(255) NULL")));
    list.extend(columns.partition_key.clone().map(|name| (name, "VARCHAR(255) NULL")));
    list
}

/// The user and the least that it needs.
pub(super) fn grants(config: &Config, dialect: Dialect) -> String {
    let user = format!("{}@'%'", quote_text(&config.source.user));
    let status = match dialect {
        Dialect::Mysql => "REPLICATION CLIENT",
        Dialect::Mariadb => "BINLOG MONITOR",
    };
    let mut text = format!(
        "CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '<password>';\n\
         GRANT REPLICATION SLAVE, {status} ON *.* TO {user};\n"
    );
    for outbox in &config.outboxes {
        // Writing to a string cannot fail.
        let rights = if outbox.retention.is_some() { "SELECT, DELETE" } else { "SELECT" };
        writeln!(text, "GRANT {rights} ON {} TO {user};", outbox.table.quoted()).unwrap_or_default();
    }
    text
}

/// `text` as a string literal, as the default SQL mode reads it.
fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    #[test]
    fn the_table_of_the_design() {
        let text = tables(&config(""));
        let expected = "\
CREATE DATABASE IF NOT EXISTS `shop`;
CREATE TABLE `shop`.`outbox` (
  `seq`            BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  `id`             BINARY(16)   NOT NULL UNIQUE,
  `aggregate_type` VARCHAR(64)  NOT NULL,
  `aggregate_id`   VARCHAR(255) NOT NULL,
  `type`           VARCHAR(128) NOT NULL,
  `payload`        JSON         NOT NULL,
  `headers`        JSON         NULL,
  `created_at`     TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
";
        assert_eq!(text, expected);
    }

    #[test]
    fn mapped_names_and_further_columns() {
        let config = config(
            "[outbox.columns]\nid = \"seq\"\naggregate_type = \"kind\"\npartition_key = \"aggregate_id\"\n\
             content_type = \"media`type\"\nheaders = \"\"\n",
        );
        let text = tables(&config);
        assert!(!text.contains("AUTO_INCREMENT") && !text.contains("`headers`"), "{text}");
        assert!(text.contains("`media``type`") && text.contains("`kind`"), "{text}");
        assert_eq!(text.matches("`aggregate_id`").count(), 1, "{text}");
    }

    #[test]
    fn least_grants() {
        let text = grants(&config(""), Dialect::Mysql);
        assert!(
            text.contains("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'bridge'@'%';"),
            "{text}"
        );
        assert!(text.contains("GRANT SELECT ON `shop`.`outbox` TO 'bridge'@'%';"), "{text}");
        assert!(grants(&config(""), Dialect::Mariadb).contains("BINLOG MONITOR"));
        let text = grants(&config("retention = \"7d\"\n"), Dialect::Mysql);
        assert!(text.contains("GRANT SELECT, DELETE ON `shop`.`outbox` TO 'bridge'@'%';"), "{text}");
    }
}
