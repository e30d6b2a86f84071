//! `mysql_cdc`'s decoder.

use super::*;

/// `mysql_cdc`'s value in our rendering, and ours brought down to what it knows.
pub(crate) fn normalised(kind: Kind, ours: &str, theirs: &MySqlValue) -> Result<(String, String)> {
    let cut = |text: &str| match text.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{:.3}", fraction),
        None => text.to_owned(),
    };
    let with_fraction = |whole: String, millis: u32| match kind {
        Kind::Time { fraction, .. } | Kind::Datetime { fraction } | Kind::Timestamp { fraction }
            if fraction > 0 =>
        {
            let digits: String = format!("{millis:03}").chars().take(fraction).collect();
            format!("{whole}.{digits}")
        }
        _ => whole,
    };
    let signed = !matches!(kind, Kind::Integer { unsigned: true, .. });
    let number = |unsigned: u64, signed_value: i64| {
        if signed { signed_value.to_string() } else { unsigned.to_string() }
    };
    let mut ours = ours.to_owned();
    let theirs = match theirs {
        MySqlValue::TinyInt(value) => number((*value).into(), value.cast_signed().into()),
        MySqlValue::SmallInt(value) => number((*value).into(), value.cast_signed().into()),
        MySqlValue::MediumInt(value) => number((*value).into(), ((value << 8).cast_signed() >> 8).into()),
        MySqlValue::Int(value) => number((*value).into(), value.cast_signed().into()),
        MySqlValue::BigInt(value) => number(*value, value.cast_signed()),
        // MySQL shows six digits.
        MySqlValue::Float(value) => {
            ours = format!("{:.5e}", ours.parse::<f64>()?);
            format!("{:.5e}", f64::from(*value))
        }
        MySqlValue::Double(value) => {
            ours = format!("{:e}", ours.parse::<f64>()?);
            format!("{value:e}")
        }
        MySqlValue::Decimal(text) => text.clone(),
        MySqlValue::String(text) if matches!(kind, Kind::Binary { .. }) => {
            // The log has no zeros at the end of a `BINARY`.
            let trimmed = |text: &str| {
                let mut text = text.to_owned();
                while text.ends_with("00") && text.len().is_multiple_of(2) {
                    text.truncate(text.len() - 2);
                }
                text
            };
            ours = trimmed(&ours);
            trimmed(&hex(text.as_bytes()))
        }
        MySqlValue::String(text) => text.clone(),
        MySqlValue::Bit(bits) => {
            let value = bits.iter().fold(0_u64, |value, bit| value << 1 | u64::from(*bit));
            let digits = bits.len().div_ceil(8) * 2;
            format!("{value:0digits$X}")
        }
        MySqlValue::Enum(0) => String::new(),
        MySqlValue::Enum(number) => match kind {
            Kind::Enum(members) => members.get(usize::try_from(number - 1)?).context("a member")?.to_string(),
            _ => bail!("an ENUM"),
        },
        MySqlValue::Set(bits) => match kind {
            Kind::Set(members) => {
                let chosen = members.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
                chosen.map(|(_, member)| *member).collect::<Vec<_>>().join(",")
            }
            _ => bail!("a SET"),
        },
        MySqlValue::Blob(bytes) if matches!(kind, Kind::Text { .. } | Kind::Json) => {
            String::from_utf8(bytes.clone())?
        }
        MySqlValue::Blob(bytes) => hex(bytes),
        MySqlValue::Year(1900) => "0000".into(),
        MySqlValue::Year(year) => year.to_string(),
        MySqlValue::Date(date) => format!("{:04}-{:02}-{:02}", date.year, date.month, date.day),
        MySqlValue::Time(time) => {
            ours = cut(&ours);
            with_fraction(format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second), time.millis)
        }
        MySqlValue::DateTime(time) => {
            ours = cut(&ours);
            let date = format!("{:04}-{:02}-{:02}", time.year, time.month, time.day);
            let clock = format!("{:02}:{:02}:{:02}", time.hour, time.minute, time.second);
            with_fraction(format!("{date} {clock}"), time.millis)
        }
        MySqlValue::Timestamp(0) => with_fraction("0000-00-00 00:00:00".into(), 0),
        MySqlValue::Timestamp(millis) => {
            ours = cut(&ours);
            let time = time::OffsetDateTime::from_unix_timestamp(i64::try_from(millis / 1000)?)?;
            let (hour, minute, second) = time.to_hms();
            let clock = format!("{hour:02}:{minute:02}:{second:02}");
            with_fraction(format!("{} {clock}", time.date()), u32::try_from(millis % 1000)?)
        }
    };
    if matches!(kind, Kind::Timestamp { .. }) && theirs.starts_with("0000") {
        ours = cut(&ours);
    }
    Ok((ours, theirs))
}

/// `mysql_cdc`'s rows, and how often it failed by table.
pub(crate) fn theirs(events: &[Vec<u8>]) -> Result<(Rows<RowData>, BTreeMap<String, usize>)> {
    let mut parser = EventParser::new();
    let mut rows = Rows::new();
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut table = String::new();
    for event in events {
        let (head, body) = event.split_at_checked(HEADER_SIZE).context("a header")?;
        let header = CdcHeader::parse(head).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        if header.event_type == event_type::TABLE_MAP {
            let map = TableMap::parse(body.split_last_chunk::<CHECKSUM_SIZE>().context("a checksum")?.0)?;
            table = map.table;
        }
        let parsed = catch_unwind(AssertUnwindSafe(|| parser.parse_event(&header, body)));
        match parsed {
            Ok(Ok(BinlogEvent::TableMapEvent(map))) => {
                names.insert(map.table_id, map.table_name);
            }
            Ok(Ok(BinlogEvent::WriteRowsEvent(event))) => {
                let name = names.get(&event.table_id).context("a table map")?;
                rows.entry(name.clone()).or_default().extend(event.rows);
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => *failures.entry(table.clone()).or_default() += 1,
        }
    }
    Ok((rows, failures))
}
