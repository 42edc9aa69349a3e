//! TLS handshakes between real rustls ends in memory, over TLS 1.3 and 1.2. Every denial has its
//! allowed twin: `Ca::odd(|_| {})` is accepted, each rejected certificate departs from it in one thing.

use crate::support::{
    BROKER, Ca, Ends, Failed, HOUR, MAPPER, NOW, Trust, at, handshake, handshake_with, holding, id, plant,
    scope, uri,
};
use midge_identity::{BundleSet, SvidRejection, TrustDomain};
use midge_pki::{
    CurrentIdentity, FixedTrust, IdentitySource, PinError, RootPin, ServerExpectation, SvidClientVerifier,
    SvidIdentity, client_config, fetch_only_config, peer_of, provider, rejection_of, server_config,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use std::io;
use std::sync::Arc;

/// What it is called, what is changed, and which rejection that must be.
type Case = (&'static str, fn(&mut CertificateParams), fn(&SvidRejection) -> bool);

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

#[test]
fn mutual_tls_proves_both_ends_to_each_other() {
    let world = World::new();
    let client = client_config(
        Some(holding(world.edge.svid(MAPPER))),
        world.trust.clone(),
        ServerExpectation::Id(id(BROKER)),
    );
    let (client, server) = handshake(&client, &world.server()).unwrap();
    assert_eq!(peer_of(&server, world.trust.as_ref()).unwrap().id(), &id(MAPPER));
    assert_eq!(peer_of(&client, world.trust.as_ref()).unwrap().id(), &id(BROKER));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    // Post-quantum hybrid without a second round trip.
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn both_versions_are_spoken() {
    let world = World::new();
    for version in VERSIONS {
        let (_, server) = world.connect(version, &world.edge.svid(MAPPER)).unwrap();
        assert_eq!(server.protocol_version(), Some(version.version));
        assert_eq!(peer_of(&server, world.trust.as_ref()).unwrap().id(), &id(MAPPER));
    }
}

#[test]
fn odd_maker_is_as_good_when_the_rules_are_kept() {
    let world = World::new();
    for version in VERSIONS {
        assert!(world.connect(version, &world.root.odd(|_| {})).is_ok());
        assert!(world.connect(version, &world.root.odd_ca(|_| {}).odd(|_| {})).is_ok());
    }
}

#[test]
fn every_broken_rule_ends_the_handshake() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
    let world = World::new();
    let cases: [Case; 14] = [
        ("expired", |p| p.not_after = at(NOW - 1), |r| matches!(r, SvidRejection::Expired { .. })),
        ("not yet valid", |p| p.not_before = at(NOW + 1), |r| matches!(r, SvidRejection::NotYetValid { .. })),
        (
            "two URI SANs",
            |p| p.subject_alt_names.push(uri(BROKER)),
            |r| *r == SvidRejection::SeveralUriSans(2),
        ),
        ("no SAN", |p| p.subject_alt_names.clear(), |r| *r == SvidRejection::NoUriSan),
        (
            "CA",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            |r| matches!(r, SvidRejection::LeafIsCa(_)),
        ),
        (
            "no path",
            |p| p.subject_alt_names = vec![uri("spiffe://plant.example")],
            |r| matches!(r, SvidRejection::NoPath(_)),
        ),
        (
            "upper case",
            |p| p.subject_alt_names = vec![uri("spiffe://Plant.example/a")],
            |r| matches!(r, SvidRejection::SpiffeId(_)),
        ),
        (
            "dots",
            |p| p.subject_alt_names = vec![uri("spiffe://plant.example/a/../b")],
            |r| matches!(r, SvidRejection::SpiffeId(_)),
        ),
        (
            "foreign domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other.example/a")],
            |r| matches!(r, SvidRejection::UnknownTrustDomain { .. }),
        ),
        ("no key usage", |p| p.key_usages.clear(), |r| matches!(r, SvidRejection::NoKeyUsage(_))),
        (
            "keyCertSign",
            |p| p.key_usages = vec![DigitalSignature, KeyCertSign],
            |r| matches!(r, SvidRejection::SigningKeyUsage { usage: "keyCertSign", .. }),
        ),
        (
            "cRLSign",
            |p| p.key_usages = vec![DigitalSignature, CrlSign],
            |r| matches!(r, SvidRejection::SigningKeyUsage { usage: "cRLSign", .. }),
        ),
        (
            "EKU client only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            |r| matches!(r, SvidRejection::ExtendedKeyUsage { missing: "serverAuth", .. }),
        ),
        (
            "EKU server only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            |r| matches!(r, SvidRejection::ExtendedKeyUsage { missing: "clientAuth", .. }),
        ),
    ];
    for version in VERSIONS {
        for (name, change, is_expected) in cases {
            let rejection = world.rejection(version, &world.root.odd(change));
            assert!(is_expected(&rejection), "{name}: {rejection:?}");
        }
    }
}

#[test]
fn every_broken_rule_of_an_authority_ends_the_handshake() {
    let world = World::new();
    let cases: [Case; 5] = [
        (
            "expired",
            |p| p.not_after = at(NOW - 1),
            |r| matches!(r, SvidRejection::AuthorityNotValidNow { .. }),
        ),
        ("not CA", |p| p.is_ca = IsCa::ExplicitNoCa, |r| matches!(r, SvidRejection::IssuerIsNotCa(_))),
        (
            "key usage",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            |r| matches!(r, SvidRejection::AuthorityKeyUsage(_)),
        ),
        (
            "foreign domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other.example")],
            |r| matches!(r, SvidRejection::AuthorityId { .. }),
        ),
        ("scope", |p| scope(p, "/edge/box-2/"), |r| matches!(r, SvidRejection::OutOfScope { .. })),
    ];
    for version in VERSIONS {
        for (name, change, is_expected) in cases {
            let rejection = world.rejection(version, &world.root.odd_ca(change).odd(|_| {}));
            assert!(is_expected(&rejection), "{name}: {rejection:?}");
        }
    }
}

#[test]
fn strangers_and_foreign_domains_are_refused() {
    let world = World::new();
    let (stranger, other) = (Ca::root(), TrustDomain::new("other.example").unwrap());
    for version in VERSIONS {
        let rejection = world.rejection(version, &stranger.odd(|_| {}));
        assert!(matches!(rejection, SvidRejection::BadSignature(_)), "{rejection:?}");
    }
    // Federated with, the other domain speaks for itself and never for ours.
    let foreign = Ca::root_of(&other);
    let theirs =
        |params: &mut CertificateParams| params.subject_alt_names = vec![uri("spiffe://other.example/a")];
    let mut bundles = BundleSet::new();
    bundles.insert(plant(), vec![world.root.cert.clone()]);
    bundles.insert(other, vec![foreign.cert.clone()]);
    world.trust.set_bundles(bundles);
    for version in VERSIONS {
        assert!(world.connect(version, &foreign.odd(theirs)).is_ok());
        let ours = world.rejection(version, &foreign.odd(|_| {}));
        assert!(matches!(ours, SvidRejection::BadSignature(_) | SvidRejection::UnknownIssuer(_)), "{ours:?}");
        let theirs = world.rejection(version, &world.root.odd(theirs));
        assert!(
            matches!(theirs, SvidRejection::BadSignature(_) | SvidRejection::UnknownIssuer(_)),
            "{theirs:?}"
        );
    }
}

#[test]
fn key_of_another_certificate_is_refused() {
    let world = World::new();
    let stolen = SvidIdentity { key: world.edge.svid(MAPPER).key, ..world.edge.svid(MAPPER) };
    for version in VERSIONS {
        let failed = world.connect(version, &stolen).unwrap_err();
        assert!(failed.server.is_some() && rejection_of(failed.server.as_ref().unwrap()).is_none());
    }
}

#[test]
fn clients_without_certificate() {
    let world = World::new();
    let client = client_config(None, world.trust.clone(), ServerExpectation::Id(id(BROKER)));
    let failed = handshake(&client, &world.server()).unwrap_err();
    assert_eq!(failed.server, Some(rustls::Error::NoCertificatesPresented));

    let optional = SvidClientVerifier::optional(world.trust.clone());
    let server = server_config(holding(world.edge.svid(BROKER)), optional, &[]);
    let (_, end) = handshake(&client, &server).unwrap();
    assert_eq!(peer_of(&end, world.trust.as_ref()), Err(SvidRejection::NoCertificate));
    // Optional is not lax: a certificate that is presented must be right.
    for version in VERSIONS {
        assert!(handshake(&any_server(version, &world.edge.svid(MAPPER)), &server).is_ok());
        let expired = world.root.odd(|params| params.not_after = at(NOW - 1));
        assert!(handshake(&any_server(version, &expired), &server).is_err());
    }
}

#[test]
fn rotation_is_seen_by_the_next_handshake() {
    let world = World::new();
    let (ours, theirs) = (holding(world.edge.svid(BROKER)), holding(world.edge.svid(MAPPER)));
    let server = server_config(ours.clone(), SvidClientVerifier::required(world.trust.clone()), &[]);
    let client = client_config(
        Some(theirs.clone()),
        world.trust.clone(),
        ServerExpectation::AnyInTrustDomain(plant()),
    );
    let leaves = |(client, server): &Ends| {
        (client.peer_certificates().unwrap()[0].clone(), server.peer_certificates().unwrap()[0].clone())
    };
    let before = leaves(&handshake(&client, &server).unwrap());
    assert_eq!(before, leaves(&handshake(&client, &server).unwrap()));
    ours.set(world.edge.svid(BROKER));
    theirs.set(world.edge.svid("spiffe://plant.example/edge/box-1/app/ui"));
    let ends = handshake(&client, &server).unwrap();
    let after = leaves(&ends);
    assert!(before.0 != after.0 && before.1 != after.1);
    assert_eq!(after.0, ours.current().unwrap().chain[0]);
    assert_eq!(peer_of(&ends.1, world.trust.as_ref()).unwrap().id().path(), "/edge/box-1/app/ui");

    ours.clear();
    assert!(handshake(&client, &server).is_err());
}

#[test]
fn server_without_svid_yet_serves_nobody() {
    let world = World::new();
    let empty = Arc::new(CurrentIdentity::new());
    let server = server_config(empty.clone(), SvidClientVerifier::required(world.trust.clone()), &[]);
    assert!(handshake(&any_server(&TLS13, &world.edge.svid(MAPPER)), &server).is_err());
    empty.set(world.edge.svid(BROKER));
    assert!(handshake(&any_server(&TLS13, &world.edge.svid(MAPPER)), &server).is_ok());
}

#[test]
fn trust_is_that_of_the_moment() {
    let world = World::new();
    let svid = world.edge.svid(MAPPER);
    let (_, live) = world.connect(&TLS13, &svid).unwrap();
    assert!(peer_of(&live, world.trust.as_ref()).is_ok());

    world.trust.set_now(NOW + 2 * HOUR);
    assert!(matches!(peer_of(&live, world.trust.as_ref()), Err(SvidRejection::Expired { .. })));
    assert!(matches!(world.rejection(&TLS13, &svid), SvidRejection::Expired { .. }));
    world.trust.set_now(NOW - 2 * HOUR);
    assert!(matches!(peer_of(&live, world.trust.as_ref()), Err(SvidRejection::NotYetValid { .. })));
    world.trust.set_now(NOW);
    assert!(peer_of(&live, world.trust.as_ref()).is_ok());

    world.trust.set_bundles(BundleSet::new());
    assert!(matches!(peer_of(&live, world.trust.as_ref()), Err(SvidRejection::UnknownTrustDomain { .. })));
    assert!(matches!(world.rejection(&TLS13, &svid), SvidRejection::UnknownTrustDomain { .. }));
}

// SPIRE #6715, #7076: a resumed session would skip the verification of the chain.
#[test]
fn nothing_is_resumed() {
    let world = World::new();
    let svid = world.edge.svid(MAPPER);
    for version in VERSIONS {
        let mut client = (*any_server(version, &svid)).clone();
        client.resumption = Resumption::in_memory_sessions(16);
        let (client, server) = (Arc::new(client), world.server());
        for _ in 0..2 {
            let (client, server) = handshake(&client, &server).unwrap();
            assert_eq!(client.tls13_tickets_received(), 0);
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        }
        world.trust.set_bundles(BundleSet::new());
        assert!(handshake(&client, &server).is_err());
        world.trust.set_bundles(world.bundles());
    }
}

#[test]
fn roots_are_not_told_to_strangers() {
    let world = World::new();
    let verifier = SvidClientVerifier::required(world.trust.clone());
    assert!(rustls::server::danger::ClientCertVerifier::root_hint_subjects(verifier.as_ref()).is_empty());
}

#[test]
fn alpn_is_agreed_upon() {
    let world = World::new();
    let verifier = SvidClientVerifier::required(world.trust.clone());
    let server = server_config(holding(world.edge.svid(BROKER)), verifier, &[b"mqtt", b"http/1.1"]);
    let mut client = (*any_server(&TLS13, &world.edge.svid(MAPPER))).clone();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (_, end) = handshake(&Arc::new(client.clone()), &server).unwrap();
    assert_eq!(end.alpn_protocol(), Some(&b"http/1.1"[..]));
    client.alpn_protocols = vec![b"h2".to_vec()];
    assert!(handshake(&Arc::new(client), &server).is_err());
}

#[test]
fn client_talks_to_whom_it_expects_only() {
    let world = World::new();
    let connect = |expected: ServerExpectation| {
        let client = client_config(Some(holding(world.edge.svid(MAPPER))), world.trust.clone(), expected);
        handshake(&client, &world.server())
    };
    assert!(connect(ServerExpectation::Id(id(BROKER))).is_ok());
    assert!(connect(ServerExpectation::AnyInTrustDomain(plant())).is_ok());
    for wrong in [
        ServerExpectation::Id(id(MAPPER)),
        ServerExpectation::Id(id("spiffe://plant.example/edge/box-1")),
        ServerExpectation::AnyInTrustDomain(TrustDomain::new("other.example").unwrap()),
    ] {
        let failed = connect(wrong.clone()).unwrap_err();
        assert!(failed.client.is_some_and(|error| error.to_string().contains(BROKER)), "{wrong:?}");
    }
    // The server's certificate has to keep the rules too.
    let trust = Trust::of(&[(&plant(), &Ca::root().cert)]);
    let client = client_config(None, trust, ServerExpectation::Id(id(BROKER)));
    let failed = handshake(&client, &world.server()).unwrap_err();
    assert!(rejection_of(&failed.client.unwrap()).is_some());
}

#[test]
fn stock_servers_are_expected_by_name_and_root() {
    let world = World::new();
    let plain = world
        .root
        .odd(|params| params.subject_alt_names = vec![SanType::DnsName("cloud.example".try_into().unwrap())]);
    let server = plain_server(&plain);
    let connect = |expected: ServerExpectation, name: &str| {
        handshake_with(&client_config(None, world.trust.clone(), expected), &server, name)
    };
    let pinned = |ca: &Ca| ServerExpectation::PinnedRoot(RootPin::of(&ca.cert).check(&ca.cert).unwrap());
    for expected in [ServerExpectation::DnsName(plant()), pinned(&world.root)] {
        assert!(connect(expected.clone(), "cloud.example").is_ok());
        assert!(connect(expected, "other.example").is_err());
    }
    assert!(connect(pinned(&Ca::root()), "cloud.example").is_err());
    let other = TrustDomain::new("other.example").unwrap();
    assert!(connect(ServerExpectation::DnsName(other), "cloud.example").is_err());
    // No SVID, so nothing for who expects one.
    assert!(connect(ServerExpectation::AnyInTrustDomain(plant()), "cloud.example").is_err());
    world.trust.set_now(NOW + 2 * HOUR);
    assert!(connect(ServerExpectation::DnsName(plant()), "cloud.example").is_err());
}

#[test]
fn bootstrap_from_a_pin() {
    let world = World::new();
    let optional = SvidClientVerifier::optional(world.trust.clone());
    let server = server_config(holding(world.edge.svid(BROKER)), optional, &[]);
    let pin: RootPin = RootPin::of(&world.root.cert).to_string().parse().unwrap();

    let fetch = fetch_only_config(pin);
    let (_, end) = handshake(&fetch.unverified_config(), &server).unwrap();
    assert!(end.peer_certificates().is_none());
    let root = fetch.accept(&world.root.cert).unwrap();
    assert_eq!(root.trust_domain(), Ok(plant()));
    let now = midge_identity::UnixMillis::from_secs(NOW);
    let trust = Arc::new(FixedTrust::new(root.bundles().unwrap(), move || now));
    let client = client_config(None, trust, ServerExpectation::Id(id(BROKER)));
    assert!(handshake(&client, &server).is_ok());

    let other = Ca::root();
    let wrong = fetch_only_config(pin).accept(&other.cert);
    assert_eq!(
        wrong,
        Err(PinError::Mismatch { is: RootPin::of(&other.cert).to_string(), expected: pin.to_string() })
    );
    assert!(matches!("xyz".parse::<RootPin>(), Err(PinError::Syntax(_))));
    let garbage = b"not a certificate";
    assert!(matches!(RootPin::of(garbage).check(garbage), Err(PinError::Certificate(_))));
}

#[test]
fn rejection_is_found_inside_an_io_error() {
    let world = World::new();
    let failed =
        world.connect(&TLS13, &world.root.odd(|params| params.subject_alt_names.clear())).unwrap_err();
    let error = io::Error::new(io::ErrorKind::InvalidData, failed.server.unwrap());
    assert_eq!(rejection_of(&error), Some(&SvidRejection::NoUriSan));
    assert!(error.to_string().contains("certificate has no URI SAN, exactly one is required"), "{error}");
    assert_eq!(rejection_of(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
    // The peer is told no more than that its certificate will not do.
    assert!(matches!(
        failed.client,
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateUnknown))
    ));
}

struct World {
    root: Ca,
    edge: Ca,
    trust: Arc<Trust>,
}

impl World {
    fn new() -> Self {
        let root = Ca::root();
        let edge = root.issue_ca(Some("/edge/box-1/"));
        let trust = Trust::of(&[(&plant(), &root.cert)]);
        Self { root, edge, trust }
    }

    fn bundles(&self) -> BundleSet {
        let mut bundles = BundleSet::new();
        bundles.insert(plant(), vec![self.root.cert.clone()]);
        bundles
    }

    fn server(&self) -> Arc<ServerConfig> {
        let verifier = SvidClientVerifier::required(self.trust.clone());
        server_config(holding(self.edge.svid(BROKER)), verifier, &[])
    }

    fn connect(
        &self,
        version: &'static SupportedProtocolVersion,
        identity: &SvidIdentity,
    ) -> Result<Ends, Box<Failed>> {
        handshake(&any_server(version, identity), &self.server())
    }

    fn rejection(
        &self,
        version: &'static SupportedProtocolVersion,
        identity: &SvidIdentity,
    ) -> SvidRejection {
        let failed = self.connect(version, identity).unwrap_err();
        rejection_of(&failed.server.unwrap()).unwrap().clone()
    }
}

/// A client of someone else's making: one version, any server, its certificate as it is.
fn any_server(version: &'static SupportedProtocolVersion, identity: &SvidIdentity) -> Arc<ClientConfig> {
    let key = PrivateKeyDer::Pkcs8(identity.key.to_pkcs8_der().to_vec().into());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    // Not `with_client_auth_cert`: that would refuse a key that is not the certificate's.
    let signing = provider().key_provider.load_private_key(key).unwrap();
    let certified = rustls::sign::CertifiedKey::new(identity.chain.clone(), signing);
    let resolver = rustls::sign::SingleCertAndKey::from(certified);
    Arc::new(builder.with_client_cert_resolver(Arc::new(resolver)))
}

fn plain_server(identity: &SvidIdentity) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(identity.key.to_pkcs8_der().to_vec().into());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), key)
        .unwrap();
    Arc::new(config)
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
