//! A client that sends exactly what a test wants to send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use gantry_image::Digest;
use gantry_image::model::media_type;
use serde_json::{Value, json};

pub(super) struct Peer {
    address: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// A header's value, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The code of the specification's error document.
    pub(super) fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[track_caller]
    pub(super) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?} {}", self.text());
        self
    }
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(super) fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect();
        // The server may have refused before the end.
        let _ = stream.write_all(bytes);
        read_reply(&mut stream)
    }

    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes)
    }

    pub(super) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    /// Starts an upload and returns its path.
    pub(super) fn start(&self, name: &str) -> String {
        let reply = self.send("POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
        reply.expect(202).header("location").to_owned()
    }

    /// Pushes a blob in one request.
    pub(super) fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.send("POST", &path, &[], bytes).expect(201);
        digest
    }

    pub(super) fn put_manifest(&self, name: &str, reference: &str, manifest: &Value) -> Reply {
        let kind = manifest["mediaType"]
            .as_str()
            .unwrap_or(media_type::MANIFEST);
        let path = format!("/v2/{name}/manifests/{reference}");
        let body = manifest.to_string();
        self.send("PUT", &path, &[("Content-Type", kind)], body.as_bytes())
    }

    /// Pushes an image of one layer under a tag and returns its manifest and digest.
    pub(super) fn push_image(&self, name: &str, tag: &str, layer: &[u8]) -> (Value, Digest) {
        let config = self.push_blob(name, b"{}");
        let layer_digest = self.push_blob(name, layer);
        let manifest = manifest(&config, 2, &layer_digest, layer.len());
        self.put_manifest(name, tag, &manifest).expect(201);
        let digest = Digest::of(manifest.to_string().as_bytes());
        (manifest, digest)
    }
}

pub(super) fn manifest(config: &Digest, config_size: usize, layer: &Digest, size: usize) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "config": { "mediaType": media_type::CONFIG, "digest": config.to_string(), "size": config_size },
        "layers": [{ "mediaType": media_type::LAYER_GZIP, "digest": layer.to_string(), "size": size }],
    })
}

/// Reads a reply to its end. One that breaks off has status 0 or a short body.
pub(super) fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // A reset after the reply is as good as its end.
    let _ = stream.read_to_end(&mut bytes);
    let mut reply = Reply {
        status: 0,
        headers: Vec::new(),
        body: Vec::new(),
    };
    let mut rest = bytes.as_slice();
    loop {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return reply;
        };
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        let body = &rest[end + 4..];
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap();
        reply.status = first.split(' ').nth(1).unwrap().parse().unwrap();
        if reply.status == 100 {
            rest = body;
            continue;
        }
        reply.headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        reply.body = body.to_owned();
        return reply;
    }
}
