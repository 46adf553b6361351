//! An interpreter of seccomp filters.

use gantry_sys::seccomp::SockFilter;

/// `struct seccomp_data`, as far as filters look at it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    pub number: u32,
    pub audit: u32,
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                (argument >> (8 * (offset % 8))) as u32
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// The verdict of a program on a call.
pub fn run(code: &[SockFilter], call: &Call) -> u32 {
    let (mut next, mut accumulator) = (0_usize, 0_u32);
    loop {
        let SockFilter { code, jt, jf, k } = code[next];
        next += 1;
        let mut branch = |holds: bool| next += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x05 => next += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x45 => branch(accumulator & k != 0),
            0x54 => accumulator &= k,
            0x06 => return k,
            _ => panic!("instruction {code:#x}"),
        }
    }
}
