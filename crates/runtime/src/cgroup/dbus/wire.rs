//! Messages as bytes (D-Bus Specification, "Message Protocol").

use super::DbusError;

/// Nesting that is followed; the specification allows 64 levels in all.
const MAX_DEPTH: usize = 64;

/// The longest array, by the specification.
const MAX_ARRAY: usize = 64 << 20;

/// What a message is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Kind {
    Call,
    Return,
    Error,
    Signal,
}

/// A value of one of the types that we send, or that systemd answers with.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Value {
    Byte(u8),
    Boolean(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    String(String),
    Path(String),
    Signature(String),
    /// The elements, and the signature of one.
    Array(String, Vec<Value>),
    Structure(Vec<Value>),
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

impl Value {
    pub(in super::super) fn string(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    /// The type of the value.
    pub(in super::super) fn signature(&self) -> String {
        let letter = match self {
            Value::Byte(_) => "y",
            Value::Boolean(_) => "b",
            Value::Int16(_) => "n",
            Value::Uint16(_) => "q",
            Value::Int32(_) => "i",
            Value::Uint32(_) => "u",
            Value::Int64(_) => "x",
            Value::Uint64(_) => "t",
            Value::Double(_) => "d",
            Value::String(_) => "s",
            Value::Path(_) => "o",
            Value::Signature(_) => "g",
            Value::Variant(_) => "v",
            Value::Array(element, _) => return format!("a{element}"),
            Value::Structure(fields) => {
                let inner: String = fields.iter().map(Value::signature).collect();
                return format!("({inner})");
            }
            Value::Entry(entry) => {
                return format!("{{{}{}}}", entry.0.signature(), entry.1.signature());
            }
        };
        letter.to_owned()
    }

    fn alignment(&self) -> usize {
        alignment(self.signature().as_bytes()[0])
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        pad(bytes, self.alignment());
        match self {
            Value::Byte(value) => bytes.push(*value),
            Value::Boolean(value) => bytes.extend(u32::from(*value).to_le_bytes()),
            Value::Int16(value) => bytes.extend(value.to_le_bytes()),
            Value::Uint16(value) => bytes.extend(value.to_le_bytes()),
            Value::Int32(value) => bytes.extend(value.to_le_bytes()),
            Value::Uint32(value) => bytes.extend(value.to_le_bytes()),
            Value::Int64(value) => bytes.extend(value.to_le_bytes()),
            Value::Uint64(value) => bytes.extend(value.to_le_bytes()),
            Value::Double(value) => bytes.extend(value.to_le_bytes()),
            Value::String(text) | Value::Path(text) => {
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
                bytes.push(0);
            }
            Value::Signature(text) => {
                bytes.push(text.len() as u8);
                bytes.extend(text.as_bytes());
                bytes.push(0);
            }
            Value::Array(element, values) => {
                let length_at = bytes.len();
                bytes.extend([0; 4]);
                // The padding before the first element is not part of the length.
                pad(bytes, alignment(element.as_bytes()[0]));
                let start = bytes.len();
                for value in values {
                    value.encode(bytes);
                }
                let length = (bytes.len() - start) as u32;
                bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Structure(fields) => {
                for field in fields {
                    field.encode(bytes);
                }
            }
            Value::Entry(entry) => {
                entry.0.encode(bytes);
                entry.1.encode(bytes);
            }
            Value::Variant(value) => {
                Value::Signature(value.signature()).encode(bytes);
                value.encode(bytes);
            }
        }
    }
}

/// Where a type begins: at a multiple of this.
fn alignment(letter: u8) -> usize {
    match letter {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

fn pad(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

/// A message; the fields that a kind does not have are `None`.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Message {
    pub(in super::super) kind: Kind,
    pub(in super::super) serial: u32,
    pub(in super::super) path: Option<String>,
    pub(in super::super) interface: Option<String>,
    pub(in super::super) member: Option<String>,
    pub(in super::super) error_name: Option<String>,
    pub(in super::super) reply_serial: Option<u32>,
    pub(in super::super) destination: Option<String>,
    pub(in super::super) body: Vec<Value>,
}

impl Message {
    /// A call of a method.
    pub(in super::super) fn call(
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Vec<Value>,
    ) -> Message {
        Message {
            kind: Kind::Call,
            serial: 0,
            path: Some(path.to_owned()),
            interface: Some(interface.to_owned()),
            member: Some(member.to_owned()),
            error_name: None,
            reply_serial: None,
            destination: Some(destination.to_owned()),
            body,
        }
    }

    /// The message as little-endian bytes.
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        let mut field = |code: u8, value: Option<Value>| {
            if let Some(value) = value {
                let value = Value::Variant(Box::new(value));
                fields.push(Value::Structure(vec![Value::Byte(code), value]));
            }
        };
        field(1, self.path.clone().map(Value::Path));
        field(2, self.interface.clone().map(Value::String));
        field(3, self.member.clone().map(Value::String));
        field(4, self.error_name.clone().map(Value::String));
        field(5, self.reply_serial.map(Value::Uint32));
        field(6, self.destination.clone().map(Value::String));
        let signature: String = self.body.iter().map(Value::signature).collect();
        field(
            8,
            (!signature.is_empty()).then_some(Value::Signature(signature)),
        );

        let mut body = Vec::new();
        for value in &self.body {
            value.encode(&mut body);
        }
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        let mut bytes = vec![b'l', kind, 0, 1];
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(self.serial.to_le_bytes());
        Value::Array("(yv)".to_owned(), fields).encode(&mut bytes);
        pad(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }

    /// Reads a whole message.
    pub(in super::super) fn decode(bytes: &[u8]) -> Result<Message, DbusError> {
        let mut reader = Reader::new(bytes)?;
        let kind = match bytes.get(1) {
            Some(1) => Kind::Call,
            Some(2) => Kind::Return,
            Some(3) => Kind::Error,
            Some(4) => Kind::Signal,
            _ => return Err(malformed("it is of an unknown kind")),
        };
        reader.at = 8;
        let mut message = Message {
            kind,
            serial: reader.u32()?,
            path: None,
            interface: None,
            member: None,
            error_name: None,
            reply_serial: None,
            destination: None,
            body: Vec::new(),
        };
        let Value::Array(_, fields) = reader.value(&mut b"a(yv)".as_slice(), 0)? else {
            return Err(malformed("it has no fields"));
        };
        let mut signature = String::new();
        for field in fields {
            let Value::Structure(pair) = field else {
                continue;
            };
            let [Value::Byte(code), Value::Variant(value)] = &pair[..] else {
                continue;
            };
            match (code, &**value) {
                (1, Value::Path(text)) => message.path = Some(text.clone()),
                (2, Value::String(text)) => message.interface = Some(text.clone()),
                (3, Value::String(text)) => message.member = Some(text.clone()),
                (4, Value::String(text)) => message.error_name = Some(text.clone()),
                (5, Value::Uint32(serial)) => message.reply_serial = Some(*serial),
                (6, Value::String(text)) => message.destination = Some(text.clone()),
                (8, Value::Signature(text)) => signature.clone_from(text),
                _ => {}
            }
        }
        reader.align(8)?;
        let mut rest = signature.as_bytes();
        while !rest.is_empty() {
            message.body.push(reader.value(&mut rest, 0)?);
        }
        Ok(message)
    }
}

/// The length of the message that begins the bytes, once enough of it is there to tell.
pub(super) fn message_length(bytes: &[u8]) -> Result<Option<usize>, DbusError> {
    if bytes.len() < 16 {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes)?;
    reader.at = 4;
    let body = reader.u32()? as usize;
    reader.at = 12;
    let fields = reader.u32()? as usize;
    if body > MAX_ARRAY * 2 || fields > MAX_ARRAY {
        return Err(malformed("it is too long"));
    }
    Ok(Some((16 + fields).next_multiple_of(8) + body))
}

fn malformed(reason: &'static str) -> DbusError {
    DbusError::Malformed { reason }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Reader<'a>, DbusError> {
        let is_big = match bytes.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => return Err(malformed("it is of an unknown byte order")),
        };
        Ok(Reader {
            bytes,
            at: 0,
            is_big,
        })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DbusError> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| malformed("it ends in the middle of a value"))?;
        self.at += count;
        Ok(taken)
    }

    fn align(&mut self, alignment: usize) -> Result<(), DbusError> {
        let padding = self.at.next_multiple_of(alignment) - self.at;
        self.take(padding).map(|_| ())
    }

    fn number<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], DbusError> {
        self.align(SIZE)?;
        let mut number = [0; SIZE];
        number.copy_from_slice(self.take(SIZE)?);
        if self.is_big {
            number.reverse();
        }
        Ok(number)
    }

    fn u32(&mut self) -> Result<u32, DbusError> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn text(&mut self, length: usize) -> Result<String, DbusError> {
        let bytes = self.take(length)?.to_vec();
        if self.take(1)? != [0] {
            return Err(malformed("a string does not end"));
        }
        String::from_utf8(bytes).map_err(|_| malformed("a string is not UTF-8"))
    }

    /// Reads a value of the type that `signature` begins with, and takes that type off.
    fn value(&mut self, signature: &mut &[u8], depth: usize) -> Result<Value, DbusError> {
        if depth > MAX_DEPTH {
            return Err(malformed("it is nested too deeply"));
        }
        let Some((letter, rest)) = signature.split_first() else {
            return Err(malformed("a type is missing"));
        };
        *signature = rest;
        Ok(match letter {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Boolean(self.u32()? != 0),
            b'n' => Value::Int16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::Uint16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::Int32(i32::from_le_bytes(self.number()?)),
            b'u' | b'h' => Value::Uint32(self.u32()?),
            b'x' => Value::Int64(i64::from_le_bytes(self.number()?)),
            b't' => Value::Uint64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(f64::from_le_bytes(self.number()?)),
            b's' | b'o' => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if *letter == b's' {
                    Value::String(text)
                } else {
                    Value::Path(text)
                }
            }
            b'g' => {
                let length = self.take(1)?[0].into();
                Value::Signature(self.text(length)?)
            }
            b'v' => {
                let length = self.take(1)?[0].into();
                let inner = self.text(length)?;
                let mut rest = inner.as_bytes();
                let value = self.value(&mut rest, depth + 1)?;
                if !rest.is_empty() {
                    return Err(malformed("a variant has several types"));
                }
                Value::Variant(Box::new(value))
            }
            b'a' => self.array(signature, depth)?,
            b'(' => {
                self.align(8)?;
                let mut fields = Vec::new();
                while signature.first() != Some(&b')') {
                    fields.push(self.value(signature, depth + 1)?);
                }
                *signature = &signature[1..];
                Value::Structure(fields)
            }
            b'{' => {
                self.align(8)?;
                let key = self.value(signature, depth + 1)?;
                let value = self.value(signature, depth + 1)?;
                if signature.first() != Some(&b'}') {
                    return Err(malformed("an entry is not a pair"));
                }
                *signature = &signature[1..];
                Value::Entry(Box::new((key, value)))
            }
            _ => return Err(malformed("a type is unknown")),
        })
    }

    fn array(&mut self, signature: &mut &[u8], depth: usize) -> Result<Value, DbusError> {
        let length = self.u32()? as usize;
        let element = &signature[..type_length(signature, 0)?];
        *signature = &signature[element.len()..];
        self.align(alignment(element[0]))?;
        let end = self.at.saturating_add(length);
        if end > self.bytes.len() {
            return Err(malformed("an array is longer than the message"));
        }
        let mut values = Vec::new();
        while self.at < end {
            // Every type has at least one byte, so this ends.
            let mut rest = element;
            values.push(self.value(&mut rest, depth + 1)?);
        }
        if self.at != end {
            return Err(malformed("an array ends in the middle of a value"));
        }
        let element = String::from_utf8_lossy(element).into_owned();
        Ok(Value::Array(element, values))
    }
}

/// How many letters the first type of a signature has.
fn type_length(signature: &[u8], depth: usize) -> Result<usize, DbusError> {
    if depth > MAX_DEPTH {
        return Err(malformed("it is nested too deeply"));
    }
    let close = match signature.first() {
        None => return Err(malformed("a type is missing")),
        Some(b'a') => return Ok(1 + type_length(&signature[1..], depth + 1)?),
        Some(b'(') => b')',
        Some(b'{') => b'}',
        Some(_) => return Ok(1),
    };
    let mut length = 1;
    while signature.get(length) != Some(&close) {
        length += type_length(&signature[length..], depth + 1)?;
    }
    // An empty structure would have no bytes, and an array of them no end.
    if length == 1 {
        return Err(malformed("a structure is empty"));
    }
    Ok(length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let mut message = Message::call("d.D", "/p", "i.I", "M", vec![Value::string("x")]);
        message.serial = 1;
        let expected: Vec<u8> = [
            b"l\x01\x00\x01".as_slice(),
            &6_u32.to_le_bytes(),
            &1_u32.to_le_bytes(),
            // From the first field to the end of the last one.
            &71_u32.to_le_bytes(),
            b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.I\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0d.D\0\0\0\0\0",
            b"\x08\x01g\0\x01s\0",
            b"\0",
            b"\x01\0\0\0x\0",
        ]
        .concat();
        assert_eq!(message.encode(), expected);
        assert_eq!(message_length(&expected).unwrap(), Some(expected.len()));
    }

    #[test]
    fn values_come_back_as_they_went() {
        let variant = |value| Value::Variant(Box::new(value));
        let property =
            |name: &str, value| Value::Structure(vec![Value::string(name), variant(value)]);
        let body = vec![
            Value::Byte(7),
            Value::Array(
                "(sv)".into(),
                vec![
                    property("PIDs", Value::Array("u".into(), vec![Value::Uint32(1)])),
                    property("Empty", Value::Array("(ss)".into(), vec![])),
                    property("On", Value::Boolean(true)),
                    property("MemoryMax", Value::Uint64(u64::MAX)),
                ],
            ),
            Value::Int16(-2),
            Value::Uint16(3),
            Value::Int32(-4),
            Value::Int64(-5),
            Value::Double(0.5),
            Value::Path("/a/b".into()),
            Value::Signature("a{sv}".into()),
            Value::Array(
                "{sv}".into(),
                vec![Value::Entry(Box::new((
                    Value::string("k"),
                    variant(Value::string("v")),
                )))],
            ),
        ];
        let message = Message {
            kind: Kind::Return,
            reply_serial: Some(9),
            ..Message::call("d", "/p", "i", "M", body)
        };
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes).unwrap(), message);
        // Whatever is cut off or changed is an error or another message, never a panic.
        for end in 0..bytes.len() {
            assert!(Message::decode(&bytes[..end]).is_err(), "{end}");
        }
        for at in 0..bytes.len() {
            for byte in [0, 1, b'a', b'(', b'{', b'v', 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                let _ = message_length(&changed);
                let _ = Message::decode(&changed);
            }
        }
    }

    #[test]
    fn types_that_have_no_bytes_are_refused() {
        for signature in ["()", "a()", "a", "(", "a(", "{s", "z"] {
            let length = type_length(signature.as_bytes(), 0);
            let message = Message::call("d", "/p", "i", "M", vec![]);
            let mut bytes = message.encode();
            let mut reader = Reader::new(&bytes).unwrap();
            let read = reader.value(&mut signature.as_bytes(), 0);
            assert!(length.is_err() || read.is_err(), "{signature}");
            bytes.clear();
        }
        let deep = "a".repeat(200) + "y";
        assert!(type_length(deep.as_bytes(), 0).is_err());
    }
}
