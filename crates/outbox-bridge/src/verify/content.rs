//! What a row says about its message, and what a message says: the same text on both sides, or they differ. Pure.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::HeaderMap;
use base64::prelude::{BASE64_URL_SAFE, Engine as _};
use outbox_event::header;
use sha2::{Digest as _, Sha256};

use crate::{
    backfill::held::{Key, table_of_source},
    publish,
};

/// A hash of a message's content, as far as the row gives it.
pub(super) type Digest = [u64; 2];

/// A payload, by its SHA-256.
pub(super) type BodyDigest = [u8; 32];

/// A hash of all of a message's content but the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadDigest([u64; 2]);

impl HeadDigest {
    pub(super) fn with(self, body: BodyDigest) -> Digest {
        let (Self([a, b]), [c, d]) = (self, halves_of(body));
        [a ^ c, b ^ d]
    }
}

fn halves_of(body: BodyDigest) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = body;
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
}

/// The digest of an object in an object store, as its description has it (ADR-20).
pub(super) fn body_of_object(digest: &str) -> Option<BodyDigest> {
    BASE64_URL_SAFE.decode(digest.strip_prefix("SHA-256=")?).ok()?.try_into().ok()
}

/// The two halves of a key, which need no alignment of 16 bytes.
pub(super) fn halves(key: Key) -> [u64; 2] {
    let bytes = key.to_le_bytes();
    let (low, high) = bytes.split_at(8);
    [low, high].map(|half| half.try_into().map(u64::from_le_bytes).unwrap_or_default())
}

/// Subject, headers and body that a row gives, from the row or from the stream.
#[derive(Debug)]
pub(super) struct Content<'a> {
    subject: &'a str,
    headers: BTreeMap<&'a str, &'a str>,
    body: BodyDigest,
}

impl<'a> Content<'a> {
    /// What the row's message must have.
    pub(super) fn of_row(message: &'a publish::Message) -> Self {
        let mut headers: BTreeMap<&str, &str> = BTreeMap::new();
        headers.insert(header::CE_ID, message.id.trim());
        // Of several values the last is sent, and a receiver sees none of the spaces around it.
        for (name, value) in &message.headers {
            headers.insert(name, plain(name, value));
        }
        headers.remove(header::CE_TIME);
        Self { subject: message.subject.as_str(), headers, body: Sha256::digest(&message.body).into() }
    }

    /// What a stored message has, without what the row does not decide.
    pub(super) fn of_stored(subject: &'a str, headers: &'a HeaderMap, body: BodyDigest) -> Self {
        let given = |name: &str| {
            let lower = name.to_ascii_lowercase();
            let ours = lower.starts_with("outbox-") && !name.starts_with(header::APPLICATION_PREFIX);
            !ours && !lower.starts_with("nats-") && name != header::CE_TIME && name != header::DATA_REF
        };
        let mut kept = BTreeMap::new();
        for (name, values) in headers.iter() {
            let name: &str = name.as_ref();
            if given(name) {
                kept.insert(name, plain(name, values.last().map_or("", |value| value.as_str())));
            }
        }
        Self { subject, headers: kept, body }
    }

    pub(super) fn digest(&self) -> Digest {
        self.without_body().with(self.body)
    }

    /// The digest of everything else.
    pub(super) fn without_body(&self) -> HeadDigest {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update(bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        add(self.subject.as_bytes());
        for (name, value) in &self.headers {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        HeadDigest(halves_of(hash.finalize().into()))
    }

    /// The names of the parts that differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut parts = Vec::new();
        if self.subject != other.subject {
            parts.push("subject".to_owned());
        }
        let names: BTreeSet<&str> = self.headers.keys().chain(other.headers.keys()).copied().collect();
        let differing = names.into_iter().filter(|name| self.headers.get(name) != other.headers.get(name));
        parts.extend(differing.map(|name| format!("header {name}")));
        if self.body != other.body {
            parts.push("body".to_owned());
        }
        parts
    }
}

/// A header's value without what a move to another server changes.
fn plain<'a>(name: &str, value: &'a str) -> &'a str {
    let value = value.trim();
    if name == header::CE_SOURCE { table_of_source(value) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        map
    }

    fn digest(subject: &str, headers: &[(&str, &str)], body: &str) -> Digest {
        Content::of_stored(subject, &stored(headers), Sha256::digest(body.as_bytes()).into()).digest()
    }

    #[test]
    fn what_the_row_does_not_decide_makes_no_difference() {
        let plain = digest("a", &[("ce-id", "1"), ("x", "y"), ("ce-source", "//u/s.t")], "{}");
        let more = [
            ("ce-id", "1"),
            ("x", "y"),
            ("ce-source", "//v/s.t"),
            ("Nats-Msg-Id", "1"),
            ("ce-time", "now"),
            ("Outbox-Position", "p"),
        ];
        assert_eq!(digest("a", &more, "{}"), plain);
    }

    #[test]
    fn every_part_makes_a_difference() {
        let headers = [("ce-id", "1"), ("Outbox-App-ce-id", "y")];
        let all = stored(&headers);
        let content = Content::of_stored("a", &all, Sha256::digest(b"{}").into());
        type Message<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
        let others: [Message<'_>; 5] = [
            ("b", &headers, "{}", "subject"),
            ("a", &headers, "{ }", "body"),
            ("a", &[("ce-id", "2"), ("Outbox-App-ce-id", "y")], "{}", "header ce-id"),
            ("a", &[("ce-id", "1")], "{}", "header Outbox-App-ce-id"),
            ("a", &[("ce-id", "1"), ("Outbox-App-ce-id", "y"), ("z", "")], "{}", "header z"),
        ];
        for (subject, headers, body, part) in others {
            let all = stored(headers);
            let other = Content::of_stored(subject, &all, Sha256::digest(body.as_bytes()).into());
            assert_ne!(content.digest(), other.digest(), "{part}");
            assert_eq!(content.differences(&other), [part]);
        }
        assert_ne!(digest("a", &[("x", "yz")], ""), digest("a", &[("xy", "z")], ""));
    }
}
