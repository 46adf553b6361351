use super::*;
use crate::dns::testing::{Numbers, answer_to, question, record, wire, with_edns};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

fn counts(message: &[u8]) -> [u16; 6] {
    header(message).unwrap()
}

/// The records, where the whole message must be taken up by them.
fn walk(message: &[u8]) -> Option<Vec<(Section, Record)>> {
    let (asked, _) = question_of(message)?;
    let end = HEADER + asked;
    let all: Option<Vec<_>> = records(message, end).collect();
    let all = all?;
    let last = all.last().map_or(end, |(_, record)| record.end);
    (last == message.len()).then_some(all)
}

fn question_of(message: &[u8]) -> Option<(usize, usize)> {
    super::question(message).map(|(question, name)| (question.len(), name.len()))
}

#[test]
fn queries_are_read() {
    let plain = question("Web.Example", kind::A);
    let query = Query::parse(&plain).unwrap();
    assert_eq!((query.id, query.kind, query.class), (0x1234, 1, 1));
    assert_eq!(query.name, wire("Web.Example"));
    assert_eq!(query.edns, None);
    assert_eq!(query.datagram_limit(), 512);
    for (size, limit) in [(0, 512), (512, 512), (1000, 1000), (4096, 1232)] {
        let message = with_edns(plain.clone(), size, 0, true);
        let query = Query::parse(&message).unwrap();
        assert!(query.edns.unwrap().dnssec);
        assert_eq!(query.datagram_limit(), limit, "{size}");
    }
    assert!(Query::parse(&question("", kind::A)).is_ok());
    let kept = query.keep();
    assert_eq!(kept.query(), query);
}

#[test]
fn what_is_no_query_is_refused_or_passed_over() {
    let plain = question("a.b", kind::A);
    let changed = |at: usize, value: u8| {
        let mut message = plain.clone();
        message[at] = value;
        message
    };
    let refused = |code| move |result: Result<Query<'_>, Unusable>| matches!(result, Err(Unusable::Refused { code: found, .. }) if found == code);
    let malformed = refused(code::FORMAT_ERROR);
    let other = refused(code::NOT_IMPLEMENTED);
    for (name, message) in [
        ("no question", changed(5, 0)),
        ("two questions", changed(5, 2)),
        ("an answer in it", changed(7, 1)),
        ("an authority in it", changed(9, 1)),
        ("a record that is not there", changed(11, 1)),
        ("label over the end", changed(12, 40)),
        ("label of 64 bytes", changed(12, 64)),
        ("a pointer to itself", {
            let mut message = plain[..12].to_vec();
            message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1]);
            message
        }),
        ("a pointer into the header", {
            let mut message = plain[..12].to_vec();
            message.extend_from_slice(&[0xc0, 0, 0, 1, 0, 1]);
            message
        }),
        (
            "a name of 256 bytes",
            question(&["abcdefg"; 32].join("."), 1),
        ),
        ("cut", plain[..plain.len() - 1].to_vec()),
        (
            "two OPT records",
            with_edns(with_edns(plain.clone(), 512, 0, false), 512, 0, false),
        ),
    ] {
        assert!(malformed(Query::parse(&message)), "{name}");
    }
    for opcode in 1..16 {
        assert!(other(Query::parse(&changed(2, opcode << 3))), "{opcode}");
    }
    for (name, message) in [
        ("an answer", changed(2, 0x81)),
        ("less than a header", plain[..11].to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(Query::parse(&message), Err(Unusable::Silent), "{name}");
    }
    // The longest name there is.
    let longest = [["abcdefg"; 31].join("."), "abcde".to_owned()].join(".");
    assert!(Query::parse(&question(&longest, 1)).is_ok());
}

#[test]
fn answers_are_written_with_the_case_as_asked() {
    let asked = with_edns(question("WeB", kind::ANY), 1232, 0, true);
    let query = Query::parse(&asked).unwrap();
    let mut message = Vec::new();
    let mut answer = Answer::begin(&mut message, &query, 1232);
    answer.address(1, IpAddr::V4(Ipv4Addr::LOCALHOST));
    answer.address(2, IpAddr::V6(Ipv6Addr::LOCALHOST));
    answer.pointer(3, &wire("x.y"));
    answer.finish(code::NO_ERROR);
    // QR, AA, RD, RA.
    assert_eq!(counts(&message), [0x1234, 0x8580, 1, 3, 0, 1]);
    assert_eq!(
        &message[HEADER..HEADER + query.question.len()],
        query.question
    );
    let records = walk(&message).unwrap();
    let kinds: Vec<_> = records.iter().map(|(_, record)| record.kind).collect();
    assert_eq!(kinds, [kind::A, kind::AAAA, kind::PTR, kind::OPT]);
    let ttls: Vec<_> = records.iter().map(|(_, record)| record.ttl).collect();
    assert_eq!(ttls, [1, 2, 3, DO]);
    assert_eq!(message[records[2].1.data..records[2].1.end], wire("x.y"));

    Answer::begin(&mut message, &query, 1232).bad_version();
    let records = walk(&message).unwrap();
    assert_eq!(records[0].1.ttl.to_be_bytes()[0], 1, "BADVERS is 1 << 4");
}

#[test]
fn answers_are_cut_where_the_client_takes_no_more() {
    for (asked, limit) in [
        (question("a", kind::A), 512),
        (with_edns(question("a", kind::A), 700, 0, false), 700),
    ] {
        let query = Query::parse(&asked).unwrap();
        let mut message = Vec::new();
        for number in [0, 1, 28, 31, 40, 60] {
            let mut answer = Answer::begin(&mut message, &query, query.datagram_limit());
            for _ in 0..number {
                answer.address(1, IpAddr::V4(Ipv4Addr::LOCALHOST));
            }
            answer.finish(code::NO_ERROR);
            assert!(message.len() <= limit);
            let [_, flags, _, answers, ..] = counts(&message);
            assert!(walk(&message).is_some());
            assert_eq!(flags & TC != 0, answers < number, "{number}");
            assert!(answers == number || message.len() + 16 > limit, "{number}");
        }
    }
}

#[test]
fn a_key_tells_apart_what_an_answer_depends_on() {
    let key = |message: &[u8]| {
        let mut key = Vec::new();
        Query::parse(message).unwrap().write_key(&mut key);
        key
    };
    let base = question("ab.c", kind::A);
    assert_eq!(key(&base), key(&question("AB.C", kind::A)));
    assert_eq!(key(&base), key(&with_edns(base.clone(), 999, 0, false)));
    let mut no_recursion = base.clone();
    no_recursion[2] = 0;
    let mut unchecked = base.clone();
    unchecked[3] = 0x10;
    for other in [
        question("ab.d", kind::A),
        question("ab.c", kind::AAAA),
        with_edns(base.clone(), 999, 0, true),
        no_recursion,
        unchecked,
    ] {
        assert_ne!(key(&base), key(&other));
    }
}

#[test]
fn only_the_answer_to_what_was_sent_is_taken() {
    let sent = question("ExAmple.com", kind::A);
    let good = answer_to(&sent, 0, &[record(kind::A, 60, &[1, 2, 3, 4])], &[]);
    let taken = Received {
        code: 0,
        truncated: false,
    };
    assert_eq!(match_answer(&sent, &good), Some(taken));
    let changed = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    for (name, message) in [
        ("another id", changed(0, 0x13)),
        ("a query", changed(2, 1)),
        ("another operation", changed(2, 0x89)),
        ("no question", changed(5, 0)),
        ("two questions", changed(5, 2)),
        ("another case (0x20)", changed(13, b'e')),
        ("another name", changed(14, b'y')),
        ("another type", changed(HEADER + 14, 28)),
        ("cut", good[..20].to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(match_answer(&sent, &message), None, "{name}");
    }
    assert!(match_answer(&sent, &changed(2, 0x83)).unwrap().truncated);
    assert_eq!(match_answer(&sent, &changed(3, 0x83)).unwrap().code, 3);

    let refusal = [&sent[..2], &[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert!(is_format_refusal(&sent, &refusal));
    assert!(!is_format_refusal(&sent, &good));
}

#[test]
fn answers_are_stripped_and_relayed() {
    let sent = question("example.com", kind::A);
    let a = record(kind::A, 60, &[1, 2, 3, 4]);
    let mut received = answer_to(
        &sent,
        0,
        std::slice::from_ref(&a),
        &[record(kind::SOA, 9, &[0; 22])],
    );
    received[11] = 3;
    received.extend_from_slice(&a);
    // OPT, and a record behind it.
    received.extend_from_slice(&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
    received.extend_from_slice(&a);
    received.extend_from_slice(b"junk");
    let query = Query::parse(&sent).unwrap();
    let stripped = strip(received, query.question.len()).unwrap();
    assert_eq!(counts(&stripped)[3..], [1, 1, 1]);
    assert_eq!(walk(&stripped).unwrap().len(), 3);

    let mut other = with_edns(question("EXAMPLE.com", kind::A), 512, 0, false);
    other[0] = 0x77;
    let query = Query::parse(&other).unwrap();
    let mut message = Vec::new();
    assert!(relay(&mut message, &stripped, &query, 512, 20));
    assert_eq!(message[0], 0x77);
    assert_eq!(
        &message[HEADER..HEADER + query.question.len()],
        query.question
    );
    let ttls: Vec<_> = walk(&message)
        .unwrap()
        .iter()
        .map(|(_, record)| record.ttl)
        .collect();
    assert_eq!(ttls, [40, 0, 40, 0]);

    assert!(relay(&mut message, &stripped, &query, 60, 0));
    let [_, flags, _, answers, _, additional] = counts(&message);
    assert_eq!((flags & TC, answers, additional), (TC, 0, 1));
    assert!(walk(&message).is_some());
}

/// Messages from nowhere: none may panic, take long, or come out as something that is no message
/// (RUSTSEC-2026-0118, CVE-2020-35857).
#[test]
fn fuzzed_messages() {
    let sent = with_edns(question("www.example.com", kind::A), 1232, 0, true);
    let soa = record(
        kind::SOA,
        9,
        &[&wire("a.b")[..], &wire("c"), &[0; 20]].concat(),
    );
    let answers = [
        record(5, 60, &[0xc0, 16]),
        record(kind::A, 60, &[1, 2, 3, 4]),
        record(kind::OPT, 0, &[]),
    ];
    let answer = answer_to(&sent, 0, &answers, &[soa]);
    let plain = Query::parse(&sent).unwrap();
    let mut numbers = Numbers::new(1);
    let mut out = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    let mut rounds = 0;
    while rounds < 1000 || (rounds < 200_000 && Instant::now() < end) {
        rounds += 1;
        let mut message = if rounds % 2 == 0 {
            sent.clone()
        } else {
            answer.clone()
        };
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(message.len());
            match numbers.below(6) {
                0 => message.truncate(at + 1),
                1 => message[at] = 0xc0,
                2 => message.insert(at, numbers.below(256) as u8),
                3 => {
                    message.remove(at);
                    message.push(0);
                }
                _ => message[at] = numbers.below(256) as u8,
            }
        }
        if let Ok(query) = Query::parse(&message) {
            assert!(query.question.len() <= 259);
            let mut reply = Answer::begin(&mut out, &query, query.datagram_limit());
            reply.address(1, IpAddr::V4(Ipv4Addr::LOCALHOST));
            reply.finish(0);
            assert!(walk(&out).is_some(), "{message:?}");
            assert_eq!(query.keep().query(), query);
            let again = query.forwarded(true);
            assert_eq!(Query::parse(&again).unwrap().question, query.question);
        }
        let _ = is_format_refusal(&sent, &message);
        if match_answer(&sent, &message).is_some()
            && let Some(stripped) = strip(message.clone(), plain.question.len())
        {
            assert!(relay(&mut out, &stripped, &plain, 1232, 5), "{message:?}");
            assert!(walk(&out).is_some(), "{message:?}");
        }
    }
}

#[test]
fn the_longest_messages_are_walked_in_a_moment() {
    let sent = question("a", kind::A);
    let start = Instant::now();
    for filler in [0x00, 0x01, 0x3f, 0xc0, 0xff] {
        let mut message = answer_to(&sent, 0, &[], &[]);
        message[6..12].fill(0xff);
        message.resize(STREAM_LIMIT, filler);
        let _ = strip(message.clone(), 7);
        message[2] = 1;
        message[6..10].fill(0);
        let _ = Query::parse(&message);
    }
    // Every record of the shortest form.
    let mut message = answer_to(&sent, 0, &[], &[]);
    message[6..8].fill(0xff);
    while message.len() + 11 < STREAM_LIMIT {
        message.extend_from_slice(&[0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(strip(message, 7), None, "fewer records than it says");
    assert!(start.elapsed() < Duration::from_secs(1));
}
