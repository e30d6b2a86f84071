//! How an ordered consumer is divided among its instances.
//!
//! The subject names the partition, so that each has a durable consumer of its own and every instance is sent only what it
//! is to handle.

use std::num::NonZeroU16;

/// What stands for the number in a subject.
const PLACEHOLDER: &str = "{partition}";

/// One partition, or all that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Partition {
    /// The consumer is not divided.
    All,
    Number(u16),
}

impl Partition {
    pub(crate) fn token(self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Number(number) => format!("p{number}"),
        }
    }

    pub(crate) fn from_token(token: &str) -> Option<Self> {
        match token {
            "all" => Some(Self::All),
            _ => token.strip_prefix('p')?.parse().ok().map(Self::Number),
        }
    }

    /// The name of the partition's part of something.
    pub(crate) fn of(self, name: &str) -> String {
        match self {
            Self::All => name.to_owned(),
            Self::Number(number) => format!("{name}-p{number}"),
        }
    }
}

/// The partitions of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partitions {
    /// How many there are.
    pub(crate) count: u16,
    /// The subjects, each with the placeholder as one of its tokens.
    pub(crate) subjects: Vec<String>,
}

impl Partitions {
    /// The subjects of one partition.
    pub(crate) fn subjects_of(&self, number: u16) -> Vec<String> {
        self.subjects.iter().map(|subject| subject.replace(PLACEHOLDER, &number.to_string())).collect()
    }

    /// The subjects that would hold messages if the producer had more partitions.
    pub(crate) fn subjects_beyond(&self) -> impl Iterator<Item = String> {
        // Among more partitions than ours many keys belong to these.
        let numbers = self.count..self.count.saturating_mul(2);
        numbers.flat_map(|number| self.subjects_of(number))
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.count == 0 {
            problems.push("there must be at least one partition".to_owned());
        }
        if self.subjects.is_empty() {
            problems.push("partitions need the subjects that name them".to_owned());
        }
        for subject in &self.subjects {
            if subject.split('.').filter(|token| *token == PLACEHOLDER).count() != 1
                || subject.matches('{').count() != 1
            {
                problems
                    .push(format!("the subject {subject:?} must have {PLACEHOLDER} as one of its tokens"));
            }
        }
        problems
    }

    /// All partitions of a consumer with these settings.
    pub(crate) fn list(partitions: Option<&Self>) -> Vec<Partition> {
        let count = partitions.and_then(|partitions| NonZeroU16::new(partitions.count));
        count.map_or_else(|| vec![Partition::All], |count| (0..count.get()).map(Partition::Number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(count: u16, subjects: &[&str]) -> Partitions {
        Partitions { count, subjects: subjects.iter().map(|&subject| subject.to_owned()).collect() }
    }

    #[test]
    fn each_has_its_subjects() {
        let two = partitions(2, &["orders.{partition}.>", "bills.{partition}"]);
        assert_eq!(two.problems(), Vec::<String>::new());
        assert_eq!(two.subjects_of(1), ["orders.1.>", "bills.1"]);
        let beyond: Vec<_> = two.subjects_beyond().collect();
        assert_eq!(beyond, ["orders.2.>", "bills.2", "orders.3.>", "bills.3"]);
        assert_eq!(Partitions::list(Some(&two)), [Partition::Number(0), Partition::Number(1)]);
        assert_eq!(Partitions::list(None), [Partition::All]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(partitions(0, &[]).problems().len(), 2);
        for subject in ["orders.>", "orders.p{partition}", "{partition}.{partition}", "{partition}.{x}"] {
            assert_eq!(partitions(4, &[subject]).problems().len(), 1, "{subject}");
        }
    }

    #[test]
    fn tokens_come_back() {
        for partition in [Partition::All, Partition::Number(0), Partition::Number(u16::MAX)] {
            assert_eq!(Partition::from_token(&partition.token()), Some(partition));
        }
        assert_eq!(Partition::from_token("p"), None);
    }
}
