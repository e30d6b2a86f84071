//! What stands in the table is what was meant.

use anyhow::Result;
use outbox_producer::{Columns, ErrorKind, IdFormat, Limits, NewEvent, Outbox, Uuid};
use serde_json::{Value, json};
use testbed::Flavour;

use crate::shop::{BOTH, Shop, placed};

#[tokio::test]
async fn a_typed_event() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let mut transaction = shop.pool.begin().await?;
        let id = shop.outbox.write(&mut transaction, &placed(7)).await?;
        assert_eq!(shop.count().await?, 0, "{flavour}: not before the commit");
        transaction.commit().await?;

        let rows = shop.rows().await?;
        assert_eq!(rows.len(), 1);
        let (row_id, aggregate_type, aggregate_id, event_type, payload, headers) = rows[0].clone();
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(row_id, id.simple().to_string(), "{flavour}");
        assert_eq!((aggregate_type.as_str(), aggregate_id.as_str()), ("order", "7"));
        assert_eq!(event_type, "placed");
        let sent = serde_json::to_string(&placed(7))?;
        let note = serde_json::to_string(&placed(7).note)?;
        let expected = match flavour {
            // Keys by length, and spaces.
            Flavour::MySql => format!("{{\"note\": {note}, \"order\": 7}}"),
            Flavour::MariaDb => sent,
        };
        assert_eq!(payload, expected, "{flavour}");
        assert_eq!(headers, None, "{flavour}: no headers were given");
    }
    Ok(())
}

/// The limit counts the bytes that a message will have, which are more than those of the payload as it is sent.
#[tokio::test]
async fn the_limit_of_the_payload_is_that_of_the_message() -> Result<()> {
    let shop = Shop::open(Flavour::MySql).await?;
    let payload =
        json!({"a": [1, 2, {"b": "x: y, z"}], "c\"": {"d": null, "e": [true, "\\\"", []]}, "f": {}});
    let event = NewEvent::json("order", 7, "placed", &payload)?;
    let mut transaction = shop.pool.begin().await?;
    shop.outbox.write(&mut transaction, &event).await?;
    transaction.commit().await?;
    let bytes = shop.rows().await?[0].4.len();
    assert!(bytes > payload.to_string().len());
    let with_limit = |payload_bytes_max| {
        let mut limits = Limits::default();
        limits.payload_bytes_max = payload_bytes_max;
        shop.outbox.clone().with_limits(limits).statement(&event)
    };
    with_limit(bytes)?;
    assert_eq!(with_limit(bytes - 1).unwrap_err().kind(), ErrorKind::TooLong);
    Ok(())
}

#[tokio::test]
async fn id_headers_and_odd_texts() -> Result<()> {
    let id = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let odd = "o'clock; `x` \\ é 🦀 \u{0}";
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let event = NewEvent::json(odd, odd, odd, &json!({"text": odd, "large": u64::MAX}))?
            .with_id(id)
            .with_header("tenant", "nörd \"1\"")
            .with_header("attempt", "2");
        let mut transaction = shop.pool.begin().await?;
        assert_eq!(shop.outbox.write(&mut transaction, event).await?, id);
        transaction.commit().await?;

        let rows = shop.rows().await?;
        let (row_id, aggregate_type, aggregate_id, event_type, payload, headers) = rows[0].clone();
        assert_eq!(row_id, "00112233445566778899aabbccddeeff", "{flavour}");
        assert_eq!((aggregate_type.as_str(), aggregate_id.as_str(), event_type.as_str()), (odd, odd, odd));
        let payload: Value = serde_json::from_str(&payload)?;
        assert_eq!(payload, json!({"text": odd, "large": u64::MAX}), "{flavour}");
        let headers: Value = serde_json::from_str(&headers.unwrap_or_default())?;
        assert_eq!(headers, json!({"tenant": "nörd \"1\"", "attempt": "2"}), "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn the_columns_of_debezium() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        shop.server
            .exec(
                "CREATE TABLE shop.`outbox event` (
                   id CHAR(36) NOT NULL PRIMARY KEY, aggregatetype VARCHAR(255) NOT NULL, aggregateid VARCHAR(255) NOT NULL,
                   type VARCHAR(255) NOT NULL, payload JSON)",
            )
            .await?;
        let outbox = Outbox::new("shop.`outbox event`")?
            .with_columns(Columns::debezium())?
            .with_id_format(IdFormat::Text);
        let mut transaction = shop.pool.begin().await?;
        let id = outbox.write(&mut transaction, &placed(7)).await?;
        transaction.commit().await?;
        let rows: Vec<(String, String, String, String)> =
            shop.server.query("SELECT id, aggregatetype, aggregateid, type FROM shop.`outbox event`").await?;
        assert_eq!(rows, [(id.to_string(), "order".into(), "7".into(), "placed".into())], "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn every_column_mapped_and_a_binary_payload() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        shop.server
            .exec(
                "CREATE TABLE shop.events (
                   `event``id` BINARY(16) PRIMARY KEY, kind VARCHAR(64) NOT NULL, `of` VARCHAR(255) NOT NULL,
                   what VARCHAR(128) NOT NULL, body LONGBLOB NOT NULL, meta JSON, media VARCHAR(255), `key` VARCHAR(255))",
            )
            .await?;
        let mut columns = Columns::default();
        columns.id = "event`id".into();
        columns.aggregate_type = "kind".into();
        columns.aggregate_id = "of".into();
        columns.event_type = "what".into();
        columns.payload = "body".into();
        columns.headers = Some("meta".into());
        columns.content_type = Some("media".into());
        columns.partition_key = Some("key".into());
        // The connection's own schema.
        let outbox = Outbox::new("events")?.with_columns(columns)?;
        let pool = sqlx::MySqlPool::connect(&format!("{}/shop", shop.server.url("root"))).await?;

        let bytes: Vec<u8> = (0..=255).collect();
        let event = NewEvent::bytes("order", 7, "placed", bytes.clone())
            .with_content_type("application/protobuf")
            .with_partition_key("customer-3");
        let plain = NewEvent::text("order", 8, "noted", "<é/>");
        let mut transaction = pool.begin().await?;
        let ids = outbox.write_all(&mut transaction, [event, plain]).await?;
        transaction.commit().await?;

        type Event = (Vec<u8>, String, String, String, Vec<u8>, Option<String>, Option<String>);
        let rows: Vec<Event> = shop
            .server
            .query("SELECT `event``id`, kind, `of`, what, body, media, `key` FROM shop.events ORDER BY `of`")
            .await?;
        let row = |id: Uuid, of: &str, what: &str, body: &[u8], media: Option<&str>, key: Option<&str>| {
            let texts = ("order".to_owned(), of.to_owned(), what.to_owned());
            let id = id.as_bytes().to_vec();
            (id, texts.0, texts.1, texts.2, body.to_vec(), media.map(Into::into), key.map(Into::into))
        };
        let expected = [
            row(ids[0], "7", "placed", &bytes, Some("application/protobuf"), Some("customer-3")),
            row(ids[1], "8", "noted", "<é/>".as_bytes(), None, None),
        ];
        assert_eq!(rows, expected, "{flavour}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_server_refuses_is_told_without_its_contents() -> Result<()> {
    for flavour in BOTH {
        let shop = Shop::open(flavour).await?;
        let event = NewEvent::text("order", 7, "placed", "{}");
        let mut transaction = shop.pool.begin().await?;
        shop.outbox.write(&mut transaction, &event).await?;
        let error = shop.outbox.write(&mut transaction, &event).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Duplicate, "{flavour}");
        assert_eq!(error.server_code(), Some(1062));

        let no_json = NewEvent::text("order", 7, "placed", "secret");
        let error = shop.outbox.write(&mut transaction, no_json).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Database, "{flavour}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("`shop`.`outbox`") && !text.contains("secret"), "{flavour}: {text}");

        let nowhere = Outbox::new("shop.nowhere")?.write(&mut transaction, &placed(7)).await.unwrap_err();
        assert_eq!(nowhere.server_code(), Some(1146), "{flavour}: {nowhere:?}");
        // The transaction goes on after refused events.
        transaction.commit().await?;
        assert_eq!(shop.count().await?, 1, "{flavour}");
    }
    Ok(())
}
