//! The trace that an event belongs to.

use std::str::FromStr;

/// The value of a header `traceparent`.
///
/// Source: [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header).
///
/// ```
/// use outbox_event::TraceParent;
/// let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// assert!(parent.is_sampled());
/// # Ok::<(), outbox_event::TraceParentError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The span within it.
    pub span_id: [u8; 8],
    /// Bit 0: whether the trace is recorded.
    pub flags: u8,
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct TraceParentError;

impl TraceParent {
    /// Whether whoever began the trace records it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(TraceParentError);
        let ([version], trace_id, span_id, [flags]) =
            (hex(next()?)?, hex(next()?)?, hex(next()?)?, hex(next()?)?);
        // Later versions may have more behind it, the first one has not.
        let ends = version > 0 || parts.next().is_none();
        if version == 0xFF || !ends || trace_id == [0; 16] || span_id == [0; 8] {
            return Err(TraceParentError);
        }
        Ok(Self { trace_id, span_id, flags })
    }
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N], TraceParentError> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(lower) {
        return Err(TraceParentError);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| TraceParentError)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| TraceParentError)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_the_standard_has() {
        let trace = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let parent: TraceParent = format!("00-{trace}-00").parse().expect("a traceparent");
        assert!(!parent.is_sampled() && parent.trace_id[0] == 0x0a && parent.span_id[7] == 0x31);
        assert!(format!("01-{trace}-01-more").parse::<TraceParent>().is_ok());
        for text in [
            String::new(),
            "00".to_owned(),
            format!("ff-{trace}-01"),
            format!("00-{trace}-01-more"),
            format!("00-{trace}-1"),
            format!("00-{}-01", trace.to_uppercase()),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-fé-]{0,60}|\\PC*") {
            let _parsed = text.parse::<TraceParent>();
        }
    }
}
