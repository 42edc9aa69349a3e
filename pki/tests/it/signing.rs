//! Keys, requests and certificates as the issuer makes them.

use crate::support::{BROKER, Ca, HOUR, MAPPER, NOW, ca_template, id, plant, secs, svid_template};
use midge_identity::{CertificateFacts, TrustDomain};
use midge_pki::{
    BundleDocument, CSR_BYTES_MAX, CaSigner, Csr, CsrError, CsrSubject, FileError, IdentityError,
    KeyFileError, PrivateKey, SignError, SvidIdentity, jwk_public_key, pem_decode_certs, pem_encode_certs,
    pem_encode_key, read_private, write_private,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use sha1::{Digest, Sha1};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

// SPIRE `pkg/server/credtemplate`.
#[test]
fn svid_has_spires_shape() {
    let edge = Ca::root().issue_ca(Some("/edge/box-1/"));
    let key = PrivateKey::generate().unwrap();
    let der = edge.signer().sign_svid(&svid_template(MAPPER), &key.public_key_der()).unwrap();
    let facts = CertificateFacts::parse(&der).unwrap();
    assert_eq!(facts.subject(), "C=US, O=SPIRE, CN=led.local");
    assert_eq!(facts.uri_sans, [MAPPER]);
    assert_eq!(facts.dns_sans, ["led.local"]);
    assert_eq!((facts.not_before, facts.not_after), (secs(NOW - 10), secs(NOW + HOUR)));
    assert_eq!(facts.serial, format!("00{}", hex::encode(b"\xff0123456789abcde")));
    assert_eq!(facts.public_key_der, key.public_key_der());

    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(certificate.version().0, 2);
    let basic = certificate.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && !basic.value.ca && basic.value.path_len_constraint.is_none());
    let usage = certificate.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(usage.value.key_encipherment() && usage.value.key_agreement());
    assert_eq!(usage.value.flags.count_ones(), 3);
    let purposes = certificate.extended_key_usage().unwrap().unwrap();
    assert!(!purposes.critical && purposes.value.server_auth && purposes.value.client_auth);
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert!(!names.critical && names.value.general_names.len() == 2);
    let key_id = |der: &[u8]| {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        Sha1::digest(&certificate.public_key().subject_public_key.data).to_vec()
    };
    assert_eq!(facts.subject_key_id, Some(key_id(&der)));
    assert_eq!(facts.authority_key_id, Some(key_id(&edge.cert)));
}

#[test]
fn ca_certificates_have_spires_shape() {
    let root = Ca::root();
    let edge = root.issue_ca(Some("/edge/box-1/"));
    for (der, subject, scope) in [
        (&root.cert, "C=US, O=SPIFFE, serialNumber=1", None),
        (
            &edge.cert,
            "C=US, O=SPIFFE, OU=DOWNSTREAM-1, serialNumber=2",
            Some(b"\x0c\x0c/edge/box-1/".to_vec()),
        ),
    ] {
        let facts = CertificateFacts::parse(der).unwrap();
        assert_eq!(facts.subject(), subject);
        assert_eq!(facts.uri_sans, ["spiffe://plant.example"]);
        assert_eq!(facts.issuer_scope_der, scope);
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let basic = certificate.basic_constraints().unwrap().unwrap();
        assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint.is_none());
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert_eq!(usage.value.flags.count_ones(), 2);
        assert!(certificate.extended_key_usage().unwrap().is_none());
        assert!(certificate.name_constraints().unwrap().is_none());
        let known = |extension: &ParsedExtension<'_>| {
            !matches!(extension, ParsedExtension::UnsupportedExtension { .. })
        };
        assert!(
            certificate
                .extensions()
                .iter()
                .all(|extension| known(extension.parsed_extension()) || !extension.critical)
        );
    }
    let (root, edge) =
        (CertificateFacts::parse(&root.cert).unwrap(), CertificateFacts::parse(&edge.cert).unwrap());
    assert_eq!(root.issuer_der, root.subject_der);
    assert_eq!(edge.issuer_der, root.subject_der);
    assert_eq!(edge.authority_key_id, root.subject_key_id);
}

#[test]
fn ca_speaks_within_its_trust_domain_and_scope() {
    let edge = Ca::root().issue_ca(Some("/edge/box-1/"));
    let key = PrivateKey::generate().unwrap().public_key_der();
    let sign = |text: &str| edge.signer().sign_svid(&svid_template(text), &key);
    assert!(sign(BROKER).is_ok());
    assert!(sign("spiffe://plant.example/edge/box-1").is_ok());
    for outside in [
        "spiffe://plant.example/edge/box-2/broker",
        "spiffe://plant.example/cloud",
        "spiffe://plant.example",
        "spiffe://other.example/edge/box-1/broker",
    ] {
        let error = sign(outside).unwrap_err();
        assert!(matches!(error, SignError::Outside { .. }), "{outside}: {error}");
    }
    let sign_ca = |domain: &TrustDomain, scope: Option<&str>| {
        edge.signer().sign_ca(&ca_template(domain, 3, scope), &key)
    };
    assert!(sign_ca(&plant(), Some("/edge/box-1/line/")).is_ok());
    for wider in [None, Some("/edge/"), Some("/edge/box-2/"), Some("/edge/box-10/")] {
        assert!(matches!(sign_ca(&plant(), wider), Err(SignError::Outside { .. })), "{wider:?}");
    }
    let other = TrustDomain::new("other.example").unwrap();
    assert!(matches!(sign_ca(&other, Some("/edge/box-1/")), Err(SignError::Outside { .. })));
    assert!(matches!(sign_ca(&plant(), Some("/edge/box-1/../")), Err(SignError::Scope(_))));
}

#[test]
fn nothing_outlives_its_ca() {
    let edge = Ca::root().issue_ca(Some("/edge/box-1/"));
    let key = PrivateKey::generate().unwrap().public_key_der();
    let sign = |not_before, not_after| {
        let template = issuer_core::template::SvidTemplate { not_before, not_after, ..svid_template(BROKER) };
        edge.signer().sign_svid(&template, &key)
    };
    assert_eq!(edge.signer().not_after(), secs(NOW + 24 * HOUR));
    assert!(sign(secs(NOW), secs(NOW + 24 * HOUR)).is_ok());
    for (not_before, not_after) in
        [(NOW, NOW + 24 * HOUR + 1), (NOW, NOW), (NOW, NOW - 1)].map(|(from, to)| (secs(from), secs(to)))
    {
        assert!(matches!(sign(not_before, not_after), Err(SignError::Validity { .. })));
    }
}

#[test]
fn signer_is_a_ca_with_its_own_key() {
    let root = Ca::root();
    let other_key = Arc::new(PrivateKey::generate().unwrap());
    assert!(matches!(CaSigner::new(root.cert.clone(), other_key, plant()), Err(SignError::KeyMismatch(_))));
    let svid = root.svid(BROKER);
    let leaf = CaSigner::new(svid.chain[0].to_vec(), svid.key, plant());
    assert!(matches!(leaf, Err(SignError::Authority(_))));
    let other = TrustDomain::new("other.example").unwrap();
    assert!(matches!(CaSigner::new(root.cert, root.key, other), Err(SignError::Authority(_))));
}

#[test]
fn other_kinds_of_keys_are_certified() {
    let edge = Ca::root().issue_ca(Some("/edge/box-1/"));
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256]
    {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let csr = Csr::parse(request.der()).unwrap();
        assert!(
            edge.signer().sign_svid(&svid_template(MAPPER), csr.public_key_spki()).is_ok(),
            "{algorithm:?}"
        );
    }
    let error = edge.signer().sign_svid(&svid_template(MAPPER), b"no key").unwrap_err();
    assert!(matches!(error, SignError::PublicKey(_)));
}

#[test]
fn request_names_key_identity_and_subject() {
    let key = PrivateKey::generate().unwrap();
    let subject = CsrSubject {
        organization: Some("system:nodes".to_owned()),
        common_name: Some("system:node:box-1".to_owned()),
    };
    let csr = Csr::parse(&key.csr_der(Some(&id(MAPPER)), subject.clone()).unwrap()).unwrap();
    assert_eq!(csr.public_key_spki(), key.public_key_der());
    assert_eq!(csr.spiffe_id(), Some(&id(MAPPER)));
    assert_eq!(csr.subject(), &subject);
    let names = ["a.example".to_owned(), "b.example".to_owned()];
    let named = key.csr_der_with_dns(Some(&id(MAPPER)), &names, CsrSubject::default()).unwrap();
    let named = Csr::parse(&named).unwrap();
    assert_eq!((named.spiffe_id(), named.dns_names()), (Some(&id(MAPPER)), names.as_slice()));
    assert!(key.csr_der_with_dns(None, &["ä.example".to_owned()], CsrSubject::default()).is_err());
    let bare = Csr::parse(&key.csr_der(None, CsrSubject::default()).unwrap()).unwrap();
    assert_eq!((bare.spiffe_id(), bare.subject()), (None, &CsrSubject::default()));
}

#[test]
fn request_that_was_tampered_with_is_refused() {
    let key = PrivateKey::generate().unwrap();
    let der = key.csr_der(Some(&id(MAPPER)), CsrSubject::default()).unwrap();
    for position in 0..der.len() {
        let mut forged = der.clone();
        forged[position] ^= 0x01;
        assert!(Csr::parse(&forged).is_err(), "byte {position}");
    }
    let mut other_name = der.clone();
    let at = der.windows(5).position(|window| window == b"box-1").unwrap() + 4;
    other_name[at] = b'2';
    assert!(matches!(Csr::parse(&other_name), Err(CsrError::Signature)));
    for end in 0..der.len() {
        assert!(Csr::parse(&der[..end]).is_err(), "{end}");
    }
    assert!(matches!(Csr::parse(&[&der[..], b"\0"].concat()), Err(CsrError::Malformed(_))));
    assert!(matches!(Csr::parse(&vec![0; CSR_BYTES_MAX + 1]), Err(CsrError::TooLarge(16385))));
}

#[test]
fn request_names_at_most_one_proper_identity() {
    let request = |sans: &[&str]| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans.iter().map(|san| SanType::URI((*san).try_into().unwrap())).collect();
        let key = KeyPair::generate().unwrap();
        Csr::parse(params.serialize_request(&key).unwrap().der())
    };
    assert!(request(&[MAPPER]).is_ok());
    assert!(matches!(request(&[MAPPER, BROKER]), Err(CsrError::SeveralUriSans(2))));
    for wrong in ["https://example.org", "spiffe://Plant.example/a", "spiffe://plant.example/a/../b"] {
        assert!(matches!(request(&[wrong]), Err(CsrError::SpiffeId(_))), "{wrong}");
    }
}

#[test]
fn keys_are_stored_for_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("svid.key");
    let key = PrivateKey::generate().unwrap();
    key.store(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(PrivateKey::load(&path).unwrap().public_key_der(), key.public_key_der());

    for mode in [0o640, 0o604, 0o660, 0o610, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = PrivateKey::load(&path).unwrap_err();
        assert!(matches!(error, KeyFileError::File(FileError::TooOpen { .. })), "{mode:o}");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(PrivateKey::load(&path).is_ok(), "{mode:o}");
    }
}

#[test]
fn storing_again_replaces_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("svid.key");
    fs::write(&path, "old and open").unwrap();
    write_private(&path, b"new").unwrap();
    assert_eq!(read_private(&path).unwrap().as_slice(), b"new");
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["svid.key"]);
    // What cannot be written leaves what was there.
    let blocked = directory.path().join("svid.key").join("below");
    assert!(matches!(write_private(&blocked, b"x"), Err(FileError::Io { .. })));
    let occupied = directory.path().join("directory");
    fs::create_dir(&occupied).unwrap();
    assert!(write_private(&occupied, b"x").is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    assert!(matches!(read_private(&occupied), Err(FileError::NotAFile(_))));
}

#[test]
fn files_that_are_no_keys_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("svid.key");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    for text in
        [String::new(), "secret".to_owned(), p384.serialize_pem(), pem_encode_certs([Ca::root().cert])]
    {
        write_private(&path, text.as_bytes()).unwrap();
        let error = PrivateKey::load(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && !error.contains("secret"), "{error}");
    }
    write_private(&path, &vec![b'x'; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(PrivateKey::load(&path), Err(KeyFileError::File(FileError::TooLarge { .. }))));
    let missing = directory.path().join("missing.key");
    assert!(matches!(
        PrivateKey::load(missing),
        Err(KeyFileError::File(FileError::Io { action: "open", .. }))
    ));
}

#[test]
fn keys_are_not_shown() {
    let key = PrivateKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
    let identity = Ca::root().svid(BROKER);
    let secret = format!("{:?}", identity.key.to_pkcs8_der().as_slice());
    let shown = format!("{identity:?}");
    assert!(shown.contains("PrivateKey(redacted)") && !shown.contains(&secret));
    assert!(PrivateKey::from_pkcs8_der(&key.to_pkcs8_der()).is_ok());
    assert!(matches!(PrivateKey::from_pkcs8_der(b"x"), Err(KeyFileError::Decode(_))));
}

#[test]
fn pem_round_trips() {
    let root = Ca::root();
    let chain = root.issue_ca(Some("/edge/box-1/")).svid(MAPPER).chain;
    let pem = pem_encode_certs(&chain);
    assert!(pem.lines().all(|line| line.len() <= 64));
    assert_eq!(pem_decode_certs(pem.as_bytes()).unwrap(), chain);
    let key = PrivateKey::generate().unwrap();
    let both = format!("a comment\n{}{}", &*pem_encode_key(&key), pem);
    assert_eq!(pem_decode_certs(both.as_bytes()).unwrap(), chain);
    assert!(KeyPair::from_pem(&pem_encode_key(&key)).is_ok());
    assert!(pem_decode_certs(b"").is_err());
    assert!(pem_decode_certs(pem_encode_key(&key).as_bytes()).is_err());
    assert!(pem_decode_certs(b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n").is_err());
}

#[test]
fn identity_is_read_from_its_leaf() {
    let edge = Ca::root().issue_ca(Some("/edge/box-1/"));
    let identity = edge.svid(MAPPER);
    assert_eq!((identity.id.clone(), identity.expires), (id(MAPPER), secs(NOW + HOUR)));
    let other = Arc::new(PrivateKey::generate().unwrap());
    assert!(matches!(SvidIdentity::new(identity.chain, other), Err(IdentityError::KeyMismatch(_))));
    assert!(matches!(SvidIdentity::new(vec![], identity.key), Err(IdentityError::Certificate(_))));
}

// RFC 7518 §6.2.1
#[test]
fn jwk_of_a_root() {
    let root = Ca::root();
    let jwk = jwk_public_key(&root.cert).unwrap();
    assert_eq!((&jwk["kty"], &jwk["crv"]), (&"EC".into(), &"P-256".into()));
    let decode = |name: &str| {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap()
    };
    let point = [&[4][..], &decode("x"), &decode("y")].concat();
    assert!(root.key.public_key_der().ends_with(&point));
    assert!(jwk_public_key(b"x").is_err());
}

#[test]
fn a_bundle_document_is_read_as_it_is_written_and_strictly() {
    let root = Ca::root().cert.to_vec();
    let document = BundleDocument { roots: vec![root.clone()], sequence: 7, refresh_hint_secs: 300 };
    let json = document.to_json().unwrap();
    let parse = |value: &serde_json::Value| BundleDocument::parse(value.to_string().as_bytes());
    assert_eq!(parse(&json).unwrap(), document);
    let told = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = json.clone();
        change(&mut changed);
        parse(&changed).map(|read| read.roots.len()).map_err(|error| error.to_string())
    };
    let x5c = json["keys"][0]["x5c"][0].clone();
    // Keys for something else, and of kinds that are not known, are others' business.
    for (name, value) in [("use", "jwt-svid"), ("use", "wit-svid"), ("kty", "AKP")] {
        assert_eq!(told(&|json| json["keys"][0][name] = value.into()), Ok(0), "{name} {value}");
    }
    let more = told(&|json| {
        let more = serde_json::json!({ "use": "jwt-svid", "kty": "EC", "kid": "k", "crv": "P-256" });
        json["keys"].as_array_mut().unwrap().push(more);
        json["spiffe_refresh_hint"] = serde_json::Value::Null;
    });
    assert_eq!(more, Ok(1));
    for (name, value, wrong) in [
        ("x5c", serde_json::json!([]), "0 certificates"),
        ("x5c", serde_json::json!([x5c.clone(), x5c]), "2 certificates"),
        ("x5c", serde_json::json!(["AQ=="]), "holds no certificate"),
        ("x5c", serde_json::json!(["?"]), "not base64"),
        ("x5c", serde_json::Value::Null, "\"x5c\" is missing"),
        ("use", serde_json::Value::Null, "\"use\" is missing"),
        ("kty", serde_json::json!(1), "\"kty\" is missing"),
        ("x", serde_json::json!("AAAA"), "\"x\" is not that of the certificate"),
    ] {
        let error = told(&|json| json["keys"][0][name] = value.clone()).unwrap_err();
        assert!(error.starts_with("key 1: ") && error.contains(wrong), "{error}");
    }
    assert!(told(&|json| json["spiffe_sequence"] = (-1).into()).unwrap_err().contains("spiffe_sequence"));
    assert!(told(&|json| json["keys"] = "none".into()).unwrap_err().contains("\"keys\""));
    assert!(BundleDocument::parse(b"{").is_err());
}
