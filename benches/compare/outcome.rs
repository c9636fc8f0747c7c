//! The result of each function that can fail.

/// A result whose error is a message. Every error ends the run.
pub type Outcome<T> = Result<T, String>;
