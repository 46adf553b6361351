//! Writes classic BPF from its end to its beginning.
//!
//! Every jump leads forward, so on writing backwards each target is already in place and
//! its distance known. Conditional jumps reach 255 instructions; for what is farther
//! away, a copy of the target (a return) or an unconditional jump, whose reach is 32
//! bits, is put in between.

use gantry_sys::seccomp::SockFilter;

const LOAD_WORD: u16 = 0x20;
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// How far a conditional jump reaches.
const REACH: usize = 255;

/// A place in the program: its distance from the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Label(usize);

/// How the accumulator is compared with a constant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// A program in the making; the first element is its last instruction.
#[derive(Default)]
pub(super) struct Assembler {
    backwards: Vec<SockFilter>,
    /// Nearest stand-in for a label that has gone out of reach.
    stand_ins: Vec<(Label, Label)>,
}

impl Assembler {
    pub(super) fn with_capacity(instructions: usize) -> Assembler {
        Assembler {
            backwards: Vec::with_capacity(instructions),
            stand_ins: Vec::new(),
        }
    }

    /// The program in the order in which it runs.
    pub(super) fn finish(mut self) -> Vec<SockFilter> {
        self.backwards.reverse();
        self.backwards
    }

    /// Ends the program with `value`.
    pub(super) fn return_value(&mut self, value: u32) -> Label {
        self.push(RETURN, 0, 0, value)
    }

    /// Loads the word at `offset` and goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_through(next);
        self.push(LOAD_WORD, 0, 0, offset)
    }

    /// Masks the accumulator and goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_through(next);
        self.push(AND, 0, 0, mask)
    }

    /// Compares the accumulator with `value`.
    pub(super) fn branch(&mut self, test: Test, value: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        // A stand-in for `no` would push `yes` one farther away.
        let yes = self.within_reach(yes, 1);
        let no = self.within_reach(no, 0);
        let code = match test {
            Test::Equal => JUMP_EQUAL,
            Test::Greater => JUMP_GREATER,
            Test::GreaterOrEqual => JUMP_GREATER_OR_EQUAL,
        };
        let (jt, jf) = (self.distance(yes), self.distance(no));
        self.push(code, jt as u8, jf as u8, value)
    }

    /// Instructions between the next one to be written and `label`.
    fn distance(&self, label: Label) -> usize {
        self.backwards.len() - label.0 - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.backwards.push(SockFilter { code, jt, jf, k });
        Label(self.backwards.len() - 1)
    }

    fn fall_through(&mut self, next: Label) {
        if self.distance(next) != 0 {
            self.jump(next);
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        let distance = self.distance(target);
        self.push(JUMP_ALWAYS, 0, 0, distance as u32)
    }

    /// `label`, or a stand-in for it, that stays within reach when `margin` more
    /// instructions are written.
    fn within_reach(&mut self, label: Label, margin: usize) -> Label {
        if self.distance(label) + margin <= REACH {
            return label;
        }
        let known = self
            .stand_ins
            .iter()
            .position(|(original, _)| *original == label);
        if let Some(index) = known {
            let stand_in = self.stand_ins[index].1;
            if self.distance(stand_in) + margin <= REACH {
                return stand_in;
            }
        }
        let target = self.backwards[label.0];
        let stand_in = if target.code == RETURN {
            self.return_value(target.k)
        } else {
            self.jump(label)
        };
        match known {
            Some(index) => self.stand_ins[index].1 = stand_in,
            None => self.stand_ins.push((label, stand_in)),
        }
        stand_in
    }
}
