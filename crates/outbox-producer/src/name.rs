//! Names of tables and columns, and how they stand in SQL text.

use crate::{Error, ErrorKind};

/// The longest name that MySQL and MariaDB know.
const CHARS_MAX: usize = 64;

/// `name` in backticks; no name can end them.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Refuses what no server takes as a name.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    let cause = if name.is_empty() {
        "is empty"
    } else if name.chars().count() > CHARS_MAX {
        "is longer than 64 characters"
    } else if name.contains('\0') {
        "holds a NUL character"
    } else if name.ends_with(' ') {
        "ends with a space"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Settings, format!("the name {name:?} of a table or column {cause}")))
}

/// The quoted form of `table` or `schema.table`; names with dots or white space stand in backticks, as in the
/// bridge's configuration.
pub(crate) fn table(text: &str) -> Result<String, Error> {
    let fault = |cause: &str| {
        let advice = "write \"table\" or \"schema.table\", and names with dots or spaces in backticks";
        Error::new(ErrorKind::Settings, format!("the table's name {text:?} {cause}; {advice}"))
    };
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
                    None => return Err(fault("has a backtick that is not closed")),
                }
            }
        } else {
            while let Some(c) = rest.next_if(|c| *c != '.') {
                if c == '`' || c.is_whitespace() {
                    return Err(fault("holds a backtick or white space outside backticks"));
                }
                part.push(c);
            }
        }
        check(&part)?;
        parts.push(quoted(&part));
        match rest.next() {
            None => break,
            Some('.') if parts.len() == 1 => {}
            Some(_) => return Err(fault("is more than a schema and a table")),
        }
    }
    Ok(parts.join("."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tables() {
        for (text, expected) in [
            ("outbox", "`outbox`"),
            ("shop.outbox", "`shop`.`outbox`"),
            ("`my.shop`.outbox", "`my.shop`.`outbox`"),
            ("`a``b`.`c d`", "`a``b`.`c d`"),
            ("outbox;DROP", "`outbox;DROP`"),
        ] {
            assert_eq!(table(text).expect(text), expected);
        }
        for text in ["", ".", "shop.", ".outbox", "a.b.c", "`shop.outbox", "a b", "a`b", "``", "`a`b", "a\0"]
        {
            assert_eq!(table(text).expect_err(text).kind(), ErrorKind::Settings);
        }
        assert!(table(&"a".repeat(65)).is_err());
    }

    proptest! {
        #[test]
        fn no_name_ends_its_backticks(name in ".*") {
            let quoted = quoted(&name);
            let inner = quoted.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap();
            prop_assert!(!inner.replace("``", "").contains('`'));
        }

        #[test]
        fn what_is_quoted_is_read_again(schema in "[^\\x00 ]{1,20}", name in "[^\\x00 ]{1,20}") {
            let text = format!("{}.{}", quoted(&schema), quoted(&name));
            prop_assert_eq!(table(&text).unwrap(), text);
        }
    }
}
