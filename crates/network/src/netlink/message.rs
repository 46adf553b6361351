//! Netlink wire format: a batch of requests on the way out, attributes on the way in.
//!
//! Lengths and alignment follow `linux/netlink.h`: headers are 16 bytes in host order, everything
//! is padded to 4 bytes.

use rustix::io::Errno;

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// Set on an attribute that contains attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that are its number (without nested and byte order flags).
const TYPE_MASK: u16 = 0x3fff;

/// The request may be answered, changes something or starts a dump (`NLM_F_*`).
pub mod flag {
    /// `NLM_F_REQUEST`.
    pub const REQUEST: u16 = 0x1;
    /// `NLM_F_ACK`.
    pub const ACK: u16 = 0x4;
    /// `NLM_F_DUMP`.
    pub const DUMP: u16 = 0x300;
    /// `NLM_F_REPLACE`.
    pub const REPLACE: u16 = 0x100;
    /// `NLM_F_EXCL`.
    pub const EXCLUSIVE: u16 = 0x200;
    /// `NLM_F_CREATE`.
    pub const CREATE: u16 = 0x400;
    /// `NLM_F_APPEND`.
    pub const APPEND: u16 = 0x800;
}

/// What is known of one request of a batch, for errors and acknowledgements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) offset: usize,
    pub(super) operation: &'static str,
    pub(super) object: &'a str,
    pub(super) tolerated: &'a [Errno],
}

/// What a request does and to what, for the error should it fail.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// A verb phrase such as `create bridge`.
    pub operation: &'static str,
    /// The name of the object.
    pub object: &'a str,
    /// Errors that count as success.
    pub tolerated: &'a [Errno],
}

impl<'a> Purpose<'a> {
    /// A purpose that tolerates no error.
    pub fn new(operation: &'static str, object: &'a str) -> Self {
        Purpose {
            operation,
            object,
            tolerated: &[],
        }
    }

    /// The same with errors that count as success.
    pub fn tolerating(self, tolerated: &'a [Errno]) -> Self {
        Purpose { tolerated, ..self }
    }
}

/// Several requests that are sent with one system call.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    pub(super) bytes: Vec<u8>,
    pub(super) requests: Vec<Request<'a>>,
}

impl<'a> Batch<'a> {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Appends a request: `fixed` is the subsystem's own header, `body` adds the attributes.
    /// `REQUEST` is added to `flags`.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        purpose: Purpose<'a>,
        fixed: &[u8],
        body: impl FnOnce(&mut Body<'_>),
    ) {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        body(&mut Body {
            bytes: &mut self.bytes,
        });
        let length =
            u32::try_from(self.bytes.len() - offset).expect("a request is far smaller than 4 GiB");
        self.bytes[offset..offset + 4].copy_from_slice(&length.to_ne_bytes());
        let Purpose {
            operation,
            object,
            tolerated,
        } = purpose;
        self.requests.push(Request {
            offset,
            operation,
            object,
            tolerated,
        });
    }

    /// Asks for the acknowledgement of the last request.
    pub fn acknowledge_last(&mut self) {
        if let Some(request) = self.requests.last() {
            let flags = self.flags(request) | flag::ACK;
            let offset = request.offset + 6;
            self.bytes[offset..offset + 2].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    /// Numbers the requests from `first` on.
    pub(super) fn number(&mut self, first: u32) {
        for (index, request) in (0u32..).zip(&self.requests) {
            let sequence = first.wrapping_add(index);
            self.bytes[request.offset + 8..request.offset + 12]
                .copy_from_slice(&sequence.to_ne_bytes());
        }
    }

    /// The flags of a request.
    pub(super) fn flags(&self, request: &Request<'_>) -> u16 {
        u16::from_ne_bytes([
            self.bytes[request.offset + 6],
            self.bytes[request.offset + 7],
        ])
    }
}

/// The attributes of one request under construction.
#[derive(Debug)]
pub struct Body<'b> {
    bytes: &'b mut Vec<u8>,
}

impl Body<'_> {
    /// Appends bytes that are not an attribute: a fixed header inside a nest.
    pub fn raw(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    /// Appends an attribute.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.parts(kind, &[value]);
    }

    /// Appends an attribute whose value is the concatenation of `parts`.
    pub fn parts(&mut self, kind: u16, parts: &[&[u8]]) {
        let length = ATTRIBUTE_HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
        self.header(length, kind);
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        pad(self.bytes);
    }

    /// Appends a string with its terminating NUL.
    pub fn string(&mut self, kind: u16, value: &str) {
        self.parts(kind, &[value.as_bytes(), &[0]]);
    }

    /// Appends one byte.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// Appends a number in host order, as rtnetlink has it.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// Appends a number in network order, as nfnetlink has it.
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Appends an attribute that contains what `body` adds.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Body<'_>)) {
        let offset = self.bytes.len();
        self.header(ATTRIBUTE_HEADER, kind | NESTED);
        body(&mut Body { bytes: self.bytes });
        let length = u16::try_from(self.bytes.len() - offset)
            .expect("callers split lists so that a nest stays below 64 KiB");
        self.bytes[offset..offset + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn header(&mut self, length: usize, kind: u16) {
        let length = u16::try_from(length).expect("an attribute stays below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Reply<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// Everything after the header.
    pub payload: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The attributes that follow a fixed header of `fixed` bytes.
    pub fn attributes(&self, fixed: usize) -> Attributes<'a> {
        attributes(
            self.payload
                .get(fixed.next_multiple_of(4)..)
                .unwrap_or_default(),
        )
    }
}

/// Splits a datagram into messages; stops at the first one that does not fit.
pub fn replies(datagram: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(read_u32(rest.get(..4)?)?).ok()?;
        let message = rest
            .get(..length)
            .filter(|message| message.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Reply {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: read_u32(&message[8..12])?,
            payload: &message[HEADER..],
        })
    })
}

/// Iterates over attributes as (number, value); stops at the first one that does not fit.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

/// Reads `bytes` as a list of attributes.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

impl<'a> Attributes<'a> {
    /// The value of the first attribute with this number.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone()
            .find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside the first attribute with this number; none if it is absent.
    pub fn nested(&self, kind: u16) -> Attributes<'a> {
        attributes(self.find(kind).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.get(..ATTRIBUTE_HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.rest.get(ATTRIBUTE_HEADER..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, value))
    }
}

/// A number in host order, if `value` has exactly its size.
pub fn read_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// A number in network order, if `value` has exactly its size.
pub fn read_be32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A string up to its NUL, if it is UTF-8.
pub fn read_string(value: &[u8]) -> Option<&str> {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut batch = Batch::new();
        batch.request(
            7,
            flag::ACK,
            Purpose::new("test", "one"),
            &[1, 2, 3],
            |body| {
                body.string(1, "abc");
                body.nested(2, |nest| {
                    nest.u8(3, 9);
                    nest.be32(4, 0x0102_0304);
                });
            },
        );
        batch.request(8, 0, Purpose::new("test", "two"), &[], |body| {
            body.u32(5, 6)
        });
        batch.number(100);

        let read: Vec<_> = replies(&batch.bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence), (7, 100));
        assert_eq!(read[0].flags, flag::ACK | flag::REQUEST);
        let attributes = read[0].attributes(3);
        assert_eq!(attributes.find(1).and_then(read_string), Some("abc"));
        assert_eq!(attributes.nested(2).find(3), Some(&[9][..]));
        assert_eq!(attributes.nested(2).find(4), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attributes.find(6), None);
        assert_eq!((read[1].kind, read[1].sequence), (8, 101));
        assert_eq!(read[1].attributes(0).find(5).and_then(read_u32), Some(6));
    }

    #[test]
    fn broken_input_ends_the_walk() {
        let mut good = Batch::new();
        good.request(1, 0, Purpose::new("test", ""), &[], |body| body.u32(1, 2));
        for (name, datagram) in [
            ("empty", vec![]),
            ("shorter than a header", vec![4, 0, 0, 0]),
            (
                "length below a header",
                [&[15, 0, 0, 0][..], &[0; 12]].concat(),
            ),
            (
                "length beyond the datagram",
                [&[255, 0, 0, 0][..], &[0; 12]].concat(),
            ),
            ("length zero", vec![0; 32]),
        ] {
            assert_eq!(replies(&datagram).count(), 0, "{name}");
        }
        for (name, bytes) in [
            ("attribute length zero", vec![0u8; 8]),
            ("attribute length three", vec![3, 0, 1, 0]),
            ("attribute beyond the end", vec![9, 0, 1, 0, 1, 2, 3, 4]),
        ] {
            assert_eq!(attributes(&bytes).count(), 0, "{name}");
        }
        for cut in 0..good.bytes.len() {
            assert_eq!(replies(&good.bytes[..cut]).count(), 0, "cut at {cut}");
        }
    }
}
