//! Reads small protobuf messages as strictly as the strictest version of etcd: 3.4 to 3.6 refuse a known field with the wrong
//! type, and 3.7 refuses numbers that the others accept.

/// The largest number that a field can have.
pub(crate) const MAX_FIELD: u64 = (1 << 29) - 1;

/// The type of a known field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    /// A number of any kind, a bool or an enumeration.
    Number,
    /// Bytes or text.
    Bytes,
    /// A message with these fields, which are numbered from 1.
    Message(&'static [Field]),
}

/// A field's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Reads a message with these fields, which are numbered from 1. Passes its own known fields to `on_field`, and skips unknown ones.
pub(crate) fn read<'b>(
    mut bytes: &'b [u8],
    fields: &[Field],
    on_field: &mut dyn FnMut(u64, Content<'b>),
) -> Result<(), &'static str> {
    while !bytes.is_empty() {
        let (number, content, rest) = next(bytes)?;
        bytes = rest;
        let known = usize::try_from(number - 1)
            .ok()
            .and_then(|at| fields.get(at));
        let content = match (known, content) {
            (None, _) => continue,
            (Some(_), None) => return Err("a field with a type that is not allowed"),
            (Some(Field::Number), Some(number @ Content::Number(_))) => number,
            (Some(Field::Bytes), Some(bytes @ Content::Bytes(_))) => bytes,
            (Some(Field::Message(fields)), Some(Content::Bytes(inner))) => {
                read(inner, fields, &mut |_, _| {})?;
                Content::Bytes(inner)
            }
            (Some(_), Some(_)) => return Err("a field with the wrong type"),
        };
        on_field(number, content);
    }
    Ok(())
}

/// Whether a message has a field.
pub(crate) fn has_field(mut bytes: &[u8], wanted: u64) -> Result<bool, &'static str> {
    while !bytes.is_empty() {
        let (number, _, rest) = next(bytes)?;
        if number == wanted {
            return Ok(true);
        }
        bytes = rest;
    }
    Ok(false)
}

/// The number and the content of the first field, which is `None` for numbers of a fixed size, and the bytes after it.
fn next(bytes: &[u8]) -> Result<(u64, Option<Content<'_>>, &[u8]), &'static str> {
    const NUMBER: u64 = 0;
    const FIXED64: u64 = 1;
    const BYTES: u64 = 2;
    const FIXED32: u64 = 5;
    let (tag, rest) = varint(bytes).ok_or("a field without its field number")?;
    let (number, wire_type) = (tag >> 3, tag & 7);
    if !(1..=MAX_FIELD).contains(&number) {
        return Err("a field number that is not valid");
    }
    match wire_type {
        NUMBER => {
            let (value, rest) = varint(rest).ok_or("a truncated number")?;
            Ok((number, Some(Content::Number(value)), rest))
        }
        BYTES => {
            let (len, rest) = varint(rest).ok_or("a truncated length")?;
            let (value, rest) = split_at(rest, len)?;
            Ok((number, Some(Content::Bytes(value)), rest))
        }
        FIXED64 => split_at(rest, 8).map(|(_, rest)| (number, None, rest)),
        FIXED32 => split_at(rest, 4).map(|(_, rest)| (number, None, rest)),
        _ => Err("a field with a type that is not allowed"),
    }
}

fn split_at(bytes: &[u8], len: u64) -> Result<(&[u8], &[u8]), &'static str> {
    let len = usize::try_from(len).ok();
    let split = len.and_then(|len| bytes.split_at_checked(len));
    split.ok_or("a field longer than the message")
}

/// Reads a message whose fields are all numbers.
pub(crate) fn numbers<const N: usize>(bytes: &[u8]) -> Result<[u64; N], &'static str> {
    let mut numbers = [0; N];
    read(bytes, &[Field::Number; N], &mut |field, content| {
        let place = usize::try_from(field - 1)
            .ok()
            .and_then(|at| numbers.get_mut(at));
        if let (Some(place), Content::Number(number)) = (place, content) {
            *place = number;
        }
    })?;
    Ok(numbers)
}

/// Reads a varint, and returns it with the bytes after it.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    const MAX_BYTES: usize = 10;
    let mut number = 0u64;
    for (index, byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if index == MAX_BYTES - 1 && bits > 1 {
            return None;
        }
        number |= bits << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field::Bytes,
        Field::Number,
        Field::Message(&[Field::Number]),
    ];

    fn read_numbers(bytes: &[u8]) -> Result<Vec<u64>, &'static str> {
        let mut numbers = Vec::new();
        read(bytes, FIELDS, &mut |number, _| numbers.push(number))?;
        Ok(numbers)
    }

    #[test]
    fn known_fields_are_shown_and_unknown_ones_passed_over() {
        let bytes = b"\x0a\x01a\x10\x81\x00\x1a\x02\x08\x01\x20\x07\x29\0\0\0\0\0\0\0\0\x35\0\0\0\0\x0a\x00";
        assert_eq!(read_numbers(bytes), Ok(vec![1, 2, 3, 1]));
        assert_eq!(read_numbers(b""), Ok(vec![]));
    }

    #[test]
    fn whatever_one_version_of_etcd_refuses_is_refused() {
        for (bytes, problem) in [
            (&b"\x80"[..], "without its field number"),
            (b"\x00\x00", "that is not valid"),
            (b"\x80\x80\x80\x80\x10\x01", "that is not valid"),
            (b"\x10", "a truncated number"),
            (
                b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                "a truncated number",
            ),
            (b"\x0a", "a truncated length"),
            (b"\x0a\x05abc", "longer than"),
            (b"\x08\x01", "the wrong type"),
            (b"\x12\x00", "the wrong type"),
            (b"\x11\0\0\0\0\0\0\0\0", "a type that is not allowed"),
            (b"\x23\x24", "a type that is not allowed"),
            (b"\x24", "a type that is not allowed"),
            (b"\x1a\x01\x08", "a truncated number"),
            (b"\x29\0\0", "longer than"),
        ] {
            let error = read_numbers(bytes).unwrap_err();
            assert!(error.contains(problem), "{bytes:x?}: {error}");
        }
    }
}
