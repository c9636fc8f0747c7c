//! Collects what is wrong with a request.
//!
//! Decoders add the violations, and the status of the rejected call reports them together.

use std::fmt;

/// What is wrong with a request: each field and its problem.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Violations(pub Vec<(String, String)>);

impl Violations {
    /// The maximum number of violations that are reported. More would not be read.
    const NAMED_MAX: usize = 20;

    pub(super) fn add(&mut self, field: impl fmt::Display, problem: impl Into<String>) {
        if self.0.len() < Self::NAMED_MAX {
            self.0.push((field.to_string(), problem.into()));
        }
    }

    pub(super) fn none_or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}
