//! TLS to upstream: rustls with ring, the platform's roots, verification never disabled. A missing CA bundle fails
//! only what needs it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use crate::fault::{Cause, Fault};
use crate::os::tasks;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls(Arc<Trust>);

#[derive(Debug, Default)]
struct Trust {
    config: Mutex<Option<Arc<ClientConfig>>>,
    loading: tokio::sync::Mutex<()>,
}

impl Tls {
    /// Trusts these roots instead of the platform's, as a test needs it.
    #[cfg(test)]
    pub(super) fn trusting(roots: RootCertStore) -> Result<Self, Fault> {
        let config = client_config(roots).map_err(|e| fault("tls", &e.to_string()))?;
        Ok(Self(Arc::new(Trust { config: Mutex::new(Some(config)), loading: tokio::sync::Mutex::default() })))
    }

    /// The handshake, in which the server must prove to be `host`.
    ///
    /// # Errors
    /// `Tls` with the reason.
    pub(super) async fn handshake(&self, host: &str, stream: Stream) -> Result<Stream, Fault> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| fault(host, "the host is no name that a certificate can have"))?;
        let config = self.config().await.map_err(|detail| fault(host, &detail))?;
        let error = match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => return Ok(Stream::tls(stream)),
            Err(error) => error,
        };
        let reason = reason(&error);
        if matches!(reason, Some(Error::InvalidCertificate(CertificateError::UnknownIssuer))) {
            // The next one looks whether the operator has added its authority.
            *self.lock() = None;
        }
        Err(fault(host, &explain(&error, reason)))
    }

    /// Loads the roots at first use; a failure is not remembered, so that mending it needs no restart.
    ///
    /// # Errors
    /// Says why there are none and what to do.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.lock().clone() {
            return Ok(config);
        }
        // One at a time: what was read before somebody found it wanting must not come back after that.
        let _one_at_a_time = self.0.loading.lock().await;
        if let Some(config) = self.lock().clone() {
            return Ok(config);
        }
        let loaded = tasks::blocking("ca-roots", load).await;
        let config = loaded.unwrap_or_else(|_| Err("loading the CA roots was cut off".into()))?;
        *self.lock() = Some(config.clone());
        Ok(config)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<ClientConfig>>> {
        self.0.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What rustls says, if it was rustls that failed.
fn reason(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What went wrong and what can be done.
fn explain(error: &io::Error, reason: Option<&Error>) -> String {
    use CertificateError::*;
    let advice = match reason {
        Some(Error::InvalidCertificate(Expired | ExpiredContext { .. })) => {
            "whoever runs the server has to renew the certificate, unless this machine's clock is wrong"
        }
        Some(Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. })) => {
            "set this machine's clock, unless it is the server's that is wrong"
        }
        Some(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            "ask for it by a name that its certificate is for"
        }
        Some(Error::InvalidCertificate(UnknownIssuer)) => {
            "if you trust who issued it, add that authority's certificate to this machine's (update-ca-certificates, \
             update-ca-trust) or to the file that SSL_CERT_FILE names"
        }
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "no TLS is spoken on that port",
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
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

fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
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
