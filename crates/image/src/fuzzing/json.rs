//! Changes to JSON that know its structure.

use serde_json::Value;

use super::{Random, flip};

const SYNTAX: &[u8] = b"[]{}\",:\\-0 /\n\x00";

fn number(random: &mut Random) -> Value {
    match random.below(8) {
        0 => u64::MAX.into(),
        1 => i64::MIN.into(),
        2 => (1_u64 << random.below(64)).into(),
        3 => ((1_u64 << random.below(64)) - 1).into(),
        4 => (-(random.below(300) as i64)).into(),
        5 => random.next().into(),
        6 => 1e308.into(),
        _ => random.below(64).into(),
    }
}

fn scalar(words: &[&str], random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Bool(random.one_in(2)),
        2 => "x".repeat(1 << random.below(14)).into(),
        3 | 4 => number(random),
        _ => (*random.pick(words)).into(),
    }
}

/// Number of values in a value, itself included.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// One of the values in a value, itself included.
fn nth(value: &mut Value, mut index: usize) -> &mut Value {
    if index == 0 {
        return value;
    }
    index -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    };
    for inner in inner {
        let size = size(inner);
        if index < size {
            return nth(inner, index);
        }
        index -= size;
    }
    panic!("there are fewer values");
}

/// Changes one thing: mostly a scalar by a word or by its like, and members by copies of others,
/// under their names in another case as well.
pub(crate) fn mutate(value: &mut Value, words: &[&str], random: &mut Random) {
    let count = size(value);
    let source = nth(value, random.below(count)).clone();
    let target = nth(value, random.below(count));
    let is_alike = std::mem::discriminant(target) == std::mem::discriminant(&source);
    let dice = random.below(20);
    match target {
        target if dice == 0 => *target = scalar(words, random),
        target if dice == 1 || dice < 5 && is_alike => *target = source,
        Value::Array(items) if items.is_empty() || dice < 8 => items.push(source),
        Value::Array(items) if dice < 11 => drop(items.remove(random.below(items.len()))),
        Value::Array(items) if dice < 14 => {
            let copy = random.pick::<Value>(items).clone();
            items.extend(std::iter::repeat_n(copy, 1 << random.below(5)));
        }
        Value::Object(members) if members.is_empty() || dice < 8 => {
            members.insert((*random.pick(words)).to_owned(), source);
        }
        Value::Object(members) if dice < 13 => {
            let keys: Vec<String> = members.keys().cloned().collect();
            let key = random.pick::<String>(&keys);
            match dice {
                8 | 9 => drop(members.remove(key)),
                10 => drop(members.insert(key.to_uppercase(), source)),
                _ => drop(members.insert(key.to_lowercase(), source)),
            }
        }
        target @ (Value::Array(_) | Value::Object(_)) => mutate(target, words, random),
        Value::String(text) if dice < 10 => {
            let mut bytes = std::mem::take(text).into_bytes();
            flip(&mut bytes, b"/.:@%-_A0 \x00", random);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        Value::String(text) => *text = (*random.pick(words)).to_owned(),
        Value::Bool(value) => *value = !*value,
        target @ (Value::Number(_) | Value::Null) => *target = number(random),
    }
}

/// A few changes, or none.
pub(crate) fn change(value: &mut Value, words: &[&str], random: &mut Random) {
    for _ in 0..*random.pick(&[0, 1, 1, 1, 2, 3, 8]) {
        mutate(value, words, random);
    }
}

/// Writes a value. Sometimes a member stands twice, which no value can say, or bytes are damaged.
pub(crate) fn write(value: &Value, random: &mut Random) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap();
    if let Value::Object(members) = value
        && !members.is_empty()
        && random.one_in(12)
    {
        let keys: Vec<&String> = members.keys().collect();
        let key = random.pick(&keys);
        let other = &members[random.pick(&keys).as_str()];
        let member = format!(",{}:{other}}}", Value::from(key.as_str()));
        bytes.pop();
        bytes.extend_from_slice(member.as_bytes());
    }
    if random.one_in(8) {
        flip(&mut bytes, SYNTAX, random);
    }
    bytes
}
