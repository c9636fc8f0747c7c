//! A hand-written protobuf codec, which keeps the load generator cheap. Messages are written into
//! one buffer, and responses are scanned without allocating memory.

/// Writes a number. The default 0 is omitted, as in proto3.
pub fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    if number != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, number);
    }
}

/// Writes bytes, a string, or an encoded message.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes the message that `fill` encodes.
pub fn put_message(out: &mut Vec<u8>, field: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::with_capacity(512);
    fill(&mut inner);
    put_bytes(out, field, &inner);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A fixed-width value, which is not used here.
    Fixed,
}

impl<'a> Value<'a> {
    pub fn number(self) -> u64 {
        if let Self::Number(number) = self { number } else { 0 }
    }

    pub fn bytes(self) -> &'a [u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }
}

/// Iterates over the fields of a message, in order. Ends at the first malformed field.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).ok()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            1 | 5 => {
                let width = if key & 7 == 1 { 8 } else { 4 };
                self.0 = self.0.split_at_checked(width)?.1;
                Value::Fixed
            }
            _ => return None,
        };
        Some((field, value))
    }
}

/// Returns the first value of a field.
pub fn find(message: &[u8], field: u32) -> Option<Value<'_>> {
    Fields(message).find(|(number, _)| *number == field).map(|(_, value)| value)
}

/// Returns how often a field occurs.
pub fn count(message: &[u8], field: u32) -> u64 {
    Fields(message).filter(|(number, _)| *number == field).count() as u64
}
