//! The server: connections, TLS, time limits and the orderly stop.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use crate::api::{self, State};
use crate::auth::AccessError;
use crate::options::{Options, TlsOptions};
use crate::patience::Patient;
use crate::storage::StorageError;

/// Longest headers of a request in bytes. A token with its certificate chain has several
/// thousand.
const HEADERS_LENGTH: usize = 64 << 10;
/// Most headers of a request.
const HEADERS_COUNT: usize = 64;
/// For the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two looks for uploads that were given up.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// Threads that run requests; what blocks has threads of its own.
const WORKERS: usize = 4;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The root cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Users or tokens cannot be checked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of TLS cannot be used.
    #[error("cannot use {}", path.display())]
    Pem {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate, key and authorities do not fit together.
    #[error("cannot use {} for TLS", path.display())]
    Tls {
        /// The certificate.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authorities for clients cannot be used.
    #[error("cannot check clients with {}", path.display())]
    ClientAuthorities {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
    /// The upstream's name is none, or its certificates cannot be used.
    #[error("cannot use the upstream registry")]
    Upstream(#[source] gantry_image::registry::RegistryError),
    /// The threads cannot be started.
    #[error("cannot start the server's threads")]
    Threads(#[source] io::Error),
}

/// A server that runs. It stops when this is dropped.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    secure: bool,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS` or `https://ADDRESS`.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Stops: no connection is accepted any more, and requests that are under way have
    /// [`Limits::stopping`](crate::Limits::stopping) to end.
    pub fn stop(mut self) {
        self.end();
    }

    /// Waits until the server has stopped by itself, which only signals make it.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a server with threads of its own. It is ready when this returns.
///
/// # Errors
/// [`ServeError`]; nothing is left running then.
pub fn serve(options: Options) -> Result<Handle, ServeError> {
    let tls = options.tls.as_ref().map(tls_acceptor).transpose()?;
    let secure = tls.is_some();
    let (address, signals, limits) = (options.address, options.signals, options.limits);
    let (state, lock) = State::open(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS),
        )
        .enable_all()
        .thread_name("registry")
        .build()
        .map_err(ServeError::Threads)?;
    let listening = runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        // Before anybody is told the address: a signal that comes then must not kill.
        let signals = if signals { Some(Signals::new()?) } else { None };
        Ok((listener, address, signals))
    });
    let (listener, address, signals) =
        listening.map_err(|source| ServeError::Listen { address, source })?;
    let (stop, stopping) = watch::channel(false);
    let server = Server {
        listener,
        tls,
        state: Arc::new(state),
        connections: Arc::new(Semaphore::new(limits.connections)),
        stopping,
        stop: stop.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("registry".to_owned())
        .spawn(move || {
            runtime.block_on(server.run(signals));
            // Threads that wait for a disk or an upstream are not waited for: nothing that they
            // do has been acknowledged.
            runtime.shutdown_timeout(Duration::from_secs(1));
            drop::<OwnedFd>(lock);
        })
        .map_err(ServeError::Threads)?;
    Ok(Handle {
        address,
        secure,
        stop,
        thread: Some(thread),
    })
}

/// The signals that stop the server.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(signals: &mut Option<Self>) {
        match signals {
            Some(signals) => {
                tokio::select! {
                    _ = signals.terminate.recv() => (),
                    _ = signals.interrupt.recv() => (),
                }
            }
            None => std::future::pending().await,
        }
    }
}

struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    connections: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
}

impl Server {
    async fn run(self, mut signals: Option<Signals>) {
        let mut stopping = self.stopping.clone();
        tokio::spawn(keep_house(Arc::clone(&self.state), stopping.clone()));
        // Each connection holds a sender, so the receiver sees the end of the last one.
        let (alive, mut ended) = mpsc::channel::<()>(1);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = stopping.wait_for(|stop| *stop) => break,
                () = Signals::next(&mut signals) => break,
            };
            let Some((stream, permit)) = accepted else {
                continue;
            };
            let (state, tls) = (Arc::clone(&self.state), self.tls.clone());
            let (stopping, alive) = (self.stopping.clone(), alive.clone());
            tokio::spawn(async move {
                connection(stream, tls, state, stopping).await;
                drop((permit, alive));
            });
        }
        self.stop.send_replace(true);
        drop((self.listener, alive));
        let limit = self.state.options.limits.stopping;
        tokio::select! {
            _ = tokio::time::timeout(limit, ended.recv()) => (),
            // A second signal is meant seriously.
            () = Signals::next(&mut signals) => (),
        }
    }

    async fn accept(&self) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.connections).acquire_owned().await.ok()?;
        match self.listener.accept().await {
            Ok((stream, _)) => {
                // Small answers are not held back for more to come.
                let _ = stream.set_nodelay(true);
                Some((stream, permit))
            }
            Err(error) => {
                self.state
                    .options
                    .log
                    .say(&format!("cannot accept a connection: {error}"));
                // No descriptors left: trying again at once would only burn a processor.
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

/// Removes uploads that were given up, at the start and then every hour.
async fn keep_house(state: Arc<State>, mut stopping: watch::Receiver<bool>) {
    loop {
        let age = state.options.limits.upload_age;
        let swept = state.blocking(move |storage| {
            let before = SystemTime::now().checked_sub(age);
            storage.sweep_uploads(before.unwrap_or(SystemTime::UNIX_EPOCH), true)
        });
        if let Err(fault) = swept.await {
            let reason = fault.internal.unwrap_or(fault.message);
            state
                .options
                .log
                .say(&format!("cannot remove old uploads: {reason}"));
        }
        tokio::select! {
            () = tokio::time::sleep(HOUSEKEEPING) => (),
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    stopping: watch::Receiver<bool>,
) {
    match tls {
        None => requests(stream, state, stopping).await,
        Some(tls) => {
            // Whoever speaks no TLS, or none that is accepted, is of no interest to the log.
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                requests(stream, state, stopping).await;
            }
        }
    }
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    state: Arc<State>,
    mut stopping: watch::Receiver<bool>,
) {
    let limits = state.options.limits;
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, std::convert::Infallible>(api::answer(&state, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(HEADERS_COUNT)
        .max_buf_size(HEADERS_LENGTH)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.idle)), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A client that breaks off is its own matter.
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|stop| *stop) => (),
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

fn tls_acceptor(options: &TlsOptions) -> Result<TlsAcceptor, ServeError> {
    let pem = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| ServeError::Pem { path, source }
    };
    let certificates = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(pem(path))
    };
    let chain = certificates(&options.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(pem(&options.key))?;
    let tls = |source| ServeError::Tls {
        path: options.certificate.clone(),
        source,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let builder = match &options.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(tls)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| ServeError::ClientAuthorities {
                    path: path.clone(),
                    source,
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(tls)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
