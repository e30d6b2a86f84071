//! The dead letters: shown, and replayed.

use std::collections::BTreeSet;

use anyhow::Result;
use outbox_consumer::{DeadLetter, DeadLetters};

/// All of them, oldest first.
async fn all(letters: &DeadLetters) -> Result<Vec<DeadLetter>> {
    const PAGE: usize = 100;
    let mut all = Vec::new();
    loop {
        let after = all.last().map_or(0, |letter: &DeadLetter| letter.position);
        let page = letters.list(after, PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

pub(crate) async fn show(letters: &DeadLetters) -> Result<()> {
    for letter in all(letters).await? {
        println!(
            "order {}, {}: {}",
            letter.partition_key.as_deref().unwrap_or("?"),
            letter.event_type.as_deref().unwrap_or("?"),
            letter.reason
        );
    }
    Ok(())
}

pub(crate) async fn replay(letters: &DeadLetters) -> Result<()> {
    let keys: BTreeSet<String> =
        all(letters).await?.into_iter().filter_map(|letter| letter.partition_key).collect();
    for key in keys {
        let replayed = letters.replay_key(&key).await?;
        println!("order {key}: {replayed} steps replayed");
    }
    Ok(())
}
