//! The extent of a value: how deep it is, and how much memory it needs as JSON with all links
//! expanded. Both are bounded while the value is read, before that memory is used.

use super::{
    marshal::{MarshalFault, Outcome},
    value::Value,
};

/// The maximum nesting, also through links.
pub(super) const DEPTH_MAX: u32 = 64;
/// The maximum size of a value as JSON with all links expanded.
pub(super) const SIZE_MAX: usize = 8 << 20;
/// What each value counts for.
const VALUE_SIZE: usize = 32;
/// What a text counts for in addition to its bytes.
const TEXT_SIZE: usize = 32;
/// What a mapping counts for if it is not empty: it has room for several entries.
const MAPPING_SIZE: usize = 640;
/// What a further entry counts for in addition to its key and its value.
const ENTRY_SIZE: usize = 64;

/// A value, and its extent with all links expanded.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub value: Value,
    depth: u32,
    size: usize,
}

impl Measured {
    /// Measures a value that contains no others.
    pub(super) fn leaf(value: Value) -> Self {
        let own = match &value {
            Value::Text(text) => TEXT_SIZE.saturating_add(text.len()),
            // Those that JSON lacks become a mapping with one entry.
            Value::Symbol(text) | Value::Large(text) => marked(text.len()),
            Value::Bytes(bytes) => marked(bytes.len().saturating_mul(3) / 2),
            Value::Time(_) => marked(0),
            Value::Float(number) if !number.is_finite() => marked(0),
            Value::Float(_)
            | Value::Nil
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Array(_)
            | Value::Hash(_) => 0,
        };
        Self { value, depth: 0, size: own.saturating_add(VALUE_SIZE) }
    }

    /// Returns the size as the key of a mapping, which is always a text.
    fn size_as_key(&self) -> usize {
        let text = match &self.value {
            Value::Text(text) | Value::Symbol(text) | Value::Large(text) => text.len(),
            _ => 0,
        };
        text.saturating_add(VALUE_SIZE + TEXT_SIZE)
    }
}

/// Returns the size of a mapping that marks a text.
fn marked(bytes: usize) -> usize {
    bytes.saturating_add(MAPPING_SIZE + 2 * TEXT_SIZE)
}

/// The extent of a collection while its members are read.
pub(super) struct Extent {
    depth: u32,
    size: usize,
    has_pairs: bool,
}

impl Extent {
    pub(super) const fn new() -> Self {
        Self { depth: 1, size: VALUE_SIZE, has_pairs: false }
    }

    /// Adds an item of a list.
    pub(super) fn add(&mut self, member: &Measured) -> Outcome<()> {
        self.grow(member.depth, member.size)
    }

    /// Adds an entry of a mapping.
    pub(super) fn add_pair(&mut self, key: &Measured, value: &Measured) -> Outcome<()> {
        let entry = if self.has_pairs { ENTRY_SIZE } else { MAPPING_SIZE };
        self.has_pairs = true;
        self.grow(key.depth, key.size_as_key().saturating_add(entry))?;
        self.grow(value.depth, value.size)
    }

    fn grow(&mut self, depth: u32, size: usize) -> Outcome<()> {
        self.depth = self.depth.max(depth.saturating_add(1));
        self.size = self.size.saturating_add(size);
        if self.depth > DEPTH_MAX {
            return Err(MarshalFault::TooDeep);
        }
        if self.size > SIZE_MAX { Err(MarshalFault::TooLarge) } else { Ok(()) }
    }

    pub(super) fn of(self, value: Value) -> Measured {
        Measured { value, depth: self.depth, size: self.size }
    }
}
