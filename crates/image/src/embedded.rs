//! The image `hello-world` that is part of Gantry: it shows that an installation works without a
//! network.
//!
//! Its program is made here, byte by byte: an ELF file of one segment whose code makes two system
//! calls. There is nothing to compile for it and nothing to download, and it is the same on every
//! build, so its digest is too.

use crate::apply::Limits;
use crate::import::{Description, ImportError, store_layer};
use crate::model::{History, Platform, RuntimeConfig};
use crate::pull::Pulled;
use crate::reference::{DEFAULT_REGISTRY, Reference};
use crate::store::Store;
use crate::unpack::Expansion;

/// What the program prints.
const MESSAGE: &str = "
Hello from Gantry!
If you can read this, your installation works.

What just happened:
 1. Gantry took the image \"hello-world\", which it carries inside itself.
 2. It put the image's one layer together as a root file system.
 3. It started the program in that layer, alone in namespaces and a cgroup of
    its own, and that program is what is talking to you.
 4. A small supervisor passed these lines on to your terminal.

To look around in something bigger, try:
 $ gantry run -it debian bash

";

/// When the image says that it was made. Fixed, as everything about it.
const CREATED: &str = "2026-01-01T00:00:00Z";
/// Name of the program in the image.
const PROGRAM: &str = "hello";
/// Address of the first byte of the file in memory; the usual one of static programs.
const BASE: u64 = 0x40_0000;
/// Length of the ELF header and the one program header.
const HEADERS: u64 = 64 + 56;

/// The instruction sets that the program exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    Amd64,
    Arm64,
}

impl Machine {
    fn host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::Amd64),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

/// Stores the image `hello-world` for this host. Nothing is written if it is there already.
pub fn install_hello_world(store: &Store) -> Result<Pulled, ImportError> {
    let platform = Platform::host();
    // On another machine the image still exists; running it says that the format is wrong.
    let program = program(Machine::host().unwrap_or(Machine::Amd64));
    let archive = archive(&program);
    let config = RuntimeConfig {
        cmd: Some(vec![format!("/{PROGRAM}")]),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        working_dir: "/".to_owned(),
        ..RuntimeConfig::default()
    };
    let history = History {
        created: Some(CREATED.to_owned()),
        created_by: Some("gantry: built-in hello-world".to_owned()),
        ..History::default()
    };
    let description = Description {
        platform: &platform,
        created: CREATED.to_owned(),
        config,
        history,
    };
    let mut image = store_layer(
        store,
        archive.as_slice(),
        &Limits::default(),
        Expansion::default(),
        description,
    )?;
    image.reference =
        Reference::parse(&format!("{DEFAULT_REGISTRY}/library/hello-world:latest")).ok();
    Ok(image)
}

/// A static ELF program that writes [`MESSAGE`] to its standard output and exits with 0.
fn program(machine: Machine) -> Vec<u8> {
    let code_length = code(machine, 0).len() as u64;
    let code = code(machine, code_length);
    let (elf_machine, total) = match machine {
        Machine::Amd64 => (62_u16, HEADERS + code_length + MESSAGE.len() as u64),
        Machine::Arm64 => (183, HEADERS + code_length + MESSAGE.len() as u64),
    };
    let mut file = Vec::with_capacity(total as usize);
    // ELF64, little-endian, version 1, System V (elf(5), Elf64_Ehdr).
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2_u16.to_le_bytes());
    file.extend(elf_machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend((BASE + HEADERS).to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for value in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    // PT_LOAD of the whole file, readable and executable (Elf64_Phdr). 64 KiB is the largest page
    // of arm64.
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    for value in [0, BASE, BASE, total, total, 0x1_0000] {
        file.extend(value.to_le_bytes());
    }
    file.extend(code);
    file.extend(MESSAGE.as_bytes());
    file
}

/// `write(1, message, length); exit_group(0)`, where the message is `distance` bytes after the
/// first instruction.
fn code(machine: Machine, distance: u64) -> Vec<u8> {
    let length = MESSAGE.len() as u32;
    match machine {
        Machine::Amd64 => {
            let mut code = vec![0xbf, 1, 0, 0, 0]; // mov edi, 1
            code.extend([0x48, 0x8d, 0x35]); // lea rsi, [rip + ...]
            // Relative to the next instruction, which is 12 bytes after the first.
            code.extend((distance as u32).wrapping_sub(12).to_le_bytes());
            code.push(0xba); // mov edx, ...
            code.extend(length.to_le_bytes());
            code.extend([0xb8, 1, 0, 0, 0, 0x0f, 0x05]); // mov eax, 1 (write); syscall
            code.extend([0x31, 0xff]); // xor edi, edi
            code.extend([0xb8, 231, 0, 0, 0, 0x0f, 0x05]); // mov eax, 231 (exit_group); syscall
            code
        }
        Machine::Arm64 => {
            let movz = |register: u32, value: u32| 0xd280_0000 | value << 5 | register;
            let supervisor_call = 0xd400_0001_u32;
            // adr x1: relative to itself, the second instruction.
            let offset = (distance as u32).wrapping_sub(4) & 0x1f_ffff;
            let address = 0x1000_0000 | (offset & 3) << 29 | (offset >> 2) << 5 | 1;
            let instructions = [
                movz(0, 1),
                address,
                movz(2, length),
                movz(8, 64), // write
                supervisor_call,
                movz(0, 0),
                movz(8, 94), // exit_group
                supervisor_call,
            ];
            instructions
                .iter()
                .flat_map(|instruction: &u32| instruction.to_le_bytes())
                .collect()
        }
    }
}

/// A tar archive (POSIX ustar) with the program as its only file.
fn archive(program: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, PROGRAM);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", program.len()));
    // 2026-01-01, as in `CREATED`.
    put(136, &format!("{:011o}\0", 1_767_225_600));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend(program);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::testing::TestDirectory;

    #[test]
    fn program_runs() {
        let directory = TestDirectory::new();
        let path = directory.path().join(PROGRAM);
        std::fs::write(&path, program(Machine::host().unwrap())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Another test's fork may hold the file open for writing for a moment (ETXTBSY).
        let output = loop {
            match Command::new(&path).output() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                other => break other.unwrap(),
            }
        };
        assert_eq!(String::from_utf8(output.stdout).unwrap(), MESSAGE);
        assert_eq!(output.status.code(), Some(0));
    }

    #[test]
    fn arm64_instructions() {
        let words: Vec<u32> = code(Machine::Arm64, 32)
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        // As an assembler gives them; `adr x1, . + 28`.
        assert_eq!(words[0], 0xd280_0020);
        assert_eq!(words[1], 0x1000_00e1);
        assert_eq!(words[3], 0xd280_0808);
        assert_eq!(words[4], 0xd400_0001);
        assert_eq!(words[6], 0xd280_0bc8);
        assert_eq!(words.len(), 8);
        assert!(MESSAGE.len() < 1 << 16, "fits one movz");
    }

    #[test]
    fn installs_the_same_each_time() {
        let directory = TestDirectory::new();
        let store = Store::open(directory.path()).unwrap();
        let first = install_hello_world(&store).unwrap();
        let second = install_hello_world(&store).unwrap();
        assert_eq!(first.manifest_digest, second.manifest_digest);
        assert_eq!(first.reference.unwrap().familiar(), "hello-world:latest");
        assert_eq!(store.list_layers().unwrap(), first.layers);
        assert_eq!(store.list_blobs().unwrap().len(), 3);
        let file = store.layer_path(&first.layers[0]).join(PROGRAM);
        assert_eq!(
            std::fs::read(&file).unwrap(),
            program(Machine::host().unwrap())
        );
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777,
            0o755
        );
        assert_eq!(first.config.config.cmd, Some(vec!["/hello".to_owned()]));
    }
}
