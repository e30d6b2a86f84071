//! A piece of HTML that is safe by its making: text that comes from anywhere is escaped, and only what is written in this program
//! is taken as it is.

/// HTML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

impl Html {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// As it is written in this program.
    #[must_use]
    pub(super) fn raw(mut self, html: &'static str) -> Self {
        self.0.push_str(html);
        self
    }

    /// Text, escaped; also within quoted attributes.
    #[must_use]
    pub(super) fn text(mut self, text: &str) -> Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Browsers make it something else, and it is nothing to be read.
                '\0' => self.0.push('\u{fffd}'),
                other => self.0.push(other),
            }
        }
        self
    }

    #[must_use]
    pub(super) fn append(mut self, other: &Self) -> Self {
        self.0.push_str(&other.0);
        self
    }

    /// One after the other.
    pub(super) fn all(pieces: impl IntoIterator<Item = Self>) -> Self {
        pieces.into_iter().fold(Self::new(), |all, piece| all.append(&piece))
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_escaped() {
        let html = Html::new().raw("<p title=\"").text("a\" onclick='x'").raw("\">").text("<b>&amp;\0");
        assert_eq!(html.into_string(), "<p title=\"a&quot; onclick=&#39;x&#39;\">&lt;b&gt;&amp;amp;\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(text in any::<String>()) {
            let html = Html::new().text(&text).into_string();
            prop_assert!(!html.contains(['<', '>', '"', '\'', '\0']));
        }
    }
}
