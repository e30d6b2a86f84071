//! The bridge's configuration, as tests put it together.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// A configuration file to be.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    keys: BTreeMap<String, Value>,
    outboxes: Vec<BTreeMap<String, Value>>,
}

impl Settings {
    /// Sets a key outside `[[outbox]]`, by its dotted name.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    /// Takes a key out again.
    #[must_use]
    pub fn unset(mut self, key: &str) -> Self {
        self.keys.remove(key);
        self
    }

    /// A key that was set.
    #[must_use]
    pub fn get(&self, key: &str) -> Value {
        self.keys.get(key).cloned().unwrap_or_default()
    }

    /// Adds an `[[outbox]]` with these keys.
    #[must_use]
    pub fn outbox(mut self, keys: BTreeMap<String, Value>) -> Self {
        self.outboxes.push(keys);
        self
    }

    /// As TOML: JSON's texts, numbers, booleans and arrays of them are TOML's as well.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut write = |keys: &BTreeMap<String, Value>, head: &str| {
            text.push_str(head);
            for (key, value) in keys {
                // Writing to a text cannot fail.
                writeln!(text, "{key} = {value}").unwrap_or_default();
            }
        };
        write(&self.keys, "");
        for outbox in &self.outboxes {
            write(outbox, "\n[[outbox]]\n");
        }
        text
    }
}
