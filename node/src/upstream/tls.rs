//! TLS to upstream: rustls with ring, the platform's roots, verification never disabled. A missing CA bundle fails
//! only what needs it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use crate::fault::{Cause, Fault};
use crate::os::tasks;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls(Arc<Mutex<Option<Arc<ClientConfig>>>>);

impl Tls {
    /// Trusts these roots instead of the platform's, as a test needs it.
    #[cfg(test)]
    pub(super) fn trusting(roots: RootCertStore) -> Result<Self, Fault> {
        let config = client_config(roots).map_err(|e| fault("tls", &e.to_string()))?;
        Ok(Self(Arc::new(Mutex::new(Some(config)))))
    }

    /// The handshake, in which the server must prove to be `host`.
    ///
    /// # Errors
    /// `Tls` with the reason.
    pub(super) async fn handshake(&self, host: &str, stream: Stream) -> Result<Stream, Fault> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| fault(host, "the host is no name that a certificate can have"))?;
        let connector = TlsConnector::from(self.config(host).await?);
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Stream::tls(stream)),
            Err(error) => Err(fault(host, &error.to_string())),
        }
    }

    /// Loads the roots at first use; a failure is not remembered, so that mending it needs no restart.
    async fn config(&self, host: &str) -> Result<Arc<ClientConfig>, Fault> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = lock().clone() {
            return Ok(config);
        }
        let config = tasks::blocking("ca-roots", load)
            .await
            .unwrap_or_else(|_| Err("loading the CA roots was cut off".into()))
            .map_err(|detail| fault(host, &detail))?;
        *lock() = Some(config.clone());
        Ok(config)
    }
}

fn load() -> Result<Arc<ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map(|e| format!(" ({e})")).unwrap_or_default();
        return Err(format!(
            "this machine has no trusted CA certificates{why}: install the package ca-certificates or set SSL_CERT_FILE"
        ));
    }
    client_config(roots).map_err(|e| e.to_string())
}

fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn fault(host: &str, detail: &str) -> Fault {
    Fault::new(Cause::Tls { host: host.into(), detail: detail.into() })
}
