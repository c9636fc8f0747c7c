//! A reader of Ruby's Marshal format, version 4.8, for the types that Aethyr's own event store
//! writes. Objects, classes, structures and modules are rejected, so no code is ever named.
//!
//! Every bound is checked before memory is used for what it limits: the bytes, the values, their
//! depth, and the size of a value with all links expanded. So links to one object cannot make a
//! small input large.

use std::rc::Rc;

use super::{
    extent::{DEPTH_MAX, Extent, Measured, SIZE_MAX},
    ruby_time::{self, Nanos},
    value::Value,
};
use crate::event::record::RUBY_MARSHAL;

/// The maximum size of an input.
pub(crate) const INPUT_BYTES_MAX: usize = 4 << 20;
const VALUES_MAX: u32 = 1 << 18;
/// The maximum length of an integer beyond 64 bits, in units of 16 bits.
const LARGE_WORDS_MAX: usize = 64;
const FLOAT_BYTES_MAX: usize = 64;
const VARIABLES_MAX: usize = 16;

/// Why an input cannot be read, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {fault}")]
pub(crate) struct MarshalError {
    /// The offset of the part that is wrong.
    pub offset: usize,
    pub fault: MarshalFault,
}

/// What is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MarshalFault {
    #[error("has {0} bytes; at most {INPUT_BYTES_MAX} are supported")]
    TooLong(usize),
    #[error("does not begin as Ruby's Marshal format, version 4.8")]
    NotMarshal,
    #[error("ends too early")]
    EndsEarly,
    #[error("{0} is not a valid length")]
    Length(i64),
    #[error("the type {0:?} is not supported")]
    Type(char),
    #[error("values of the type {0:?} must not have variables")]
    Variables(char),
    #[error("there is no symbol {0}")]
    NoSymbol(i64),
    #[error("there is no object {0}")]
    NoObject(i64),
    #[error("an object contains itself")]
    Cycle,
    #[error("a symbol is expected")]
    NotSymbol,
    #[error("a symbol is not valid UTF-8")]
    SymbolText,
    #[error("an invalid floating-point number")]
    Float,
    #[error("an invalid integer")]
    Large,
    #[error("{0}")]
    Time(&'static str),
    #[error("values are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("there are more than {VALUES_MAX} values")]
    TooMany,
    #[error("the value needs more than {SIZE_MAX} bytes as JSON with its links expanded")]
    TooLarge,
    #[error("bytes follow the value")]
    Trailing,
}

/// Reads the only value of an input.
///
/// # Errors
/// Returns an error if the input is not valid, has an unsupported type, or exceeds a bound.
pub(super) fn read(bytes: &[u8]) -> Result<Value, MarshalError> {
    let mut reader = Reader { bytes, at: 0, symbols: Vec::new(), objects: Vec::new(), values: 0, depth: 0 };
    reader.root().map_err(|fault| MarshalError { offset: reader.at.min(bytes.len()), fault })
}

pub(super) type Outcome<T> = Result<T, MarshalFault>;

/// The variables of a string or a time.
#[derive(Default)]
struct Variables {
    encoding: Encoding,
    nanos: Nanos,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    #[default]
    Binary,
    Ascii,
    Utf8,
    Latin1,
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    symbols: Vec<Rc<str>>,
    /// `None` while an object is being read.
    objects: Vec<Option<Measured>>,
    values: u32,
    depth: u32,
}

impl<'b> Reader<'b> {
    fn root(&mut self) -> Outcome<Value> {
        if self.bytes.len() > INPUT_BYTES_MAX {
            return Err(MarshalFault::TooLong(self.bytes.len()));
        }
        if !self.bytes.starts_with(&RUBY_MARSHAL) {
            return Err(MarshalFault::NotMarshal);
        }
        self.at = RUBY_MARSHAL.len();
        let root = self.value()?;
        if self.at < self.bytes.len() { Err(MarshalFault::Trailing) } else { Ok(root.value) }
    }

    fn value(&mut self) -> Outcome<Measured> {
        if self.depth >= DEPTH_MAX {
            return Err(MarshalFault::TooDeep);
        }
        if self.values >= VALUES_MAX {
            return Err(MarshalFault::TooMany);
        }
        self.values = self.values.saturating_add(1);
        self.depth = self.depth.saturating_add(1);
        let value = self.tagged();
        self.depth = self.depth.saturating_sub(1);
        value
    }

    fn tagged(&mut self) -> Outcome<Measured> {
        let start = self.at;
        let value = match self.byte()? {
            b'0' => Value::Nil,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            b'i' => Value::Integer(self.integer()?),
            b':' => Value::Symbol(self.symbol()?),
            b';' => Value::Symbol(self.symbol_link()?),
            b'@' => return self.object_link(),
            b'"' => return self.plain_string(),
            b'f' => return self.float(),
            b'l' => return self.large(),
            b'[' => return self.array(),
            b'{' => return self.hash(HashDefault::Absent),
            b'}' => return self.hash(HashDefault::Follows),
            b'I' => return self.with_variables(),
            b'u' => return self.user_defined(HasVariables::No),
            other => {
                self.at = start;
                return Err(MarshalFault::Type(other.into()));
            }
        };
        Ok(Measured::leaf(value))
    }

    fn byte(&mut self) -> Outcome<u8> {
        let byte = *self.bytes.get(self.at).ok_or(MarshalFault::EndsEarly)?;
        self.at = self.at.saturating_add(1);
        Ok(byte)
    }

    fn take(&mut self, count: usize) -> Outcome<&'b [u8]> {
        let end = self.at.checked_add(count).ok_or(MarshalFault::EndsEarly)?;
        let taken = self.bytes.get(self.at..end).ok_or(MarshalFault::EndsEarly)?;
        self.at = end;
        Ok(taken)
    }

    /// Reads an integer of at most 32 bits.
    fn integer(&mut self) -> Outcome<i64> {
        let first = i64::from(self.byte()?.cast_signed());
        match first {
            0 => Ok(0),
            5.. => Ok(first.saturating_sub(5)),
            ..=-5 => Ok(first.saturating_add(5)),
            1..=4 => self.little_endian(first.unsigned_abs()),
            -4..=-1 => {
                let count = first.unsigned_abs();
                let bits = u32::try_from(count.saturating_mul(8)).unwrap_or_default();
                let below = 1i64.checked_shl(bits).unwrap_or_default();
                Ok(self.little_endian(count)?.saturating_sub(below))
            }
        }
    }

    fn little_endian(&mut self, count: u64) -> Outcome<i64> {
        let count = usize::try_from(count).unwrap_or_default();
        let bytes = self.take(count)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| (number << 8) | i64::from(*byte)))
    }

    /// Reads a number of parts of which each has at least `part_bytes` bytes.
    fn count(&mut self, part_bytes: usize) -> Outcome<usize> {
        let start = self.at;
        let count = self.integer()?;
        let rest = self.bytes.len().saturating_sub(self.at);
        let fits = |count: &usize| count.checked_mul(part_bytes).is_some_and(|bytes| bytes <= rest);
        match usize::try_from(count).ok().filter(fits) {
            Some(count) => Ok(count),
            None => {
                self.at = start;
                Err(MarshalFault::Length(count))
            }
        }
    }

    fn sized(&mut self) -> Outcome<&'b [u8]> {
        let count = self.count(1)?;
        self.take(count)
    }

    fn symbol(&mut self) -> Outcome<Rc<str>> {
        let text: Rc<str> = std::str::from_utf8(self.sized()?).map_err(|_| MarshalFault::SymbolText)?.into();
        self.symbols.push(text.clone());
        Ok(text)
    }

    fn symbol_link(&mut self) -> Outcome<Rc<str>> {
        let number = self.integer()?;
        let found = usize::try_from(number).ok().and_then(|at| self.symbols.get(at));
        found.cloned().ok_or(MarshalFault::NoSymbol(number))
    }

    /// Reads a symbol where nothing else is allowed.
    fn name(&mut self) -> Outcome<Rc<str>> {
        match self.value()?.value {
            Value::Symbol(name) => Ok(name),
            _ => Err(MarshalFault::NotSymbol),
        }
    }

    fn object_link(&mut self) -> Outcome<Measured> {
        let number = self.integer()?;
        let found = usize::try_from(number).ok().and_then(|at| self.objects.get(at));
        found.ok_or(MarshalFault::NoObject(number))?.clone().ok_or(MarshalFault::Cycle)
    }

    /// Gives the next number to an object that is complete.
    fn keep(&mut self, value: Value) -> Measured {
        let object = Measured::leaf(value);
        self.objects.push(Some(object.clone()));
        object
    }

    /// Gives the next number to an object that is not complete yet.
    fn begin(&mut self) -> usize {
        self.objects.push(None);
        self.objects.len().saturating_sub(1)
    }

    fn end(&mut self, number: usize, object: Measured) -> Measured {
        if let Some(place) = self.objects.get_mut(number) {
            *place = Some(object.clone());
        }
        object
    }

    fn plain_string(&mut self) -> Outcome<Measured> {
        let value = text_in(self.sized()?, Encoding::Binary);
        Ok(self.keep(value))
    }

    fn float(&mut self) -> Outcome<Measured> {
        let text = self.sized()?;
        if text.len() > FLOAT_BYTES_MAX {
            return Err(MarshalFault::Float);
        }
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let number = number.ok_or(MarshalFault::Float)?;
        Ok(self.keep(Value::Float(number)))
    }

    fn large(&mut self) -> Outcome<Measured> {
        let sign = self.byte()?;
        let words = self.count(2)?;
        if words > LARGE_WORDS_MAX || !matches!(sign, b'+' | b'-') {
            return Err(MarshalFault::Large);
        }
        let digits = decimal(self.take(words.saturating_mul(2))?);
        let text = if sign == b'-' && digits != "0" { format!("-{digits}") } else { digits };
        let value = text.parse().map_or_else(|_| Value::Large(text.into()), Value::Integer);
        Ok(self.keep(value))
    }

    fn array(&mut self) -> Outcome<Measured> {
        let count = self.count(1)?;
        let number = self.begin();
        let (mut items, mut extent) = (Vec::new(), Extent::new());
        for _ in 0..count {
            let item = self.value()?;
            extent.add(&item)?;
            items.push(item.value);
        }
        Ok(self.end(number, extent.of(Value::Array(Rc::new(items)))))
    }

    fn hash(&mut self, default: HashDefault) -> Outcome<Measured> {
        let count = self.count(2)?;
        let number = self.begin();
        let (mut pairs, mut extent) = (Vec::new(), Extent::new());
        for _ in 0..count {
            let (key, value) = (self.value()?, self.value()?);
            extent.add_pair(&key, &value)?;
            pairs.push((key.value, value.value));
        }
        if default == HashDefault::Follows {
            // The value that Ruby returns for a missing key. It is not part of the contents.
            self.value()?;
        }
        Ok(self.end(number, extent.of(Value::Hash(Rc::new(pairs)))))
    }

    fn with_variables(&mut self) -> Outcome<Measured> {
        let start = self.at;
        match self.byte()? {
            b'u' => self.user_defined(HasVariables::Yes),
            b':' => {
                let symbol = self.symbol()?;
                self.variables()?;
                Ok(Measured::leaf(Value::Symbol(symbol)))
            }
            b'"' => {
                let bytes = self.sized()?;
                let number = self.begin();
                let variables = self.variables()?;
                Ok(self.end(number, Measured::leaf(text_in(bytes, variables.encoding))))
            }
            other => {
                self.at = start;
                Err(MarshalFault::Variables(other.into()))
            }
        }
    }

    /// Reads a `Time`, which is the only object with a format of its own that is supported.
    fn user_defined(&mut self, has_variables: HasVariables) -> Outcome<Measured> {
        let start = self.at;
        if &*self.name()? != "Time" {
            self.at = start;
            return Err(MarshalFault::Type('u'));
        }
        let bytes = self.sized()?;
        let variables = match has_variables {
            HasVariables::Yes => self.variables()?,
            HasVariables::No => Variables::default(),
        };
        let time = ruby_time::decode(bytes, variables.nanos).map_err(|what| {
            self.at = start;
            MarshalFault::Time(what)
        })?;
        // Its number comes after those of its variables.
        Ok(self.keep(Value::Time(time)))
    }

    fn variables(&mut self) -> Outcome<Variables> {
        let start = self.at;
        let count = self.count(2)?;
        if count > VARIABLES_MAX {
            self.at = start;
            return Err(MarshalFault::Length(i64::try_from(count).unwrap_or(i64::MAX)));
        }
        let mut variables = Variables::default();
        for _ in 0..count {
            let name = self.name()?;
            match (&*name, self.value()?.value) {
                ("E", Value::Bool(true)) => variables.encoding = Encoding::Utf8,
                ("E", Value::Bool(false)) => variables.encoding = Encoding::Ascii,
                ("encoding", Value::Text(name)) if &*name == "ISO-8859-1" => {
                    variables.encoding = Encoding::Latin1;
                }
                ("nano_num", Value::Integer(number)) => variables.nanos.numerator = number,
                ("nano_den", Value::Integer(number)) => variables.nanos.denominator = Some(number),
                _ => {}
            }
        }
        Ok(variables)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HashDefault {
    Absent,
    Follows,
}

#[derive(Clone, Copy)]
enum HasVariables {
    Yes,
    No,
}

fn text_in(bytes: &[u8], encoding: Encoding) -> Value {
    let is_text = encoding == Encoding::Utf8 || bytes.is_ascii();
    match std::str::from_utf8(bytes) {
        Ok(text) if is_text => Value::Text(text.into()),
        _ if encoding == Encoding::Latin1 => {
            Value::Text(bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into())
        }
        _ => Value::Bytes(bytes.into()),
    }
}

/// Returns a number in little-endian order as decimal digits.
fn decimal(bytes: &[u8]) -> String {
    /// The first digits of a group of nine follow those of the group after it.
    const GROUP: u64 = 1_000_000_000;
    let mut groups: Vec<u64> = Vec::new();
    for byte in bytes.iter().rev() {
        let mut carry = u64::from(*byte);
        for group in &mut groups {
            let value = group.saturating_mul(256).saturating_add(carry);
            (*group, carry) = (value % GROUP, value / GROUP);
        }
        if carry > 0 {
            groups.push(carry);
        }
    }
    let Some(first) = groups.pop() else { return "0".to_owned() };
    let rest = groups.iter().rev().map(|group| format!("{group:09}"));
    std::iter::once(first.to_string()).chain(rest).collect()
}
