//! What is measured, each by a module of its own.

pub mod appends;
