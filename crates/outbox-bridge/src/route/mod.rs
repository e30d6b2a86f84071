//! From a committed row to a message: pure and synchronous.

mod template;

pub use template::{Placeholder, SubjectTemplate, SubjectValues, TemplateError};
