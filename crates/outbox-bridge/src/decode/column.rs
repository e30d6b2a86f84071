//! Columns as they are needed to decode rows: a layout from the log, and what it takes to render a value.

use super::Text;
use super::charset::Charset;
use super::layout::Layout;

/// A column of an outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub(crate) name: String,
    pub(crate) nullable: bool,
    pub(crate) column_type: ColumnType,
}

/// Everything needed to decode the values of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    pub(crate) layout: Layout,
    pub(crate) rendering: Rendering,
}

/// What the layout alone does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rendering {
    /// The layout says it all.
    Plain,
    /// `zerofill` is the width to fill to, 0 for none.
    Integer {
        unsigned: bool,
        zerofill: u8,
    },
    /// `decimals` as in `DOUBLE(10,2)`.
    Real {
        decimals: Option<u8>,
    },
    Binary,
    Text(Charset),
    /// The values of an `ENUM` or `SET`.
    Members(Vec<Text>),
    Uuid,
    Inet4,
    Inet6,
    /// Neither the log nor a definition says what is named here.
    Unknown(&'static str),
}

impl Column {
    /// The column's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it can be `NULL`.
    #[must_use]
    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    /// Its type.
    #[must_use]
    pub fn column_type(&self) -> &ColumnType {
        &self.column_type
    }
}

impl ColumnType {
    /// How its values lie in a row image.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether enough is known to render its values; if not, only a row that is asked for this column is an error.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !matches!(self.rendering, Rendering::Unknown(_))
    }

    /// Whether its values are text or JSON rather than bytes.
    #[must_use]
    pub fn is_text(&self) -> bool {
        !matches!(self.rendering, Rendering::Binary)
            && !matches!(self.layout, Layout::Bit { .. } | Layout::Geometry { .. } | Layout::Vector { .. })
    }

    /// Whether it is MySQL's `JSON`. MariaDB's is text.
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(self.layout, Layout::Json { .. })
    }

    pub(crate) fn rendering(&self) -> &Rendering {
        &self.rendering
    }
}
