//! Protobuf messages without their types: fields are found, changed and written again.

use fastrand::Rng;

#[derive(Clone, Debug, PartialEq)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Number(u64),
    /// Four or eight bytes.
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    /// Bytes that can be a message are taken for one.
    Message(Vec<Field>),
}

/// Returns the message with one change, at any depth.
pub fn changed(message: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut fields = parse(message).unwrap_or_default();
    change(&mut fields, rng);
    written(&fields)
}

/// Returns the message with another value in its field `number`. Its length does not change.
pub fn with_other_field(message: &[u8], number: u64, rng: &mut Rng) -> Vec<u8> {
    let mut fields = parse(message).expect("a message");
    let field = fields.iter_mut().find(|field| field.number == number).expect("the message has the field");
    match &mut field.value {
        Value::Number(number) => *number = number.wrapping_add(1),
        Value::Fixed(bytes) | Value::Bytes(bytes) => flip(bytes, rng),
        Value::Message(fields) => {
            let mut bytes = written(fields);
            flip(&mut bytes, rng);
            field.value = Value::Bytes(bytes);
        }
    }
    written(&fields)
}

fn change(fields: &mut Vec<Field>, rng: &mut Rng) {
    if fields.is_empty() {
        fields.push(Field { number: rng.u64(1..10), value: Value::Number(rng.u64(..)) });
        return;
    }
    let at = rng.usize(..fields.len());
    match rng.u8(..10) {
        0 => _ = fields.remove(at),
        1 => fields.push(fields[at].clone()),
        2 => {
            let other = rng.usize(..fields.len());
            fields.swap(at, other);
        }
        _ => change_value(&mut fields[at].value, rng),
    }
}

fn change_value(value: &mut Value, rng: &mut Rng) {
    match value {
        Value::Number(number) => {
            *number = match rng.u8(..4) {
                0 => number.wrapping_add(1),
                1 => number.wrapping_sub(1),
                2 => 0,
                _ => rng.u64(..),
            }
        }
        Value::Fixed(bytes) => flip(bytes, rng),
        Value::Bytes(bytes) => match rng.u8(..6) {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            2 => bytes.fill(0),
            _ => flip(bytes, rng),
        },
        Value::Message(fields) => change(fields, rng),
    }
}

fn flip(bytes: &mut Vec<u8>, rng: &mut Rng) {
    match bytes.len() {
        0 => bytes.push(rng.u8(..)),
        length => bytes[rng.usize(..length)] ^= 1 << rng.u8(..8),
    }
}

/// Returns `None` if the bytes are not a message.
fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let number = tag >> 3;
        if !(1..=100).contains(&number) {
            return None;
        }
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Fixed(taken(&mut bytes, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = taken(&mut bytes, length)?;
                match parse(&inner).filter(|fields| !fields.is_empty()) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(inner),
                }
            }
            5 => Value::Fixed(taken(&mut bytes, 4)?),
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = taken(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn taken(bytes: &mut &[u8], count: usize) -> Option<Vec<u8>> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken.to_vec())
}

fn written(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in fields {
        let (kind, bytes) = match value {
            Value::Number(number) => (0, as_varint(*number)),
            Value::Fixed(bytes) => (if bytes.len() == 8 { 1 } else { 5 }, bytes.clone()),
            Value::Bytes(bytes) => (2, with_length(bytes)),
            Value::Message(fields) => (2, with_length(&written(fields))),
        };
        out.extend(as_varint(number << 3 | kind));
        out.extend(bytes);
    }
    out
}

fn as_varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&as_varint(bytes.len() as u64)[..], bytes].concat()
}

#[test]
fn a_message_is_written_as_it_was_read_and_any_field_changes() {
    use aethyr_event_store::grpc::wire::{RecordedEvent, recorded_event::Data};
    use prost::Message;
    let event = RecordedEvent {
        event_id: "an id".to_owned(),
        data: Some(Data::Binary(vec![0; 100].into())),
        recorded_at: Some(prost_types::Timestamp { seconds: 1 << 40, nanos: 1 }),
        position: u64::MAX,
        ..RecordedEvent::default()
    };
    let bytes = event.encode_to_vec();
    assert_eq!(written(&parse(&bytes).unwrap()), bytes);
    let mut rng = Rng::with_seed(17);
    let different = (0..1000).filter(|_| changed(&bytes, &mut rng) != bytes).count();
    assert!(different > 900, "{different}");
    let other = RecordedEvent::decode(&*with_other_field(&bytes, 12, &mut rng)).unwrap();
    assert_eq!(other, RecordedEvent { position: 0, ..event });
}
