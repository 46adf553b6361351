//! The server under test, and curl as a client that does what it is told.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Installation, bin_dir, text};

/// A server that ends with the test.
pub struct Server {
    process: Child,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    pub root: PathBuf,
}

impl Server {
    pub fn start(installation: &Installation, flags: &[&str]) -> Server {
        Server::start_in(&installation.root.join("served"), flags)
    }

    pub fn start_in(root: &Path, flags: &[&str]) -> Server {
        let log = root.with_extension("log");
        fs::create_dir_all(root.parent().unwrap()).unwrap();
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .args(["prlimit", "--nofile=256:4096"])
            .arg(bin_dir().join("gantry"))
            .args(["registry", "serve", "--root"])
            .arg(root)
            .args(flags)
            .args(if flags.contains(&"--address") {
                &[][..]
            } else {
                &["--address", "127.0.0.1:0"]
            })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .expect("setpriv is installed");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line
            .trim()
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("{line:?} {}", fs::read_to_string(&log).unwrap()));
        Server {
            process,
            url: url.to_owned(),
            root: root.to_owned(),
        }
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    /// Kills it without any warning.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to stop and returns its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        self.process.wait().unwrap().code()
    }

    /// Kills it and starts another one on the same root.
    pub fn crash(&mut self, flags: &[&str]) {
        self.kill();
        let next = Server::start_in(&self.root, flags);
        *self = next;
    }

    /// Runs curl on a path and returns status, headers and body.
    pub fn curl(&self, arguments: &[&str], path: &str) -> Answer {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", "60"])
            .args(["--http1.1", "--header", "Expect:"])
            .args(arguments)
            .arg(format!("{}{path}", self.url))
            .output()
            .expect("curl is installed");
        Answer::parse(&output.stdout)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.curl(&[], path)
    }

    /// The soft limit of its open files.
    pub fn open_files(&self) -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process.id())).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    }

    /// Resident memory at its highest, in KiB.
    pub fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What curl got.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let mut rest = bytes;
        loop {
            let end = rest.windows(4).position(|window| window == b"\r\n\r\n");
            let Some(end) = end else {
                return Answer {
                    status: 0,
                    headers: String::new(),
                    body: Vec::new(),
                };
            };
            let headers = text(&rest[..end]);
            let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
            rest = &rest[end + 4..];
            if status != 100 {
                return Answer {
                    status,
                    headers,
                    body: rest.to_owned(),
                };
            }
        }
    }

    pub fn header(&self, name: &str) -> String {
        let mut lines = self.headers.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{} {}", self.headers, text(&self.body));
        self
    }
}
