//! A value of Ruby, as far as Aethyr's own event store writes them.

use std::rc::Rc;

use crate::event::Timestamp;

/// A value. Links to one object share it, so a clone is cheap.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Integer(i64),
    /// An integer beyond 64 bits, in decimal.
    Large(Rc<str>),
    Float(f64),
    Text(Rc<str>),
    /// A string that is not valid in its encoding, or has one that is not supported.
    Bytes(Rc<[u8]>),
    Symbol(Rc<str>),
    Array(Rc<Vec<Value>>),
    Hash(Rc<Vec<(Value, Value)>>),
    Time(Timestamp),
}
