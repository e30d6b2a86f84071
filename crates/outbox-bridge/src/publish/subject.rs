//! Subjects that a stream listens to, with the wildcards of
//! <https://docs.nats.io/nats-concepts/subjects>.

/// Whether `subject`, of a stream, matches everything that `filter` (a subject, or a template's filter: no `>`) matches.
pub(crate) fn covers(subject: &str, filter: &str) -> bool {
    let mut filter = filter.split('.');
    for token in subject.split('.') {
        match (token, filter.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(wanted)) if token == wanted => {}
            _ => return false,
        }
    }
    filter.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering() {
        for (subject, filter, expected) in [
            ("orders.>", "orders.*", true),
            ("orders.>", "orders", false),
            (">", "orders.*", true),
            ("orders.*", "orders.*", true),
            ("orders.*", "orders.a", true),
            ("orders.a", "orders.*", false),
            ("orders.*", "orders.*.*", false),
            ("orders.*.*", "orders.*", false),
        ] {
            assert_eq!(covers(subject, filter), expected, "{subject} {filter}");
        }
    }
}
