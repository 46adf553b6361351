//! libseccomp, behind a small program that is compiled when the test runs.

use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use gantry_sys::seccomp::SockFilter;

/// The program, running.
pub struct Oracle {
    directory: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Oracle {
    /// Compiles and starts the program; says why and returns nothing where it cannot be,
    /// because there is no compiler or no libseccomp.
    pub fn start(test: &str) -> Option<Oracle> {
        let header = Command::new("cc")
            .args(["-E", "-x", "c", "-include", "seccomp.h", "/dev/null"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match header {
            Ok(status) if status.success() => {}
            Ok(_) => {
                eprintln!("skipped: the headers of libseccomp are not installed");
                return None;
            }
            Err(error) => {
                eprintln!("skipped: no C compiler: {error}");
                return None;
            }
        }
        let name = format!("{test}-{}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let program = directory.join("libseccomp");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/libseccomp.c");
        let compiled = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([&program, &source])
            .arg("-lseccomp")
            .status()
            .unwrap();
        assert!(compiled.success(), "{} does not compile", source.display());
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Oracle {
            directory,
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        })
    }

    fn say(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    fn word(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.output.read_exact(&mut bytes).unwrap();
        u32::from_ne_bytes(bytes)
    }

    /// The program of one filter, given by commands from `filter` to `end`.
    pub fn compile(&mut self, commands: &str) -> Vec<SockFilter> {
        self.say(commands);
        let length = self.word() as usize;
        let mut bytes = vec![0; length];
        self.output.read_exact(&mut bytes).unwrap();
        let (instructions, rest) = bytes.as_chunks::<8>();
        assert!(rest.is_empty(), "{length} bytes of program");
        instructions
            .iter()
            .map(|&[code0, code1, jt, jf, k0, k1, k2, k3]| SockFilter {
                code: u16::from_ne_bytes([code0, code1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            })
            .collect()
    }

    /// The number of a call; negative if the architecture lacks it or carries it in another.
    pub fn number(&mut self, architecture: &str, name: &str) -> i32 {
        self.say(&format!("number {architecture} {name}\n"));
        self.word() as i32
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.input.take());
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
