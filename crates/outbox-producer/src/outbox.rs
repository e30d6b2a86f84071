//! The outbox table, as the application knows it.

use crate::statement::Shape;
use crate::{Columns, Error, IdFormat, IntoEvent, Limits, NewEvent, Statement, check, name};

/// An outbox table to write events into: cheap to make, to clone and to share.
///
/// ```
/// use outbox_producer::{Columns, IdFormat, Outbox};
///
/// // As `outbox-bridge init` creates it:
/// let outbox = Outbox::new("shop.outbox")?;
/// // As Debezium's outbox event router expects it:
/// let outbox =
///     Outbox::new("shop.outboxevent")?.with_columns(Columns::debezium())?.with_id_format(IdFormat::Text);
/// # Ok::<(), outbox_producer::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Outbox {
    /// In backticks.
    table: String,
    columns: Columns,
    id_format: IdFormat,
    limits: Limits,
    #[cfg(feature = "sqlx")]
    pub(crate) verify: bool,
}

/// The table `outbox` in the connection's own schema.
impl Default for Outbox {
    fn default() -> Self {
        Self::quoted("`outbox`".to_owned())
    }
}

impl Outbox {
    /// The table `schema.table`, or `table` in the connection's own schema. Names with dots or spaces stand in
    /// backticks, as in the bridge's configuration.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Settings`](crate::ErrorKind::Settings) when no table can have this name.
    pub fn new(table: &str) -> Result<Self, Error> {
        Ok(Self::quoted(name::table(table)?))
    }

    fn quoted(table: String) -> Self {
        Self {
            table,
            columns: Columns::default(),
            id_format: IdFormat::default(),
            limits: Limits::default(),
            #[cfg(feature = "sqlx")]
            verify: true,
        }
    }

    /// Sets the names of the columns.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Settings`](crate::ErrorKind::Settings) when no column can have such a name, or one is named
    /// twice.
    pub fn with_columns(self, columns: Columns) -> Result<Self, Error> {
        columns.check()?;
        Ok(Self { columns, ..self })
    }

    /// Sets how the id column holds a UUID.
    #[must_use]
    pub fn with_id_format(self, id_format: IdFormat) -> Self {
        Self { id_format, ..self }
    }

    /// Sets what an event and a statement may measure.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The insert of one event as plain SQL, for a driver other than `sqlx`.
    ///
    /// **Run it in the transaction that writes the business rows.** Nothing but this sentence makes sure of that.
    ///
    /// ```
    /// use outbox_producer::{NewEvent, Outbox, Value};
    ///
    /// let outbox = Outbox::new("shop.outbox")?;
    /// let statement = outbox.statement(NewEvent::text("order", 7, "placed", "{}"))?;
    /// assert!(statement.sql.starts_with("INSERT INTO `shop`.`outbox` (`id`, "));
    /// assert_eq!(statement.values[2], Value::Text("7".into()));
    /// # Ok::<(), outbox_producer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the event does not fit the table or the [limits](Limits); see [`ErrorKind`](crate::ErrorKind).
    pub fn statement<E: IntoEvent>(&self, event: E) -> Result<Statement, Error> {
        self.shape().single(self.checked(event)?, &crate::trace::context())
    }

    /// The inserts of many events as plain SQL: few statements, each within the [limits](Limits), to be run in this
    /// order. Without events there is none.
    ///
    /// **Run them in the transaction that writes the business rows.**
    ///
    /// With `mysql_async`:
    ///
    /// ```no_run
    /// use mysql_async::prelude::Queryable as _;
    /// use outbox_producer::{Event, Outbox, Value};
    ///
    /// async fn place<E: Event>(
    ///     conn: &mut mysql_async::Conn,
    ///     outbox: &Outbox,
    ///     events: &[E],
    /// ) -> Result<(), Box<dyn std::error::Error>> {
    ///     let mut transaction = conn.start_transaction(Default::default()).await?;
    ///     transaction.query_drop("UPDATE shop.orders SET status = 'placed' WHERE id = 7").await?;
    ///     for statement in outbox.statements(events)? {
    ///         let values: Vec<_> = statement
    ///             .values
    ///             .into_iter()
    ///             .map(|value| match value {
    ///                 Value::Null => mysql_async::Value::NULL,
    ///                 Value::Text(text) => text.into(),
    ///                 Value::Bytes(bytes) => bytes.into(),
    ///             })
    ///             .collect();
    ///         transaction.exec_drop(statement.sql, values).await?;
    ///     }
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// When an event does not fit the table or the [limits](Limits); see [`ErrorKind`](crate::ErrorKind).
    pub fn statements<I>(&self, events: I) -> Result<Vec<Statement>, Error>
    where
        I: IntoIterator,
        I::Item: IntoEvent,
    {
        let events = events.into_iter().map(|event| self.checked(event)).collect::<Result<_, Error>>()?;
        self.shape().statements(events, &crate::trace::context())
    }

    fn checked<E: IntoEvent>(&self, event: E) -> Result<NewEvent, Error> {
        let event = event.into_event()?;
        check::event(&event, &self.columns, &self.limits)?;
        Ok(event)
    }

    fn shape(&self) -> Shape<'_> {
        Shape { table: &self.table, columns: &self.columns, id_format: self.id_format, limits: &self.limits }
    }

    /// The table's name in backticks.
    #[cfg(feature = "sqlx")]
    pub(crate) fn table(&self) -> &str {
        &self.table
    }
}
