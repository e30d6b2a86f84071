//! A piece of HTML that is safe by its making: text that comes from anywhere is escaped, and only what is written in this program
//! is taken as it is.

use std::fmt::Write as _;

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

    /// A number with at most one digit behind the point, as coordinates have it.
    #[must_use]
    pub(super) fn coordinate(mut self, value: f64) -> Self {
        // Adding nothing makes 0 of -0.
        let value = (value * 10.0).round() / 10.0 + 0.0;
        // Writing to a text cannot fail.
        write!(self.0, "{value}").unwrap_or_default();
        self
    }

    #[must_use]
    pub(super) fn append(mut self, other: &Self) -> Self {
        self.0.push_str(&other.0);
        self
    }

    pub(super) fn push(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// Fills the places `{{name}}` of a template. A place without a value stays empty, which the tests notice.
    pub(super) fn fill(template: &'static str, values: &[(&str, Self)]) -> Self {
        let mut filled = String::with_capacity(template.len() * 2);
        let mut pieces = template.split("{{");
        filled.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let (name, rest) = piece.split_once("}}").unwrap_or((piece, ""));
            if let Some((_, value)) = values.iter().find(|(known, _)| *known == name) {
                filled.push_str(&value.0);
            }
            filled.push_str(rest);
        }
        Self(filled)
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
        let html = Html::new()
            .raw("<p title=\"")
            .text("a\" onclick='x'")
            .raw("\">")
            .text("<script>&amp;\0")
            .raw("</p>");
        assert_eq!(
            html.into_string(),
            "<p title=\"a&quot; onclick=&#39;x&#39;\">&lt;script&gt;&amp;amp;\u{fffd}</p>"
        );
    }

    #[test]
    fn values_are_not_filled_again() {
        let values = [("a", Html::new().text("{{b}}")), ("b", Html::new().text("x"))];
        assert_eq!(Html::fill("<{{a}}-{{b}}-{{c}}>", &values).into_string(), "<{{b}}-x->");
    }

    #[test]
    fn coordinates_are_short() {
        let html = Html::new().coordinate(1.25).raw(" ").coordinate(3.0).raw(" ").coordinate(-0.01);
        assert_eq!(html.into_string(), "1.3 3 0");
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_place(text in any::<String>()) {
            let html = Html::new().text(&text).into_string();
            prop_assert!(!html.contains(['<', '>', '"', '\'', '\0']));
        }
    }
}
