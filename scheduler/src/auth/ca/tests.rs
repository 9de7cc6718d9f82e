//! The authority: made once, for its owner alone; what it signs names what it should and nothing else.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::pem::PemObject as _;

use super::*;

fn request(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("good names");
    params.distinguished_name.push(DnType::CommonName, "whoever");
    params.serialize_request(key).expect("it is signed").der().to_vec()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

#[test]
fn the_authority_is_made_once_and_for_its_owner_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ca = dir.path().join("ca");
    let first = Authority::open(&ca).expect("it is made");
    let again = Authority::open(&ca).expect("it is read");
    assert_eq!(first.pem(), again.pem());
    for name in ["ca.key", "ca.crt"] {
        let mode = std::fs::metadata(ca.join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    std::fs::remove_file(ca.join("ca.key")).expect("it is removed");
    assert!(Authority::open(&ca).expect_err("half of it").to_string().contains("ca.key is missing"));
}

#[test]
fn a_making_that_was_cut_short_begins_anew() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("ca.key"), "half a k").expect("it is written");
    let authority = Authority::open(dir.path()).expect("it is made anew");
    assert!(authority.pem().contains("BEGIN CERTIFICATE"));
}

#[test]
fn a_node_gets_its_own_name_whatever_it_asks_for() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::open(dir.path()).expect("it is made");
    let key = KeyPair::generate().expect("a key");
    let asked = NodeRequest::parse(&request(&key, &["n2", "localhost"])).expect("a good request");
    let signed = authority.node("n1", &asked).expect("it is signed");
    let certificate = der(&signed.certificate_pem);
    let before = Clock::start(Time(0)).now();
    let NodeCertificate { node, issued } = node_of_certificate(&certificate).expect("a node's");
    assert_eq!(node, "n1");
    assert!(before.since(issued) < Span::seconds(60) && issued <= before, "{issued:?}, {before:?}");
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificate).expect("a certificate");
    let authority_der = der(authority.pem());
    let (_, issuer) = x509_parser::certificate::X509Certificate::from_der(&authority_der).expect("a certificate");
    parsed.verify_signature(Some(issuer.public_key())).expect("the authority signed it");
    assert!(!parsed.is_ca() && issuer.is_ca());
    let usage = parsed.extended_key_usage().expect("it parses").expect("it is there").value;
    assert!(usage.client_auth && !usage.server_auth);
    let days = (parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp()) / 86_400;
    assert!((366..=367).contains(&days), "a year and a day, {days}");
    let names = parsed.subject_alternative_name().expect("it parses").expect("it is there");
    assert_eq!(names.value.general_names.len(), 1, "no name that was asked for");
}

#[test]
fn the_certificate_of_a_server_speaks_for_no_node() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::open(dir.path()).expect("it is made");
    let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
    let server = authority.server(&names).expect("it is made");
    assert!(server.key_pem.contains("PRIVATE KEY"));
    let certificate = der(&server.certificate_pem);
    assert_eq!(node_of_certificate(&certificate), None);
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&certificate).expect("a certificate");
    let usage = parsed.extended_key_usage().expect("it parses").expect("it is there").value;
    assert!(usage.server_auth && !usage.client_auth);
}

#[test]
fn a_bad_request_is_refused() {
    let key = KeyPair::generate().expect("a key");
    let mut tampered = request(&key, &["n1"]);
    let end = tampered.len() - 4;
    tampered[end] ^= 1;
    for der in [&[][..], b"garbage", &tampered, &vec![0x30; MAX_REQUEST + 1]] {
        let refused = NodeRequest::parse(der).map(|_| ()).expect_err("it is no good request").to_string();
        assert!(refused.starts_with("certificate_request: "), "{refused}");
    }
    let (one, other) = (request(&key, &["a"]), request(&key, &["b"]));
    let key_of = |der: &[u8]| NodeRequest::parse(der).expect("a good request").key();
    assert_eq!(key_of(&one), key_of(&other), "the key is the same, whatever else is asked");
}
