//! Queries and answers (RFC 1035, section 4; EDNS0: RFC 6891).
//!
//! Every walk over a message moves forward and ends with the message's last byte, whatever counts
//! its header claims, so its cost is bounded by its length. Compression pointers are never
//! followed, only checked: names that come from elsewhere are passed on as they are.

use std::net::IpAddr;

/// The length of a header.
pub(super) const HEADER: usize = 12;
/// The longest name in wire form (RFC 1035, section 3.1).
const MAX_NAME: usize = 255;
/// The longest query that is accepted. One without EDNS has at most 12 + 255 + 4 bytes; cookies,
/// padding and client subnets add some hundred.
pub(super) const MAX_QUERY: usize = 1232;
/// What a client without EDNS takes over UDP (RFC 1035, section 4.2.1).
const CLASSIC_LIMIT: usize = 512;
/// The largest datagram that is sent and asked for: it passes every link without fragments.
pub(super) const DATAGRAM_LIMIT: usize = 1232;
/// The largest message over TCP.
pub(super) const STREAM_LIMIT: usize = u16::MAX as usize;

const QR: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const AA: u16 = 1 << 10;
pub(super) const TC: u16 = 1 << 9;
const RD: u16 = 1 << 8;
const RA: u16 = 1 << 7;
const AD: u16 = 1 << 5;
const CD: u16 = 1 << 4;
/// The bit `DNSSEC OK` within the time to live of an OPT record.
const DO: u32 = 1 << 15;

/// Types of records.
pub(super) mod kind {
    pub(in crate::dns) const A: u16 = 1;
    pub(in crate::dns) const SOA: u16 = 6;
    pub(in crate::dns) const PTR: u16 = 12;
    pub(in crate::dns) const AAAA: u16 = 28;
    pub(in crate::dns) const OPT: u16 = 41;
    pub(in crate::dns) const IXFR: u16 = 251;
    pub(in crate::dns) const AXFR: u16 = 252;
    pub(in crate::dns) const ANY: u16 = 255;
}

/// `IN`.
pub(super) const CLASS_INTERNET: u16 = 1;

/// Response codes.
pub(super) mod code {
    pub(in crate::dns) const NO_ERROR: u8 = 0;
    pub(in crate::dns) const FORMAT_ERROR: u8 = 1;
    pub(in crate::dns) const SERVER_FAILURE: u8 = 2;
    pub(in crate::dns) const NAME_ERROR: u8 = 3;
    pub(in crate::dns) const NOT_IMPLEMENTED: u8 = 4;
    pub(in crate::dns) const REFUSED: u8 = 5;
    /// Only in an OPT record, of which it is the upper bits: `BADVERS` is 16.
    pub(in crate::dns) const BAD_VERSION_UPPER: u8 = 1;
}

/// What a client says about itself (RFC 6891, section 6.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edns {
    /// The largest datagram that it takes.
    pub(super) size: u16,
    pub(super) version: u8,
    /// Whether it wants signatures.
    pub(super) dnssec: bool,
}

/// A query with one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub(super) id: u16,
    flags: u16,
    /// Name, type and class as they were asked.
    pub(super) question: &'a [u8],
    /// The name in wire form.
    pub(super) name: &'a [u8],
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) edns: Option<Edns>,
}

/// Why a message is not a query that can be worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// To be passed over in silence: too short to answer, or an answer itself. To answer answers
    /// would let two servers talk for ever.
    Silent,
    /// To be answered with this code and no question.
    Refused { id: u16, flags: u16, code: u8 },
}

impl<'a> Query<'a> {
    /// Reads a query.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Unusable> {
        let [id, flags, questions, answers, authorities, additional] =
            header(message).ok_or(Unusable::Silent)?;
        if flags & QR != 0 {
            return Err(Unusable::Silent);
        }
        let refused = |code| Unusable::Refused { id, flags, code };
        if flags & OPCODE != 0 {
            return Err(refused(code::NOT_IMPLEMENTED));
        }
        let malformed = refused(code::FORMAT_ERROR);
        // Several questions were never defined, and a query has nothing to answer with (RFC 9619).
        if questions != 1 || answers != 0 || authorities != 0 {
            return Err(malformed);
        }
        let (question, name) = question(message).ok_or(malformed)?;
        let (kind, class) = kind_and_class(question, name.len()).ok_or(malformed)?;
        let mut edns = None;
        let mut offset = HEADER + question.len();
        for _ in 0..additional {
            let record = Record::parse(message, offset).ok_or(malformed)?;
            offset = record.end;
            if record.kind != kind::OPT {
                continue;
            }
            // Two of them are an error (RFC 6891, section 6.1.1).
            if edns.is_some() {
                return Err(malformed);
            }
            let [_, version, _, _] = record.ttl.to_be_bytes();
            edns = Some(Edns {
                size: record.class,
                version,
                dnssec: record.ttl & DO != 0,
            });
        }
        Ok(Query {
            id,
            flags,
            question,
            name,
            kind,
            class,
            edns,
        })
    }

    /// The largest answer that the client takes in one datagram.
    pub(super) fn datagram_limit(&self) -> usize {
        self.edns.map_or(CLASSIC_LIMIT, |edns| {
            usize::from(edns.size).clamp(CLASSIC_LIMIT, DATAGRAM_LIMIT)
        })
    }

    /// What tells two queries apart for a server beyond their questions.
    fn variant(&self) -> u8 {
        let dnssec = self.edns.is_some_and(|edns| edns.dnssec);
        [
            self.flags & RD != 0,
            self.flags & CD != 0,
            self.flags & AD != 0,
            dnssec,
        ]
        .iter()
        .fold(0, |bits, bit| bits << 1 | u8::from(*bit))
    }

    /// Writes what an answer to this query is remembered by: its question in lower case, and what
    /// else the answer depends on.
    pub(super) fn write_key(&self, key: &mut Vec<u8>) {
        key.clear();
        key.extend_from_slice(self.question);
        key[..self.name.len()].make_ascii_lowercase();
        key.push(self.variant());
    }

    /// What is needed to answer later.
    pub(super) fn keep(&self) -> Kept {
        Kept {
            id: self.id,
            flags: self.flags,
            question: self.question.into(),
            kind: self.kind,
            class: self.class,
            edns: self.edns,
        }
    }

    /// The query to ask another server, with id 0.
    pub(super) fn forwarded(&self, with_edns: bool) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + self.question.len() + 11);
        let flags = self.flags & (RD | CD | AD);
        put_header(&mut message, [0, flags, 1, 0, 0, u16::from(with_edns)]);
        message.extend_from_slice(self.question);
        if with_edns {
            let dnssec = self.edns.is_some_and(|edns| edns.dnssec);
            let size = u16::try_from(DATAGRAM_LIMIT).expect("the limit is below 64 KiB");
            put_opt(&mut message, size, 0, dnssec);
        }
        message
    }
}

/// What is kept of a query while another server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    id: u16,
    flags: u16,
    question: Box<[u8]>,
    kind: u16,
    class: u16,
    edns: Option<Edns>,
}

impl Kept {
    /// The query again.
    pub(super) fn query(&self) -> Query<'_> {
        let (name, _) = self.question.split_at(self.question.len() - 4);
        Query {
            id: self.id,
            flags: self.flags,
            question: &self.question,
            name,
            kind: self.kind,
            class: self.class,
            edns: self.edns,
        }
    }
}

/// The six numbers of a header.
fn header(message: &[u8]) -> Option<[u16; 6]> {
    let bytes = message.first_chunk::<HEADER>()?;
    let mut numbers = [0; 6];
    for (number, pair) in numbers.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *number = u16::from_be_bytes(*pair);
    }
    Some(numbers)
}

fn put_header(message: &mut Vec<u8>, numbers: [u16; 6]) {
    for number in numbers {
        message.extend_from_slice(&number.to_be_bytes());
    }
}

fn put_opt(message: &mut Vec<u8>, size: u16, upper_code: u8, dnssec: bool) {
    message.push(0);
    message.extend_from_slice(&kind::OPT.to_be_bytes());
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(&[upper_code, 0, u8::from(dnssec) << 7, 0]);
    message.extend_from_slice(&[0, 0]);
}

/// The first question of a message and the name in it. Nothing stands before it that a pointer
/// could lead to, so its name has none.
fn question(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = message.get(HEADER..)?;
    let mut length = 0;
    loop {
        let label = usize::from(*rest.get(length)?);
        length += 1 + label;
        if label > 63 || length > MAX_NAME {
            return None;
        }
        if label == 0 {
            break;
        }
    }
    Some((rest.get(..length + 4)?, &rest[..length]))
}

fn kind_and_class(question: &[u8], name: usize) -> Option<(u16, u16)> {
    let [k0, k1, c0, c1] = *question.get(name..)?.first_chunk::<4>()?;
    Some((u16::from_be_bytes([k0, k1]), u16::from_be_bytes([c0, c1])))
}

/// The end of the name at `offset`. A pointer ends it, and must lead back, never to itself or on.
fn skip_name(message: &[u8], offset: usize) -> Option<usize> {
    let mut at = offset;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            0xc0..=0xff => {
                let target = usize::from(length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                return (HEADER..offset).contains(&target).then_some(at + 2);
            }
            _ => return None,
        }
        if at - offset > MAX_NAME {
            return None;
        }
    }
}

/// A record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: u16,
    class: u16,
    pub(super) ttl: u32,
    /// Where the time to live stands.
    pub(super) ttl_at: usize,
    /// Where the data begin.
    pub(super) data: usize,
    /// Where the next record begins.
    pub(super) end: usize,
}

impl Record {
    /// Reads the record at `offset`.
    pub(super) fn parse(message: &[u8], offset: usize) -> Option<Record> {
        let at = skip_name(message, offset)?;
        let [k0, k1, c0, c1, t0, t1, t2, t3, l0, l1] = *message.get(at..)?.first_chunk::<10>()?;
        let data = at + 10;
        let end = data + usize::from(u16::from_be_bytes([l0, l1]));
        (end <= message.len()).then_some(Record {
            kind: u16::from_be_bytes([k0, k1]),
            class: u16::from_be_bytes([c0, c1]),
            ttl: u32::from_be_bytes([t0, t1, t2, t3]),
            ttl_at: at + 4,
            data,
            end,
        })
    }
}

/// The three sections of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// The records of a message whose question ends at `offset`, each with its section; `None` for what
/// does not follow the format, which ends the walk.
pub(super) fn records(
    message: &[u8],
    offset: usize,
) -> impl Iterator<Item = Option<(Section, Record)>> + '_ {
    let counts = header(message).unwrap_or_default();
    let sections = [
        (Section::Answer, counts[3]),
        (Section::Authority, counts[4]),
        (Section::Additional, counts[5]),
    ];
    let mut offset = Some(offset);
    sections
        .into_iter()
        .flat_map(|(section, count)| (0..count).map(move |_| section))
        .map_while(move |section| {
            // After a fault there is no place to go on from.
            let record = Record::parse(message, offset?);
            offset = record.map(|record| record.end);
            Some(record.map(|record| (section, record)))
        })
}

/// What another server answered, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) code: u8,
    pub(super) truncated: bool,
}

/// Reads the answer to a query that was sent: `None` if it is not one, whatever else it is.
/// The question must be repeated byte for byte, which includes the case of its letters.
pub(super) fn match_answer(sent: &[u8], received: &[u8]) -> Option<Received> {
    let [id, _, ..] = header(sent)?;
    let [answer_id, flags, questions, ..] = header(received)?;
    let (asked, _) = question(sent)?;
    let matches = id == answer_id
        && flags & (QR | OPCODE) == QR
        && questions == 1
        && received.get(HEADER..HEADER + asked.len()) == Some(asked);
    matches.then_some(Received {
        code: (flags & 0xf) as u8,
        truncated: flags & TC != 0,
    })
}

/// The response code of an answer.
pub(super) fn response_code(message: &[u8]) -> Option<u8> {
    header(message).map(|[_, flags, ..]| (flags & 0xf) as u8)
}

/// Whether an answer refuses the form of a query and has not even to repeat its question.
pub(super) fn is_format_refusal(sent: &[u8], received: &[u8]) -> bool {
    let (Some([id, ..]), Some([answer_id, flags, questions, ..])) =
        (header(sent), header(received))
    else {
        return false;
    };
    let code = (flags & 0xf) as u8;
    id == answer_id
        && flags & (QR | OPCODE) == QR
        && questions == 0
        && matches!(code, code::FORMAT_ERROR | code::NOT_IMPLEMENTED)
}

/// Takes what concerned only the two servers off a checked answer: the OPT record, with what comes
/// after it, and bytes behind the last record. `None` if the answer does not follow the format.
pub(super) fn strip(mut message: Vec<u8>, question_length: usize) -> Option<Vec<u8>> {
    let mut end = HEADER + question_length;
    let mut additional: u16 = 0;
    for entry in records(&message, end) {
        let (section, record) = entry?;
        if record.kind == kind::OPT {
            if section != Section::Additional {
                return None;
            }
            break;
        }
        end = record.end;
        additional += u16::from(section == Section::Additional);
    }
    message.truncate(end);
    message
        .get_mut(10..HEADER)?
        .copy_from_slice(&additional.to_be_bytes());
    Some(message)
}

/// An answer that is being written into a buffer that is used again and again.
#[derive(Debug)]
pub(super) struct Answer<'m, 'q> {
    message: &'m mut Vec<u8>,
    query: &'m Query<'q>,
    limit: usize,
    records: u16,
    truncated: bool,
}

impl<'m, 'q> Answer<'m, 'q> {
    /// Begins an answer of at most `limit` bytes.
    pub(super) fn begin(message: &'m mut Vec<u8>, query: &'m Query<'q>, limit: usize) -> Self {
        message.clear();
        message.extend_from_slice(&[0; HEADER]);
        message.extend_from_slice(query.question);
        let reserved = if query.edns.is_some() { 11 } else { 0 };
        Answer {
            message,
            query,
            limit: limit - reserved,
            records: 0,
            truncated: false,
        }
    }

    /// Adds an address; one that does not fit sets the bit that sends the client to TCP.
    pub(super) fn address(&mut self, ttl: u32, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.record(kind::A, ttl, &address.octets()),
            IpAddr::V6(address) => self.record(kind::AAAA, ttl, &address.octets()),
        }
    }

    /// Adds the name of an address, in wire form.
    pub(super) fn pointer(&mut self, ttl: u32, name: &[u8]) {
        self.record(kind::PTR, ttl, name);
    }

    fn record(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        /// A pointer to the question's name.
        const ASKED: [u8; 2] = [0xc0, HEADER as u8];
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        if self.truncated || self.message.len() + 12 + data.len() > self.limit {
            self.truncated = true;
            return;
        }
        self.message.extend_from_slice(&ASKED);
        self.message.extend_from_slice(&kind.to_be_bytes());
        self.message
            .extend_from_slice(&CLASS_INTERNET.to_be_bytes());
        self.message.extend_from_slice(&ttl.to_be_bytes());
        self.message.extend_from_slice(&length.to_be_bytes());
        self.message.extend_from_slice(data);
        self.records += 1;
    }

    /// Ends an answer that we know ourselves.
    pub(super) fn finish(self, code: u8) {
        self.end(AA, code, 0);
    }

    /// Ends an answer that says why there is none.
    pub(super) fn fail(self, code: u8) {
        self.end(0, code, 0);
    }

    /// Ends an answer to a client whose version of EDNS is not spoken here.
    pub(super) fn bad_version(self) {
        self.end(0, code::NO_ERROR, code::BAD_VERSION_UPPER);
    }

    fn end(self, authority: u16, code: u8, upper_code: u8) {
        let truncated = if self.truncated { TC } else { 0 };
        let flags =
            QR | authority | truncated | RA | self.query.flags & (RD | CD) | u16::from(code);
        let edns = u16::from(self.query.edns.is_some());
        let numbers = [self.query.id, flags, 1, self.records, 0, edns];
        finish_header(self.message, numbers);
        if let Some(edns) = self.query.edns {
            append_opt(self.message, edns, upper_code);
        }
    }
}

fn finish_header(message: &mut [u8], numbers: [u16; 6]) {
    for (place, number) in message.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
        *place = number.to_be_bytes();
    }
}

fn append_opt(message: &mut Vec<u8>, edns: Edns, upper_code: u8) {
    let size = u16::try_from(DATAGRAM_LIMIT).expect("the limit is below 64 KiB");
    put_opt(message, size, upper_code, edns.dnssec);
}

/// Writes the answer to a message that is no usable query: its header only.
pub(super) fn refuse(message: &mut Vec<u8>, id: u16, flags: u16, code: u8) {
    message.clear();
    let flags = QR | flags & (OPCODE | RD) | u16::from(code);
    put_header(message, [id, flags, 0, 0, 0, 0]);
}

/// Writes a stripped answer of another server for a client: with the client's id and the question
/// as the client wrote it, aged by `age` seconds and cut if it is longer than the client takes.
/// `false` if the answer does not follow the format.
pub(super) fn relay(
    message: &mut Vec<u8>,
    answer: &[u8],
    query: &Query<'_>,
    limit: usize,
    age: u32,
) -> bool {
    message.clear();
    message.extend_from_slice(answer);
    let [_, flags, _, answers, authorities, additional] = header(answer).unwrap_or_default();
    let question_end = HEADER + query.question.len();
    let Some(place) = message.get_mut(HEADER..question_end) else {
        return false;
    };
    place.copy_from_slice(query.question);
    if age > 0 {
        for entry in records(answer, question_end) {
            let Some((_, record)) = entry else {
                return false;
            };
            let ttl = record.ttl.saturating_sub(age).to_be_bytes();
            message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&ttl);
        }
    }
    // What the other server says of itself (AA) and of its path to us (TC) is not ours to repeat.
    let mut flags = flags & !(AA | TC) | RA;
    let edns = u16::from(query.edns.is_some());
    let mut counts = [answers, authorities, additional];
    if message.len() + usize::from(edns) * 11 > limit {
        message.truncate(question_end);
        counts = [0; 3];
        flags |= TC;
    }
    let [answers, authorities, additional] = counts;
    let numbers = [
        query.id,
        flags,
        1,
        answers,
        authorities,
        additional.saturating_add(edns),
    ];
    finish_header(message, numbers);
    if let Some(edns) = query.edns {
        append_opt(message, edns, 0);
    }
    true
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
