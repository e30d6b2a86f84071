//! Events as an application would write them.

use mysql_async::prelude::Queryable;
use rand::Rng;
use uuid::Uuid;

/// A row for an outbox table of the standard layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event id.
    pub id: Uuid,
    /// The aggregate's type.
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// The event type.
    pub event_type: String,
    /// JSON text.
    pub payload: String,
    /// JSON text.
    pub headers: Option<String>,
}

/// The columns that [`Event::values`] fills.
pub(crate) const COLUMNS: &str = "id, aggregate_type, aggregate_id, type, payload, headers";

impl Event {
    /// A plain event that can be told from others by its number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self {
            id: Uuid::new_v4(),
            aggregate_type: "order".to_owned(),
            aggregate_id: format!("order-{}", number % 10),
            event_type: "placed".to_owned(),
            payload: format!("{{\"n\": {number}}}"),
            headers: None,
        }
    }

    /// The same with this payload.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<String>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The same with a text of up to `length` letters in its payload.
    #[must_use]
    pub fn filled(self, number: u64, length: usize, random: &mut impl Rng) -> Self {
        let length = random.random_range(0..=length);
        let filler: String = (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
        self.payload(format!("{{\"n\": {number}, \"filler\": \"{filler}\"}}"))
    }

    /// The same with these headers.
    #[must_use]
    pub fn headers(mut self, headers: impl Into<String>) -> Self {
        self.headers = Some(headers.into());
        self
    }

    /// The row for SQL text: `(X'…', '…', …)`, in the order of [`insert_sql`](Self::insert_sql)'s columns.
    #[must_use]
    pub fn values(&self) -> String {
        format!(
            "(X'{}', {}, {}, {}, {}, {})",
            self.id.simple(),
            quoted(&self.aggregate_type),
            quoted(&self.aggregate_id),
            quoted(&self.event_type),
            quoted(&self.payload),
            self.headers.as_deref().map_or_else(|| "NULL".to_owned(), quoted),
        )
    }

    /// One `INSERT` of several events.
    #[must_use]
    pub fn insert_sql<'a>(table: &str, events: impl IntoIterator<Item = &'a Event>) -> String {
        let rows: Vec<String> = events.into_iter().map(Event::values).collect();
        format!("INSERT INTO {table} ({COLUMNS}) VALUES {}", rows.join(", "))
    }

    /// Inserts this event.
    ///
    /// # Errors
    ///
    /// What the server says.
    pub async fn insert(&self, to: &mut impl Queryable, table: &str) -> Result<(), mysql_async::Error> {
        to.query_drop(Self::insert_sql(table, [self])).await
    }
}

/// A text as an SQL literal.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for character in text.chars() {
        match character {
            '\'' | '\\' => literal.extend(['\\', character]),
            '\0' => literal.push_str("\\0"),
            _ => literal.push(character),
        }
    }
    literal.push('\'');
    literal
}
