//! Statements in the text protocol, for the little that has to be asked: settings, positions, definitions.
//!
//! Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html>

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::error::{ConnectionError, ConnectionErrorKind};
use super::fields::Cursor;
use super::packet::{Channel, PACKET_BYTES_MAX};

/// How large an answer may be, over all its rows.
pub(super) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// As many columns as a table can have.
const COLUMNS_MAX: u64 = 4096;

const COM_QUERY: u8 = 0x03;

/// A row of a result. `Debug` shows the columns' names and no values.
#[derive(Clone)]
pub struct Row {
    names: Arc<[String]>,
    values: Vec<Option<Bytes>>,
}

impl Row {
    /// A column's value as text; `None` if it is NULL or not UTF-8, or there is no such column. Case does not matter
    /// in names, as MySQL has `information_schema` in capitals and MariaDB partly in small letters.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.bytes(name)?).ok()
    }

    /// A column's value as the server sent it; `None` if it is NULL or there is no such column.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let index = self.names.iter().position(|column| column.eq_ignore_ascii_case(name))?;
        self.values.get(index)?.as_deref()
    }

    /// The value of the column with this number, counted from 0, as text.
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&str> {
        std::str::from_utf8(self.values.get(index)?.as_deref()?).ok()
    }

    /// The value of the column with this number as the server sent it, sharing its memory; `None` if it is NULL.
    pub(crate) fn shared(&self, index: usize) -> Option<Bytes> {
        self.values.get(index)?.clone()
    }

    /// The columns' names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn parse(names: &Arc<[String]>, packet: &Bytes) -> Option<Self> {
        let mut cursor = Cursor::new(packet);
        let mut values = Vec::with_capacity(names.len());
        for _ in 0..names.len() {
            values.push(if cursor.peek()? == NULL {
                cursor.u8()?;
                None
            } else {
                Some(packet.slice_ref(cursor.counted()?))
            });
        }
        cursor.is_empty().then(|| Self { names: Arc::clone(names), values })
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Row").field("names", &self.names).finish_non_exhaustive()
    }
}

const NULL: u8 = 0xFB;

/// A text as a literal in a statement. It relies on the SQL mode that a [`Connection`](super::Connection) sets.
#[must_use]
pub fn quote_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for character in text.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\0' => quoted.push_str("\\0"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// The name of a schema, table or column in a statement.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Sends a statement and reads its whole answer. On any error but one that the server reported, the channel is left
/// in mid-answer.
pub(super) async fn query<S: AsyncRead + AsyncWrite + Unpin>(
    channel: &mut Channel<S>,
    sql: &str,
    ends_with_ok: bool,
) -> Result<Vec<Row>, ConnectionError> {
    let mut answer = Answer { channel, bytes: 0 };
    let Some(names) = begin(&mut answer, sql, ends_with_ok).await? else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    loop {
        match parse_row(&names, &answer.read().await?)? {
            Some(row) => rows.push(row),
            None => return Ok(rows),
        }
    }
}

/// Sends a statement whose rows will be taken one by one with [`next_row`], however many there are; gives the columns' names,
/// or `None` if it has no rows.
pub(super) async fn start<S: AsyncRead + AsyncWrite + Unpin>(
    channel: &mut Channel<S>,
    sql: &str,
    ends_with_ok: bool,
) -> Result<Option<Arc<[String]>>, ConnectionError> {
    begin(&mut Answer { channel, bytes: 0 }, sql, ends_with_ok).await
}

/// The next row after [`start`]; `None` when there are no more.
pub(super) async fn next_row<S: AsyncRead + Unpin>(
    channel: &mut Channel<S>,
    names: &Arc<[String]>,
) -> Result<Option<Row>, ConnectionError> {
    parse_row(names, &channel.read().await?)
}

async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
    answer: &mut Answer<'_, S>,
    sql: &str,
    ends_with_ok: bool,
) -> Result<Option<Arc<[String]>>, ConnectionError> {
    answer.channel.command(&[&[COM_QUERY], sql.as_bytes()].concat()).await?;
    let head = answer.channel.read().await?;
    match head.first() {
        Some(0x00) => return Ok(None),
        Some(0xFF) => return Err(ConnectionError::from_packet(&head)),
        Some(0xFB) => {
            return Err(ConnectionError::protocol("the server asks for a local file, which it never gets"));
        }
        _ => {}
    }
    let count = Cursor::new(&head).length_encoded().filter(|count| (1..=COLUMNS_MAX).contains(count));
    let count =
        count.ok_or_else(|| ConnectionError::protocol("the head of the server's answer is malformed"))?;
    let mut names = Vec::new();
    for _ in 0..count {
        let packet = answer.read().await?;
        let name = column_name(&packet);
        names.push(name.ok_or_else(|| ConnectionError::protocol("a column's definition is malformed"))?);
    }
    if !ends_with_ok && !is_end(&answer.read().await?) {
        return Err(ConnectionError::protocol("the columns' definitions do not end where they should"));
    }
    Ok(Some(names.into()))
}

/// A row, or `None` for the end of the answer.
fn parse_row(names: &Arc<[String]>, packet: &Bytes) -> Result<Option<Row>, ConnectionError> {
    match packet.first() {
        Some(0xFF) => Err(ConnectionError::from_packet(packet)),
        Some(0xFE) if packet.len() < PACKET_BYTES_MAX => Ok(None),
        _ => {
            let row = Row::parse(names, packet);
            row.map(Some).ok_or_else(|| ConnectionError::protocol("a row of the answer is malformed"))
        }
    }
}

struct Answer<'a, S> {
    channel: &'a mut Channel<S>,
    bytes: usize,
}

impl<S: AsyncRead + Unpin> Answer<'_, S> {
    async fn read(&mut self) -> Result<Bytes, ConnectionError> {
        let packet = self.channel.read().await?;
        // What a packet costs beside its bytes is counted too: an answer may have many short rows.
        self.bytes = self.bytes.saturating_add(packet.len()).saturating_add(64);
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(ConnectionError::new(
                ConnectionErrorKind::TooLarge,
                format!("the answer to a query has more than {ANSWER_BYTES_MAX} bytes, which is the limit"),
            ));
        }
        Ok(packet)
    }
}

fn is_end(packet: &[u8]) -> bool {
    packet.first() == Some(&0xFE) && packet.len() < 9
}

fn column_name(packet: &[u8]) -> Option<String> {
    let mut cursor = Cursor::new(packet);
    for _catalog_schema_table_and_its_original in 0..4 {
        cursor.counted()?;
    }
    Some(String::from_utf8_lossy(cursor.counted()?).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::connection::packet::tests::packets;

    async fn answer(packets: &[u8], ends_with_ok: bool) -> Result<Vec<Row>, ConnectionError> {
        let stream = tokio::io::join(packets, tokio::io::sink());
        query(&mut Channel::new(stream, ANSWER_BYTES_MAX), "SELECT 1", ends_with_ok).await
    }

    fn column(name: &str) -> Vec<u8> {
        let mut packet = b"\x03def\0\0\0".to_vec();
        super::super::fields::put_counted(&mut packet, name.as_bytes());
        packet.extend(b"\0\x0C-\0\0\0\0\0\xFD\0\0\0\0\0");
        packet
    }

    const END: &[u8] = &[0xFE, 0, 0, 2, 0];
    const END_OK: &[u8] = &[0xFE, 0, 0, 2, 0, 0, 0];

    #[tokio::test]
    async fn rows_are_read_with_and_without_the_old_end() {
        let (file, position) = (column("File"), column("Position"));
        let row = b"\x0Dbinlog.000001\xFB";
        let old = packets(1, &[&[2], &file, &position, END, row, END]);
        let new = packets(1, &[&[2], &file, &position, row, END_OK]);
        for (bytes, ends_with_ok) in [(old, false), (new, true)] {
            let rows = answer(&bytes, ends_with_ok).await.expect("an answer");
            let [row] = rows.as_slice() else { panic!("one row") };
            assert_eq!(row.get("FILE"), Some("binlog.000001"));
            assert_eq!(row.at(0), Some("binlog.000001"));
            assert_eq!((row.get("position"), row.get("other")), (None, None));
        }
    }

    #[tokio::test]
    async fn malformed_answers_are_errors() {
        let file = column("File");
        for parts in [
            &[&[][..]][..],
            &[&[0xFB]],
            &[&[0xFE]],
            &[&[0xFC, 0xFF, 0xFF]],
            &[&[1], &[9]],
            &[&[1], &file, &[3, b'a']],
            &[&[1], &file, b"\x01ab"],
            &[&[1], &file, b"\xFF\x01\x02"],
            &[&[1], &file],
        ] {
            assert!(answer(&packets(1, parts), true).await.is_err(), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_bounded() {
        let file = column("File");
        let row = [&[0xFC, 0x00, 0xFF], &[b'x'; 0xFF00][..]].concat();
        let mut parts: Vec<&[u8]> = vec![&[1], &file];
        parts.extend(std::iter::repeat_n(row.as_slice(), 260));
        let error = answer(&packets(1, &parts), true).await.expect_err("too large");
        assert_eq!(error.kind(), ConnectionErrorKind::TooLarge);
    }

    #[test]
    fn quoting_closes_every_way_out() {
        assert_eq!(quote_string(r"it's \'"), r"'it''s \\'''");
        assert_eq!(quote_string("a\0b"), "'a\\0b'");
        assert_eq!(quote_identifier("a`b"), "`a``b`");
    }

    proptest! {
        #[test]
        fn no_answer_panics(parts: Vec<Vec<u8>>, ends_with_ok: bool) {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            drop(runtime.block_on(answer(&packets(1, &parts), ends_with_ok)));
            let with_head = [&[&[1][..], &[0; 5]], parts.as_slice()].concat();
            drop(runtime.block_on(answer(&packets(1, &with_head), ends_with_ok)));
        }
    }
}
