//! Writing an initramfs: the "newc" cpio format that the kernel unpacks
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// The bytes of an archive in the making.
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// An archive with nothing in it.
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
        }
    }

    /// Adds a directory, which must come before what is in it.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    /// Adds an executable file.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// One entry: a header of hexadecimal numbers, the name and the content,
    /// each padded to four bytes.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        let length = u32::try_from(content.len()).expect("an initramfs file is below 4 GiB");
        let name_length = u32::try_from(name.len() + 1).expect("a name is short");
        let links = if mode & 0o040_000 != 0 { 2 } else { 1 };
        self.bytes.extend_from_slice(b"070701");
        for field in [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            length,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn headers_and_contents_are_aligned() {
        let mut archive = Archive::new();
        archive.directory("bin");
        archive.file("bin/x", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        for magic in bytes
            .windows(6)
            .enumerate()
            .filter(|(_, six)| *six == b"070701")
        {
            assert_eq!(magic.0 % 4, 0);
        }
    }

    /// busybox reads it as another implementation would; without one on the
    /// machine the boot itself is the test.
    #[test]
    fn another_implementation_lists_the_same_names() {
        let mut archive = Archive::new();
        archive.directory("bin");
        archive.file("bin/x", b"hello");
        let Ok(mut child) = Command::new("busybox")
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return;
        };
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&archive.finish()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bin\nbin/x\n");
    }
}
