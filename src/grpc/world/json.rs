//! Converts JSON values between the wire (`google.protobuf.Value`) and the world.
//!
//! A number that may have been rounded on its way is rejected, and nesting is limited to what
//! protobuf decoders accept.

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value as Wire, value::Kind};
use serde_json::{Map, Number, Value};

/// From here on, a double cannot represent every whole number.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The maximum nesting of lists and objects in one value. Protobuf decoders stop at a depth of 100
/// messages, and each level takes up to three of them.
const DEPTH_MAX: usize = 24;

/// Converts a value from the wire. Whole numbers become integers.
///
/// # Errors
/// Returns the problem if the value has no kind, is nested too deeply, or has a number that JSON
/// cannot represent or that may have been rounded on its way.
pub(super) fn from_wire(value: Wire) -> Result<Value, &'static str> {
    from_wire_at(value, 0)
}

fn from_wire_at(value: Wire, depth: usize) -> Result<Value, &'static str> {
    if depth >= DEPTH_MAX && matches!(value.kind, Some(Kind::ListValue(_) | Kind::StructValue(_))) {
        return Err("has more than 24 levels of nested lists and objects");
    }
    let inner = |value| from_wire_at(value, depth.saturating_add(1));
    Ok(match value.kind.ok_or("has no value")? {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(value) => Value::Bool(value),
        Kind::StringValue(text) => Value::String(text),
        Kind::NumberValue(number) => Value::Number(number_from(number)?),
        Kind::ListValue(list) => Value::Array(list.values.into_iter().map(inner).collect::<Result<_, _>>()?),
        Kind::StructValue(members) => {
            let members = members.fields.into_iter().map(|(key, value)| Ok((key, inner(value)?)));
            Value::Object(members.collect::<Result<Map<_, _>, &'static str>>()?)
        }
    })
}

fn number_from(number: f64) -> Result<Number, &'static str> {
    if number.fract() != 0.0 {
        return Number::from_f64(number).ok_or("has a number that JSON cannot represent");
    }
    if number.abs() >= WHOLE_MAX {
        return Err("has a whole number of magnitude 2^53 or more, which is not exact; send it as a string");
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough")]
    let whole = number as i64;
    Ok(Number::from(whole))
}

/// Converts a value for the wire. Anything nested too deeply for clients to decode, which no
/// command can create, becomes text.
pub(super) fn to_wire(value: &Value) -> Wire {
    to_wire_at(value, 0)
}

fn to_wire_at(value: &Value, depth: usize) -> Wire {
    if depth >= DEPTH_MAX && (value.is_array() || value.is_object()) {
        return Wire { kind: Some(Kind::StringValue(value.to_string())) };
    }
    let inner = |value| to_wire_at(value, depth.saturating_add(1));
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(inner).collect() }),
        Value::Object(members) => {
            let fields = members.iter().map(|(key, value)| (key.clone(), inner(value)));
            Kind::StructValue(Struct { fields: fields.collect() })
        }
    };
    Wire { kind: Some(kind) }
}

pub(super) fn map_to_wire(values: &BTreeMap<String, Value>) -> BTreeMap<String, Wire> {
    values.iter().map(|(key, value)| (key.clone(), to_wire(value))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn any_json_comes_back_as_it_was() {
        let value =
            json!({"a": [1, -2.5, "x", null, true, {}], "b": {"c": [], "d": 9_007_199_254_740_991_i64}});
        assert_eq!(from_wire(to_wire(&value)), Ok(value));
    }

    #[test]
    fn a_number_that_is_not_what_was_meant_is_refused() {
        for number in [9_007_199_254_740_992.0, -1e300, f64::NAN, f64::INFINITY] {
            assert!(from_wire(Wire { kind: Some(Kind::NumberValue(number)) }).is_err(), "{number}");
        }
        assert!(from_wire(Wire { kind: None }).is_err());
    }

    #[test]
    fn what_is_too_deep_to_be_decoded_is_refused() {
        let nested = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert_eq!(from_wire(to_wire(&nested(DEPTH_MAX))), Ok(nested(DEPTH_MAX)));
        let deepest = (0..=DEPTH_MAX).fold(to_wire(&json!(1)), |inner, _| Wire {
            kind: Some(Kind::ListValue(ListValue { values: vec![inner] })),
        });
        assert!(from_wire(deepest).is_err());
        let text = to_wire(&nested(120));
        assert!(from_wire(text).unwrap().to_string().contains("\\\"a\\\""));
    }
}
