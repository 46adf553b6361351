//! What the tests of this crate share.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) mod registry;

/// A directory that goes with its value, also when a test fails.
pub(crate) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("gantry-image-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A ustar archive of files, and of directories where the name ends in a slash.
pub(crate) fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in entries {
        let mut header = [0_u8; 512];
        let mut put =
            |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        let is_directory = name.ends_with('/');
        put(0, name);
        put(
            100,
            if is_directory {
                "0000755\0"
            } else {
                "0000644\0"
            },
        );
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{:011o}\0", content.len()));
        put(136, "00000000000\0");
        put(148, "        ");
        put(156, if is_directory { "5" } else { "0" });
        put(257, "ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// One request as [`Server`] saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The body as it came.
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}

/// What a [`Server`] answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Break the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Send the body in chunks, without announcing its length.
    pub(crate) chunked: bool,
    /// Send the body in twenty pieces with this pause between them.
    pub(crate) slow: Option<std::time::Duration>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;
/// How much of a request's body is read before the connection breaks, if it does.
type Break = dyn Fn(&Request) -> Option<usize> + Send + Sync;

/// An HTTP/1.1 server on a free port of 127.0.0.1. It speaks no TLS: a connection that begins
/// with anything but a request is counted and closed.
pub(crate) struct Server {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    not_http: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_breaking(handler, |_| None)
    }

    /// As [`Server::start`]; connections on which a body comes may break. The handler sees what
    /// has come, and its reply is lost.
    pub(crate) fn start_breaking(
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        breaks: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            not_http: Arc::default(),
            stop: Arc::default(),
        };
        let (seen, not_http, stop) = (
            server.seen.clone(),
            server.not_http.clone(),
            server.stop.clone(),
        );
        let handler: Arc<Handler> = Arc::new(handler);
        let breaks: Arc<Break> = Arc::new(breaks);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (seen, not_http, handler) = (seen.clone(), not_http.clone(), handler.clone());
                let breaks = breaks.clone();
                std::thread::spawn(move || {
                    // The client may break the connection at any time; that is its right.
                    let _ = serve(stream.unwrap(), &seen, &not_http, &*handler, &*breaks);
                });
            }
        });
        server
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// Connections so far that did not begin with a request, as those for TLS.
    pub(crate) fn not_http(&self) -> u32 {
        self.not_http.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    not_http: &AtomicU32,
    handler: &Handler,
    breaks: &Break,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        match reader.fill_buf()?.first() {
            None => return Ok(()),
            Some(first) if !first.is_ascii_uppercase() => {
                not_http.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Some(_) => {}
        }
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            Ok(line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let mut headers = Vec::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Request {
            method,
            target,
            headers,
            body: String::new(),
            bytes: Vec::new(),
        };
        let length = request
            .header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let broken = breaks(&request);
        let mut body = vec![0; broken.map_or(length, |count| count.min(length))];
        reader.read_exact(&mut body)?;
        if body.len() < 1 << 16 {
            request.body = String::from_utf8_lossy(&body).into_owned();
        }
        request.bytes = body;
        // The list is kept to the end: not with all that was ever sent.
        let mut listed = request.clone();
        listed.bytes = Vec::new();
        seen.lock().unwrap().push(listed);
        let reply = handler(&request);
        if broken.is_some() {
            return stream.shutdown(std::net::Shutdown::Both);
        }
        let is_head = request.method == "HEAD";
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if reply.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            for chunk in reply.body[..reply.cut.unwrap_or(reply.body.len())].chunks(1000) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
                stream.write_all(chunk)?;
                stream.write_all(b"\r\n")?;
            }
            if reply.cut.is_none() {
                stream.write_all(b"0\r\n\r\n")?;
            }
        } else {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
            stream.write_all(head.as_bytes())?;
            if let Some(pause) = reply.slow {
                for piece in reply.body.chunks(reply.body.len() / 20 + 1) {
                    stream.write_all(piece)?;
                    std::thread::sleep(pause);
                }
            } else if !is_head {
                stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
            }
        }
        if reply.cut.is_some() {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
