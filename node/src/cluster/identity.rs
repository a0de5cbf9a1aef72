//! Who this node is, and how it knows the others of its site.
//!
//! Every node derives the same certificate authority from the site token and issues its own certificate; both sides of each
//! connection demand one of that authority. So whoever has the token is a member, and nobody else gets past the handshake.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use imirror_protocol::NodeId;
use imirror_protocol::token::{SiteId, Token};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};

/// The name in every node's certificate: a node is known by its key and not by a name.
pub const SERVER_NAME: &str = "node.imirror";

/// What both sides of a connection say they speak.
const ALPN: &[u8] = b"imirror/1";

/// A key takes some 80 bytes.
const KEY_FILE_MAX: u64 = 4096;

/// DER before the 32 bytes of an Ed25519 private key in PKCS #8 version 1 (RFC 8410 section 7).
const PKCS8_OF_SEED: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// See the module head.
pub struct Identity {
    pub node: NodeId,
    pub site: SiteId,
    /// For connections that this node makes.
    pub client: Arc<ClientConfig>,
    /// For connections that others make to it.
    pub server: Arc<ServerConfig>,
}

impl Identity {
    /// The node whose key lies in `state_dir`, where one is made if there is none.
    ///
    /// # Errors
    /// A key that cannot be read or written, or is damaged: the node must not run under another one by accident.
    pub fn load(state_dir: &Path, token: &Token) -> anyhow::Result<Self> {
        let path = state_dir.join("node.key");
        let key = match read_private(&path) {
            Ok(bytes) => KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(bytes), &PKCS_ED25519)
                .map_err(|_| {
                    anyhow!(
                        "{} is no Ed25519 key: remove it, and this node comes back under a new identity",
                        path.display()
                    )
                })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate_for(&PKCS_ED25519).context("no key could be made")?;
                write_private(&path, &key.serialize_der())
                    .with_context(|| format!("cannot keep this node's key in {}", path.display()))?;
                key
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Self::new(token, &key)
    }

    fn new(token: &Token, key: &KeyPair) -> anyhow::Result<Self> {
        let leaf = leaf_params()?.signed_by(key, &Authority::of(token)?.issuer)?;
        Self::with_certificate(token, key, leaf.der())
    }

    fn with_certificate(token: &Token, key: &KeyPair, leaf: &CertificateDer<'static>) -> anyhow::Result<Self> {
        let chain = vec![leaf.clone()];
        let secret = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));

        let mut roots = RootCertStore::empty();
        roots.add(Authority::of(token)?.certificate)?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), secret())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Tickets would be state to keep, and save nothing that could be measured.
        client.resumption = rustls::client::Resumption::disabled();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, secret())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;

        let node = NodeId::of_public_key(&key.subject_public_key_info());
        Ok(Self { node, site: token.site_id(), client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Whose certificate this is. It has been verified already.
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(NodeId::of_public_key(&parsed.subject_public_key_info()))
}

/// The site's certificate authority, the same at every node.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn of(token: &Token) -> anyhow::Result<Self> {
        let mut pkcs8 = PKCS8_OF_SEED.to_vec();
        pkcs8.extend_from_slice(&token.authority_seed());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        describe(&mut params, "imirror site");
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }
}

fn leaf_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    describe(&mut params, "imirror node");
    Ok(params)
}

/// All that would else be a default of the library's, and might differ between two versions of it.
fn describe(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(1));
    // A machine whose clock is dead joins all the same.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
}

/// The token of a new site.
///
/// # Errors
/// The system has no entropy.
pub fn new_token() -> anyhow::Result<Token> {
    let mut secret = [0; 20];
    let provider: CryptoProvider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut secret).map_err(|_| anyhow!("the system gives no random numbers"))?;
    Ok(Token::from_entropy(secret))
}

/// Where a token is kept that no configuration names.
pub fn token_file(state_dir: &Path) -> PathBuf {
    state_dir.join("token")
}

/// Keeps a token for the next start. With `replace` another site's may be there already.
///
/// # Errors
/// There is a token already, or the file cannot be written.
pub fn keep_token(state_dir: &Path, token: &Token, replace: bool) -> anyhow::Result<()> {
    let path = token_file(state_dir);
    if !replace && path.exists() {
        bail!("{} holds a site's token already: add --force to leave that site", path.display());
    }
    std::fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    write_private(&path, format!("{}\n", token.spelled()).as_bytes())
        .with_context(|| format!("cannot keep the token in {}", path.display()))
}

/// Writes a file that only one user can ever read; it is there as a whole or not at all. It belongs to whom its folder belongs to: what
/// root does is for the service.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    let folder = File::open(path.parent().unwrap_or(Path::new(".")))?;
    let (theirs, ours) = (folder.metadata()?, file.metadata()?);
    if rustix::process::geteuid().is_root() && theirs.uid() != ours.uid() {
        fchown(&file, Some(theirs.uid()), Some(theirs.gid()))?;
    }
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    folder.sync_all()
}

fn read_private(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    impl Identity {
        /// Somebody who trusts the nodes of a site, and shows a certificate that `issuer` has signed, good until the end of 2019 or for ever.
        pub(in crate::cluster) fn that_shows(site: &Token, issuer: &Token, expired: bool) -> Self {
            let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let mut params = leaf_params().unwrap();
            if expired {
                params.not_before = rcgen::date_time_ymd(2019, 1, 1);
                params.not_after = rcgen::date_time_ymd(2020, 1, 1);
            }
            let leaf = params.signed_by(&key, &Authority::of(issuer).unwrap().issuer).unwrap();
            Self::with_certificate(site, &key, leaf.der()).unwrap()
        }
    }

    fn token(n: u8) -> Token {
        Token::from_entropy([n; 20])
    }

    fn identity(token: &Token) -> Identity {
        Identity::new(token, &KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap()
    }

    /// Shakes hands in memory; who each side says the other is.
    fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<(NodeId, NodeId), rustls::Error> {
        let mut client = ClientConnection::new(client, SERVER_NAME.try_into().unwrap())?;
        let mut server = ServerConnection::new(server)?;
        for _ in 0..4 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = &wire[..];
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        let of = |certificates: Option<&[CertificateDer<'_>]>| node_of(&certificates.unwrap()[0]).unwrap();
        Ok((of(client.peer_certificates()), of(server.peer_certificates())))
    }

    #[test]
    fn the_authority_of_a_token_never_changes() {
        let certificate = || Authority::of(&token(7)).unwrap().certificate;
        assert_eq!(certificate(), certificate());
        let golden = "71a129b0e97b11646d6f3727a257918900fcb8bf6281df4800d8f8ca0215121c";
        assert_eq!(blake3::hash(&certificate()).to_hex().as_str(), golden);
    }

    #[test]
    fn nodes_of_one_site_know_each_other_by_their_keys() {
        let (a, b) = (identity(&token(1)), identity(&token(1)));
        assert_ne!(a.node, b.node);
        assert_eq!(handshake(a.client.clone(), b.server.clone()), Ok((b.node, a.node)));
        assert_eq!(handshake(a.client, a.server), Ok((a.node, a.node)));
    }

    #[test]
    fn another_site_is_refused_on_both_sides() {
        let (ours, theirs) = (identity(&token(1)), identity(&token(2)));
        assert!(handshake(ours.client.clone(), theirs.server.clone()).is_err());
        assert!(handshake(theirs.client.clone(), ours.server.clone()).is_err());
        // Somebody who takes whatever server there is, and has a certificate of another site or none.
        let anybody = |certificate: Option<&Identity>| {
            let mut roots = RootCertStore::empty();
            roots.add(Authority::of(&token(1)).unwrap().certificate).unwrap();
            let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .with_root_certificates(roots);
            let mut config = match certificate {
                Some(identity) => builder.with_client_cert_resolver(identity.client.client_auth_cert_resolver.clone()),
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![ALPN.to_vec()];
            Arc::new(config)
        };
        assert!(handshake(anybody(Some(&theirs)), ours.server.clone()).is_err());
        assert!(handshake(anybody(None), ours.server.clone()).is_err());
        assert!(handshake(anybody(Some(&ours)), ours.server.clone()).is_ok());
    }

    #[test]
    fn a_certificate_that_has_expired_or_is_for_something_else_is_refused() {
        let token = token(1);
        let sound = identity(&token);
        let with = |change: &dyn Fn(&mut CertificateParams)| {
            let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let mut params = leaf_params().unwrap();
            change(&mut params);
            let leaf = params.signed_by(&key, &Authority::of(&token).unwrap().issuer).unwrap();
            let shown = Identity::with_certificate(&token, &key, leaf.der()).unwrap();
            handshake(shown.client, sound.server.clone())
        };
        assert!(with(&|_| {}).is_ok());
        assert!(with(&|params| params.not_after = rcgen::date_time_ymd(2021, 1, 1)).is_err());
        assert!(with(&|params| params.not_before = rcgen::date_time_ymd(2119, 1, 1)).is_err());
        assert!(with(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]).is_err());
    }

    #[test]
    fn a_node_keeps_its_key_and_refuses_a_damaged_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::load(folder.path(), &token(1)).unwrap();
        assert_eq!(Identity::load(folder.path(), &token(1)).unwrap().node, first.node);
        let path = folder.path().join("node.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"nonsense").unwrap();
        let error = Identity::load(folder.path(), &token(1)).err().unwrap().to_string();
        assert!(error.contains("node.key") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn a_token_is_not_replaced_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(first, second);
        keep_token(folder.path(), &first, false).unwrap();
        assert!(keep_token(folder.path(), &second, false).is_err());
        let kept = || Token::parse(&std::fs::read_to_string(token_file(folder.path())).unwrap()).unwrap();
        assert_eq!(kept(), first);
        keep_token(folder.path(), &second, true).unwrap();
        assert_eq!(kept(), second);
        assert_eq!(std::fs::metadata(token_file(folder.path())).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
