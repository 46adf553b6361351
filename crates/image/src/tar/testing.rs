//! Writes archives for tests, the malicious ones too: every field can be set to
//! what no writer would.

use super::header::BLOCK;

/// One header with its data.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) type_flag: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: i64,
    pub(crate) device: (u64, u64),
    pub(crate) data: Vec<u8>,
    /// Instead of the data's length.
    pub(crate) size: Option<u64>,
    /// Records of an extended header before it.
    pub(crate) pax: Vec<(String, Vec<u8>)>,
}

impl Item {
    pub(crate) fn new(path: impl AsRef<[u8]>, type_flag: u8) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            type_flag,
            link: Vec::new(),
            mode: if type_flag == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            device: (0, 0),
            data: Vec::new(),
            size: None,
            pax: Vec::new(),
        }
    }

    pub(crate) fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(crate) fn mtime(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    pub(crate) fn device(mut self, major: u64, minor: u64) -> Self {
        self.device = (major, minor);
        self
    }

    pub(crate) fn data(mut self, data: impl AsRef<[u8]>) -> Self {
        self.data = data.as_ref().to_vec();
        self
    }

    pub(crate) fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The header block alone, in ustar, with GNU's numbers and long names
    /// where ustar's do not fit.
    pub(crate) fn header(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block, 0, &self.path[..self.path.len().min(100)]);
        number(&mut block[100..108], self.mode.into());
        number(&mut block[108..116], self.uid.into());
        number(&mut block[116..124], self.gid.into());
        number(
            &mut block[124..136],
            self.size.unwrap_or(self.data.len() as u64).into(),
        );
        number(&mut block[136..148], self.mtime.into());
        block[156] = self.type_flag;
        put(&mut block, 157, &self.link[..self.link.len().min(100)]);
        put(&mut block, 257, b"ustar\x0000");
        number(&mut block[329..337], self.device.0.into());
        number(&mut block[337..345], self.device.1.into());
        seal(&mut block);
        block
    }
}

/// An archive in the making.
#[derive(Debug, Default, Clone)]
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn item(mut self, item: Item) -> Self {
        if !item.pax.is_empty() {
            let records: Vec<u8> = item
                .pax
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            self = self.raw_item(&Item::new("PaxHeaders/x", b'x').data(records));
        }
        if item.path.len() > 100 {
            let name = [&item.path[..], b"\0"].concat();
            self = self.raw_item(&Item::new("././@LongLink", b'L').data(name));
        }
        if item.link.len() > 100 {
            let name = [&item.link[..], b"\0"].concat();
            self = self.raw_item(&Item::new("././@LongLink", b'K').data(name));
        }
        self.raw_item(&item)
    }

    fn raw_item(self, item: &Item) -> Self {
        self.block(&item.header()).padded(&item.data)
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.item(Item::new(path, b'0').data(data))
    }

    pub(crate) fn directory(self, path: impl AsRef<[u8]>) -> Self {
        self.item(Item::new(path, b'5'))
    }

    pub(crate) fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.item(Item::new(path, b'2').link(target).mode(0o777))
    }

    pub(crate) fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.item(Item::new(path, b'1').link(target))
    }

    pub(crate) fn block(mut self, block: &[u8; BLOCK]) -> Self {
        self.bytes.extend_from_slice(block);
        self
    }

    pub(crate) fn padded(mut self, data: &[u8]) -> Self {
        self.bytes.extend_from_slice(data);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

/// A PAX record, with the length that counts itself.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Puts the right checksum into a header that was changed by hand.
pub(crate) fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Octal if it fits, or else base 256.
pub(crate) fn number(field: &mut [u8], value: i128) {
    let width = field.len() - 1;
    let octal = format!("{value:0width$o}");
    if value >= 0 && octal.len() == width {
        field[..width].copy_from_slice(octal.as_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    field.copy_from_slice(&bytes[bytes.len() - field.len()..]);
    field[0] |= 0x80;
}
