//! Statements in the log, as far as they decide about transactions and tables.

use std::{fmt, io::Read as _};

use ::bytes::Bytes;

use super::{EventError, Reader};

/// A statement.
#[derive(Debug, Clone)]
pub struct QueryEvent {
    /// The schema in which it ran.
    pub schema: Bytes,
    /// Its text, in the session's character set.
    pub text: Bytes,
}

/// The longest text that a compressed statement may have: MariaDB's `max_allowed_packet` at its largest.
const TEXT_BYTES_MAX: u64 = 1 << 30;

impl QueryEvent {
    /// `QUERY_EVENT`.
    ///
    /// Source: <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Query__event.html>
    pub(super) fn parse(body: &Bytes) -> Result<Self, EventError> {
        Self::read(body, 0)
    }

    /// `EXECUTE_LOAD_QUERY_EVENT`, whose statement follows 13 more bytes.
    pub(super) fn parse_load(body: &Bytes) -> Result<Self, EventError> {
        Self::read(body, 13)
    }

    /// MariaDB's `QUERY_COMPRESSED_EVENT`.
    pub(super) fn parse_compressed(body: &Bytes) -> Result<Self, EventError> {
        let Self { schema, text } = Self::read(body, 0)?;
        let mut reader = Reader::new("a compressed statement", &text);
        let head = reader.u8()?;
        if head & 0x80 == 0 || head & 0x70 != 0 {
            return Err(reader.fail("its compression is one that this bridge does not know"));
        }
        let declared =
            reader.take(usize::from(head & 0x07))?.iter().fold(0, |size, byte| size << 8 | u64::from(*byte));
        let mut inflated = Vec::new();
        flate2::read::ZlibDecoder::new(reader.rest())
            .take(TEXT_BYTES_MAX)
            .read_to_end(&mut inflated)
            .map_err(|_| reader.fail("its content is damaged"))?;
        if inflated.len() as u64 != declared {
            return Err(reader.fail("its length is not what it says"));
        }
        Ok(Self { schema, text: inflated.into() })
    }

    fn read(body: &Bytes, more: usize) -> Result<Self, EventError> {
        let mut reader = Reader::new("a query event", body);
        reader.take(8)?;
        let schema_length = reader.u8()?;
        reader.take(2)?;
        let variables = reader.u16()?;
        reader.take(more)?;
        reader.take(usize::from(variables))?;
        let schema = body.slice_ref(reader.take(usize::from(schema_length))?);
        reader.take(1)?;
        Ok(Self { schema, text: body.slice_ref(reader.rest()) })
    }

    /// What kind of statement it is.
    #[must_use]
    pub fn statement(&self) -> Statement {
        // By far the most frequent ones.
        match &*self.text {
            b"BEGIN" => return Statement::Begin,
            b"COMMIT" => return Statement::Commit,
            _ => {}
        }
        let mut tokens = Tokens(&self.text);
        let Some(Token::Word(first)) = tokens.next() else { return Statement::Other };
        let is = |word: &[u8], keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        let any = |keywords: &[&str]| keywords.iter().any(|keyword| is(first, keyword));
        if any(&["BEGIN", "START"]) {
            return Statement::Begin;
        }
        if any(&["COMMIT"]) {
            return Statement::Commit;
        }
        if any(&["ROLLBACK"]) {
            let to = tokens.any(|token| matches!(token, Token::Word(word) if is(word, "TO")));
            return if to { Statement::Savepoint } else { Statement::Rollback };
        }
        if any(&["SAVEPOINT", "RELEASE"]) {
            return Statement::Savepoint;
        }
        if any(&["XA"]) {
            return Self::xa(tokens);
        }
        if any(&["INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD", "CALL", "SELECT", "DO", "WITH"]) {
            return Statement::Dml;
        }
        if any(&["CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE"]) {
            return Statement::Ddl;
        }
        Statement::Other
    }

    fn xa(mut tokens: Tokens<'_>) -> Statement {
        let Some(Token::Word(verb)) = tokens.next() else { return Statement::Other };
        let is = |keyword: &str| verb.eq_ignore_ascii_case(keyword.as_bytes());
        if is("END") {
            return Statement::XaEnd;
        }
        if is("PREPARE") {
            return Statement::XaPrepare;
        }
        let Some(xid) = Xid::parse(&mut tokens) else { return Statement::Unreadable };
        if is("START") || is("BEGIN") {
            Statement::XaStart(xid)
        } else if is("COMMIT") {
            let one_phase =
                tokens.any(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"ONE")));
            Statement::XaCommit { xid, one_phase }
        } else if is("ROLLBACK") {
            Statement::XaRollback(xid)
        } else {
            Statement::Other
        }
    }

    /// Whether the text names the table: `schema.table`, or `table` alone where `schema` is the default one.
    ///
    /// String literals and comments do not count.
    #[must_use]
    pub fn names_table(&self, schema: &str, table: &str) -> bool {
        let in_schema = self.schema.eq_ignore_ascii_case(schema.as_bytes());
        let mut qualifier: Option<Vec<u8>> = None;
        let mut tokens = Tokens(&self.text).peekable();
        while let Some(token) = tokens.next() {
            let Some(name) = token.name() else {
                qualifier = None;
                continue;
            };
            if tokens.next_if(|next| matches!(next, Token::Mark(b'.'))).is_some() {
                qualifier = Some(name);
                continue;
            }
            let right_schema = match &qualifier {
                Some(qualifier) => qualifier.eq_ignore_ascii_case(schema.as_bytes()),
                None => in_schema,
            };
            if right_schema && name.eq_ignore_ascii_case(table.as_bytes()) {
                return true;
            }
            qualifier = None;
        }
        false
    }
}

/// What a statement does to the transaction it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// The transaction has more than one statement.
    Begin,
    /// It is committed.
    Commit,
    /// It is rolled back.
    Rollback,
    /// `SAVEPOINT`, `ROLLBACK TO`, `RELEASE SAVEPOINT`: what was rolled back to a savepoint is not in the log.
    Savepoint,
    /// `XA START`.
    XaStart(Xid),
    /// `XA END`.
    XaEnd,
    /// `XA PREPARE`; the event of that name matters, not the statement.
    XaPrepare,
    /// `XA COMMIT`.
    XaCommit {
        /// Which transaction.
        xid: Xid,
        /// It was not prepared before.
        one_phase: bool,
    },
    /// `XA ROLLBACK`.
    XaRollback(Xid),
    /// Changes definitions.
    Ddl,
    /// Changes rows, which the log does not show.
    Dml,
    /// About an XA transaction whose name cannot be read.
    Unreadable,
    /// Anything else.
    Other,
}

/// The name of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xid {
    /// The global transaction id.
    pub gtrid: Vec<u8>,
    /// The branch qualifier.
    pub bqual: Vec<u8>,
    /// The format id, as far as the log's events have it: its lower 32 bits.
    pub format: u32,
}

impl fmt::Display for Xid {
    /// In the server's own notation: `X'…',X'…',1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.gtrid, &self.bqual] {
            f.write_str("X'")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("',")?;
        }
        write!(f, "{}", self.format)
    }
}

impl Xid {
    fn parse(tokens: &mut Tokens<'_>) -> Option<Self> {
        let gtrid = tokens.bytes()?;
        let mut xid = Self { gtrid, bqual: Vec::new(), format: 1 };
        let mut ahead = Tokens(tokens.0);
        if !matches!(ahead.next(), Some(Token::Mark(b','))) {
            return Some(xid);
        }
        xid.bqual = ahead.bytes()?;
        tokens.0 = ahead.0;
        if !matches!(ahead.next(), Some(Token::Mark(b','))) {
            return Some(xid);
        }
        let Some(Token::Word(format)) = ahead.next() else { return None };
        let format: u64 = std::str::from_utf8(format).ok()?.parse().ok()?;
        xid.format = u32::try_from(format & u64::from(u32::MAX)).ok()?;
        tokens.0 = ahead.0;
        Some(xid)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// An unquoted word or number.
    Word(&'a [u8]),
    /// What stands in backticks or double quotes, still with doubled quotes in it.
    Quoted(u8, &'a [u8]),
    /// A string literal, still with its escapes.
    Text(&'a [u8]),
    Mark(u8),
}

impl Token<'_> {
    /// The identifier that it is, or may be in ANSI mode.
    fn name(&self) -> Option<Vec<u8>> {
        match self {
            Self::Word(word) => Some(word.to_vec()),
            Self::Quoted(quote, text) => {
                let mut name = Vec::with_capacity(text.len());
                let mut bytes = text.iter();
                while let Some(byte) = bytes.next() {
                    name.push(*byte);
                    if byte == quote {
                        bytes.next();
                    }
                }
                Some(name)
            }
            Self::Text(_) | Self::Mark(_) => None,
        }
    }
}

/// The tokens of a statement. The content of `/*! … */` counts as text of the statement, since servers execute it.
struct Tokens<'a>(&'a [u8]);

impl<'a> Tokens<'a> {
    /// A string as `X'…'`, `0x…` or `'…'`.
    fn bytes(&mut self) -> Option<Vec<u8>> {
        let hex = |digits: &[u8]| {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            digits
                .chunks(2)
                .map(|pair| match pair {
                    [high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
                    _ => None,
                })
                .collect::<Option<Vec<u8>>>()
        };
        match self.next()? {
            Token::Text(text) => Some(text.to_vec()),
            Token::Word(word) if word.eq_ignore_ascii_case(b"X") => match self.next()? {
                Token::Text(digits) => hex(digits),
                _ => None,
            },
            Token::Word(word) => hex(word.strip_prefix(b"0x")?),
            _ => None,
        }
    }

    fn skip(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn skip_past(&mut self, end: &[u8]) {
        let position = self.0.windows(end.len()).position(|window| window == end);
        self.skip(position.map_or(self.0.len(), |position| position + end.len()));
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            match self.0 {
                [] => return None,
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0 => {
                    self.skip(1);
                }
                [b'/', b'*', b'!', ..] => {
                    self.skip(3);
                    let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    self.skip(digits);
                }
                [b'/', b'*', b'M', b'!', ..] => {
                    self.skip(4);
                    let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    self.skip(digits);
                }
                [b'*', b'/', ..] => {
                    self.skip(2);
                }
                [b'/', b'*', ..] => {
                    self.skip(2);
                    self.skip_past(b"*/");
                }
                [b'#', ..] | [b'-', b'-'] => self.skip_past(b"\n"),
                [b'-', b'-', space, ..] if space.is_ascii_whitespace() => self.skip_past(b"\n"),
                [quote @ (b'`' | b'"' | b'\''), rest @ ..] => {
                    let mut length = 0;
                    let mut bytes = rest;
                    loop {
                        match bytes {
                            [] => break,
                            [b'\\', _, tail @ ..] if *quote != b'`' => {
                                length += 2;
                                bytes = tail;
                            }
                            [one, two, tail @ ..] if one == quote && two == quote => {
                                length += 2;
                                bytes = tail;
                            }
                            [one, ..] if one == quote => break,
                            [_, tail @ ..] => {
                                length += 1;
                                bytes = tail;
                            }
                        }
                    }
                    self.skip(1);
                    let text = self.skip(length);
                    self.skip(1);
                    return Some(if *quote == b'\'' {
                        Token::Text(text)
                    } else {
                        Token::Quoted(*quote, text)
                    });
                }
                [byte, ..] if is_word(*byte) => {
                    let length = self.0.iter().take_while(|byte| is_word(**byte)).count();
                    return Some(Token::Word(self.skip(length)));
                }
                [byte, ..] => {
                    self.skip(1);
                    return Some(Token::Mark(*byte));
                }
            }
        }
    }
}
