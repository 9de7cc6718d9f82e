//! The cluster's own certificate authority: signs the server's certificate and those of nodes.
//!
//! Key and certificate lie in one folder of the data directory, readable by the owner alone. What a node asks for in its
//! request is not looked at but for its key: the name in the certificate is the one that its join token allows.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dure_core::units::{Span, Time};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use sha2::{Digest, Sha256};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::clock::Clock;

/// How the name of a node stands in its certificate.
const NODE_URI: &str = "spiffe://dure/node/";
/// How far clocks may differ: a certificate holds from so long before it was signed.
const DAY: Span = Span::seconds(86_400);
/// How long the certificate of a node or of a server holds.
const LEAF_VALIDITY: Span = Span::seconds(366 * 86_400);
/// How long the authority holds.
const AUTHORITY_VALIDITY: Span = Span::seconds(10 * 366 * 86_400);
/// Largest signing request, in bytes.
pub const MAX_REQUEST: usize = 16 << 10;

/// Why the authority cannot do its part.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("{}: {source}: check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Half of the authority is gone.
    #[error("{} is missing beside the other half of the authority: restore it, or remove the folder and join all nodes again", path.display())]
    Incomplete {
        /// What is missing.
        path: PathBuf,
    },
    /// The authority's files, or names for a certificate, cannot be used.
    #[error("certificate authority: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A signing request that cannot be used: the node's fault.
    #[error("certificate_request: {0}; send a DER-encoded PKCS#10 request signed with its own key")]
    BadRequest(String),
    /// The system has no random bytes.
    #[error("no random bytes for a serial number: {0}")]
    NoRandom(String),
}

/// The authority.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate and its key.
pub struct KeyedCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
}

/// A signed node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedNode {
    /// The certificate, PEM.
    pub certificate_pem: String,
}

/// A signing request whose own signature holds.
pub struct NodeRequest(CertificateSigningRequestParams);

impl NodeRequest {
    /// Reads a DER-encoded request.
    ///
    /// # Errors
    /// `BadRequest`.
    pub fn parse(der: &[u8]) -> Result<Self, CaError> {
        if der.is_empty() || der.len() > MAX_REQUEST {
            return Err(CaError::BadRequest(format!("{} bytes; expected 1 to {MAX_REQUEST}", der.len())));
        }
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map(Self)
            .map_err(|err| CaError::BadRequest(err.to_string()))
    }

    /// Digest of the key that the certificate is to hold.
    pub fn key(&self) -> [u8; 32] {
        Sha256::digest(self.0.public_key.der_bytes()).into()
    }
}

impl Authority {
    /// The authority of `dir`, made where there is none.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let (key_path, certificate_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        match (key_path.exists(), certificate_path.exists()) {
            (false, false) => make(dir, &key_path, &certificate_path)?,
            // The certificate is written last: a key alone is a making that was cut short.
            (true, false) => {
                fs::remove_file(&key_path).map_err(|source| CaError::Io { path: key_path.clone(), source })?;
                make(dir, &key_path, &certificate_path)?;
            }
            (false, true) => return Err(CaError::Incomplete { path: key_path }),
            (true, true) => {}
        }
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|source| CaError::Io { path: path.to_owned(), source });
        let (key, pem) = (KeyPair::from_pem(&read(&key_path)?)?, read(&certificate_path)?);
        let issuer = Issuer::from_ca_cert_pem(&pem, key)?;
        Ok(Self { pem, issuer })
    }

    /// Its certificate, PEM: what clients are given to know the server by.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a server under these names and addresses, with a new key.
    ///
    /// # Errors
    /// `Certificate` for a name that cannot stand in one.
    pub fn server(&self, names: &[String]) -> Result<KeyedCertificate, CaError> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "dure scheduler");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf(&mut params)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(KeyedCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The certificate of `node` for the key of `request`; good for a client alone.
    ///
    /// # Errors
    /// `Certificate` for a name that cannot stand in one.
    pub fn node(&self, node: &str, request: &NodeRequest) -> Result<SignedNode, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, node);
        params.subject_alt_names = vec![SanType::URI(format!("{NODE_URI}{node}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        leaf(&mut params)?;
        let certificate = params.signed_by(&request.0.public_key, &self.issuer)?;
        Ok(SignedNode { certificate_pem: certificate.pem() })
    }
}

/// What all certificates of servers and nodes have in common.
fn leaf(params: &mut CertificateParams) -> Result<(), CaError> {
    valid_for(params, LEAF_VALIDITY);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|err| CaError::NoRandom(err.to_string()))?;
    // A serial number is positive.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn make(dir: &Path, key_path: &Path, certificate_path: &Path) -> Result<(), CaError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|source| CaError::Io { path: dir.to_owned(), source })?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "dure cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_VALIDITY);
    let certificate = params.self_signed(&key)?;
    write(key_path, key.serialize_pem().as_bytes())?;
    write(certificate_path, certificate.pem().as_bytes())?;
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| CaError::Io { path: dir.to_owned(), source })
}

/// Writes a new file for the owner alone and syncs it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CaError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|source| CaError::Io { path: path.to_owned(), source })
}

fn valid_for(params: &mut CertificateParams, span: Span) {
    let now = Clock::start(Time(0)).now();
    let day_of = |time: Time| {
        let moment = jiff::Timestamp::from_millisecond(i64::try_from(time.0).unwrap_or(i64::MAX)).unwrap_or_default();
        let date = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
        let number = |part: i8| u8::try_from(part).expect("months and days are positive");
        rcgen::date_time_ymd(i32::from(date.year()), number(date.month()), number(date.day()))
    };
    let of_day = std::time::Duration::from_secs(now.0 % DAY.0 / 1_000);
    params.not_before = day_of(Time(now.0.saturating_sub(DAY.0))) + of_day;
    params.not_after = day_of(now + span);
}

/// Whom a certificate speaks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeCertificate {
    /// The node.
    pub node: String,
    /// When it was signed, to the second.
    pub issued: Time,
}

/// The node that a certificate of this authority speaks for. Its signature was proven when the connection was made.
pub fn node_of_certificate(certificate: &CertificateDer<'_>) -> Option<NodeCertificate> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let node = names.next()?.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NODE_URI),
        _ => None,
    })?;
    let seconds = u64::try_from(certificate.validity().not_before.timestamp()).ok()?;
    (!node.is_empty()).then(|| NodeCertificate { node: node.to_owned(), issued: Time(seconds * 1_000) + DAY })
}

#[cfg(test)]
mod tests;
