//! TLS for the review page, by rustls.
//!
//! Place: between the socket and axum, where a certificate is configured. Invariant: one slow handshake delays nobody else;
//! handshakes are bounded in number and time; a connection that fails its handshake reaches no route.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, rustls::version};

/// Longest handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at once.
const HANDSHAKES_MAX: usize = 64;
/// Wait after the system refuses a connection, as when there are too many open files.
const REFUSED_WAIT: Duration = Duration::from_millis(200);

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("read {what} from {path}")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<pem::Error>,
    },
    /// There is no certificate in its file.
    #[error("no certificate in {path}")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or are of a kind that is not served.
    #[error("use certificate {certificate} with key {key}")]
    Use {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: Box<rustls::Error>,
    },
}

/// Reads a certificate chain and its private key, both PEM; serves TLS 1.2 and 1.3.
///
/// # Errors
/// [`TlsError`] names the file.
pub fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem {
            what,
            path,
            source: Box::new(source),
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<CertificateDer<'static>> = chain.map_err(failed("certificate", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty {
            path: certificate.to_owned(),
        });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(failed("private key", key))?;
    let unfit = |source| TlsError::Use {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        source: Box::new(source),
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unfit)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listener whose connections have shaken hands.
pub(crate) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl TlsListener {
    pub(crate) fn new(tcp: TcpListener, address: SocketAddr, acceptor: TlsAcceptor) -> Self {
        let (sender, ready) = mpsc::channel(HANDSHAKES_MAX);
        let task = tokio::spawn(shake_hands(tcp, acceptor, sender));
        Self { address, ready, task }
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn shake_hands(tcp: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection refused");
                tokio::time::sleep(REFUSED_WAIT).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                // an error here is the listener's end
                Ok(Ok(stream)) => drop(ready.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%error, "handshake failed"),
                Err(_) => tracing::debug!("handshake took too long"),
            }
            drop(permit);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // the task ends only with this listener
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Where a connection comes from, with and without TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;

    fn pair() -> (PathBuf, PathBuf) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tls");
        (directory.join("cert.pem"), directory.join("key.pem"))
    }

    /// A listener that greets whoever has shaken hands.
    async fn greeter() -> SocketAddr {
        let (certificate, key) = pair();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut listener = TlsListener::new(tcp, address, acceptor(&certificate, &key).unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await;
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        address
    }

    fn client(trusted: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        if trusted {
            let certificate = CertificateDer::from_pem_file(pair().0).unwrap();
            roots.add(certificate).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    #[tokio::test]
    async fn who_trusts_the_certificate_is_served_while_another_never_shakes_hands() {
        let address = greeter().await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connect = |trusted| {
            let name = name.clone();
            async move { client(trusted).connect(name, TcpStream::connect(address).await?).await }
        };
        let mut greeting = String::new();
        connect(true)
            .await
            .unwrap()
            .read_to_string(&mut greeting)
            .await
            .unwrap();
        assert_eq!(greeting, "hello");
        assert!(connect(false).await.is_err());
    }

    #[test]
    fn a_file_that_is_no_certificate_or_no_key_is_named() {
        let (certificate, key) = pair();
        let missing = Path::new("/nonexistent.pem");
        for (certificate, key, named) in [
            (missing, key.as_path(), "/nonexistent.pem"),
            (certificate.as_path(), missing, "/nonexistent.pem"),
            (key.as_path(), key.as_path(), "no certificate in"),
        ] {
            let error = acceptor(certificate, key).err().unwrap().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
