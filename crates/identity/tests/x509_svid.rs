//! Conformance of X.509-SVID verification, by clause. Every denial has its allowed twin: `World::svid`
//! differs from each rejected certificate in the one thing that the test is about.

#[cfg(test)]
mod x509_svid {
    use midge_identity::{
        BundleSet, CHAIN_CERTIFICATES_MAX, ISSUER_SCOPE_OID, IdError, IssuerScope, Proof, ScopeError,
        SpiffeId, SvidRejection, TrustDomain, UnixMillis, VerifiedPeer, verify_x509_svid,
    };
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
        ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
        SanType, SerialNumber,
    };
    use rustls_pki_types::CertificateDer;
    use std::sync::LazyLock;
    use std::time::Duration;
    use time::OffsetDateTime;

    const NOW: u64 = 1_800_000_000;
    const HOUR: u64 = 3600;
    const MAPPER: &str = "spiffe://plant.example/edge/box-1/mapper/led";

    // X-1..X-7: the twin that every rejection below departs from.
    #[test]
    fn svid_of_root_is_accepted() {
        let world = World::new();
        let peer = world.verify(&[world.svid()]).unwrap();
        assert_eq!(peer.id().to_string(), MAPPER);
        assert_eq!(peer.expires(), Some(UnixMillis::from_secs(NOW + HOUR)));
        assert!(matches!(peer.proof(), Proof::X509Svid { serial, .. } if **serial == *"0123456789abcdef"));
    }

    #[test]
    fn svid_of_intermediate_is_accepted_and_ends_with_the_first_certificate_of_its_chain() {
        let world = World::new();
        let edge = world.root.issue_ca(|params| params.not_after = at(NOW + 60));
        let chain = [edge.issue(leaf(MAPPER)), edge.cert.clone()];
        let peer = world.verify(&chain).unwrap();
        assert_eq!(peer.expires(), Some(UnixMillis::from_secs(NOW + 60)));
    }

    // publish-root = false: the trust anchor is the box's own intermediate.
    #[test]
    fn intermediate_may_be_the_trust_anchor() {
        let mut world = World::new();
        let edge = world.root.issue_ca(|params| scope(params, "/edge/box-1/"));
        world.trust("plant.example", &[&edge.cert]);
        let chain = [edge.issue(leaf(MAPPER)), edge.cert.clone()];
        assert_eq!(world.verify(&chain).unwrap().id().to_string(), MAPPER);
        assert!(world.verify(&chain[..1]).is_ok());
        let foreign = [edge.issue(leaf("spiffe://plant.example/edge/box-2/mapper/led"))];
        assert!(matches!(world.verify(&foreign), Err(SvidRejection::OutOfScope { .. })));
        // The root above it is not trusted with it.
        assert!(matches!(world.verify(&[world.svid()]), Err(SvidRejection::UnknownIssuer(_))));
    }

    #[test]
    fn chain_needs_a_certificate_and_has_a_limit() {
        let world = World::new();
        assert_eq!(world.verify(&[]), Err(SvidRejection::NoCertificate));
        let mut chain = vec![world.svid()];
        chain.resize(CHAIN_CERTIFICATES_MAX, world.root.cert.clone());
        assert!(world.verify(&chain).is_ok());
        chain.push(world.root.cert.clone());
        assert_eq!(world.verify(&chain), Err(SvidRejection::ChainTooLong { certificates: 9, limit: 8 }));
    }

    #[test]
    fn malformed_certificates_are_rejected() {
        let world = World::new();
        for bytes in [&b""[..], b"\x30", b"\x30\x80", b"not a certificate"] {
            assert!(matches!(world.verify(&[bytes.to_vec()]), Err(SvidRejection::Malformed(_))), "{bytes:?}");
        }
        let svid = world.svid();
        let longer = [svid.as_slice(), b"\0"].concat();
        assert!(matches!(world.verify(&[longer]), Err(SvidRejection::Malformed(_))));
        for end in 0..svid.len() {
            assert!(
                matches!(world.verify(&[svid[..end].to_vec()]), Err(SvidRejection::Malformed(_))),
                "{end}"
            );
        }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let world = World::new();
        let svid = world.svid();
        for position in 0..svid.len() {
            let mut forged = svid.clone();
            forged[position] ^= 0x01;
            assert!(world.verify(&[forged]).is_err(), "byte {position}");
        }
    }

    proptest! {
        #[test]
        fn mangled_chains_are_refused_without_harm(
            edits in vec((any::<Index>(), any::<u8>()), 1..8),
            cut in any::<Index>(),
        ) {
            static WORLD: LazyLock<(World, Vec<u8>)> = LazyLock::new(|| {
                let world = World::new();
                let svid = world.svid();
                (world, svid)
            });
            let (world, svid) = &*WORLD;
            let mut mangled = svid.clone();
            for (index, byte) in edits {
                let at = index.index(mangled.len());
                mangled[at] = byte;
            }
            if mangled != *svid {
                prop_assert!(world.verify(&[mangled.clone()]).is_err());
                mangled.truncate(cut.index(svid.len()));
                prop_assert!(world.verify(&[mangled.clone()]).is_err());
            }
            // As an intermediate it is at most useless.
            prop_assert!(world.verify(&[svid.clone(), mangled]).is_ok());
        }
    }

    //
    #[test]
    fn exactly_one_uri_san() {
        let world = World::new();
        let none = world.root.issue(with(|params| params.subject_alt_names.clear()));
        assert_eq!(world.verify(&[none]), Err(SvidRejection::NoUriSan));
        let dns_only = world.root.issue(with(|params| params.subject_alt_names = vec![dns("led.local")]));
        assert_eq!(world.verify(&[dns_only]), Err(SvidRejection::NoUriSan));
        for second in ["spiffe://plant.example/edge/box-1/broker", MAPPER, "https://example.org"] {
            let two = world.root.issue(with(|params| params.subject_alt_names.push(uri(second))));
            assert_eq!(world.verify(&[two]), Err(SvidRejection::SeveralUriSans(2)), "{second}");
        }
        let with_dns = world.root.issue(with(|params| params.subject_alt_names.push(dns("led.local"))));
        assert!(world.verify(&[with_dns]).is_ok());
    }

    // F32: a parser that takes the first SAN extension and one that takes the last would disagree.
    #[test]
    fn extensions_come_once() {
        let world = World::new();
        let second_san = |params: &mut CertificateParams| {
            // SEQUENCE { [6] "spiffe://plant.example/a" }
            let name = b"spiffe://plant.example/a";
            let mut der = vec![0x30, name.len() as u8 + 2, 0x86, name.len() as u8];
            der.extend_from_slice(name);
            params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], der));
        };
        let twice = world.root.issue(with(second_san));
        assert!(matches!(world.verify(&[twice]), Err(SvidRejection::Malformed(_))));
    }

    // ID-1..ID-5
    #[test]
    fn spiffe_id_is_canonical_and_well_formed() {
        let world = World::new();
        for id in [
            "https://plant.example/edge",
            "spiffe:///edge",
            "spiffe://plant.example/edge/../cloud",
            "spiffe://plant.example/edge/./a",
            "spiffe://plant.example//edge",
            "spiffe://plant.example/edge/",
            "spiffe://plant.example/edge%2fa",
            "spiffe://plant.example/edge?a",
            "spiffe://plant.example/edge#a",
            "spiffe://plant.example/edge/+",
            "spiffe://plant.example:8883/edge",
            "spiffe://me@plant.example/edge",
            "",
        ] {
            let result = world.verify(&[world.root.issue(leaf(id))]);
            assert!(
                matches!(result, Err(SvidRejection::SpiffeId(IdError::Grammar { .. }))),
                "{id}: {result:?}"
            );
        }
        for id in ["spiffe://PLANT.example/edge", "SPIFFE://plant.example/edge"] {
            let result = world.verify(&[world.root.issue(leaf(id))]);
            assert!(matches!(result, Err(SvidRejection::SpiffeId(IdError::NotCanonical { .. }))), "{id}");
        }
        // Paths are case-sensitive, and upper case is allowed there.
        assert!(world.verify(&[world.root.issue(leaf("spiffe://plant.example/Edge"))]).is_ok());
    }

    //
    #[test]
    fn leaf_has_a_path() {
        let world = World::new();
        let result = world.verify(&[world.root.issue(leaf("spiffe://plant.example"))]);
        assert_eq!(result, Err(SvidRejection::NoPath(id("spiffe://plant.example"))));
        let slash = world.verify(&[world.root.issue(leaf("spiffe://plant.example/"))]);
        assert!(matches!(slash, Err(SvidRejection::SpiffeId(_))));
    }

    //
    #[test]
    fn ca_certificates_never_authenticate() {
        let world = World::new();
        let edge = world.root.issue_ca(|_| {});
        for chain in
            [vec![edge.cert.clone()], vec![world.root.cert.clone()], vec![edge.cert, world.root.cert.clone()]]
        {
            assert_eq!(
                world.verify(&chain),
                Err(SvidRejection::LeafIsCa("spiffe://plant.example".to_owned()))
            );
        }
        let ca_with_path =
            world.root.issue(with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)));
        assert_eq!(world.verify(&[ca_with_path]), Err(SvidRejection::LeafIsCa(MAPPER.to_owned())));
    }

    //
    #[test]
    fn key_usage_of_a_leaf() {
        let world = World::new();
        let usages = |usages: &[KeyUsagePurpose]| {
            world.verify(&[world.root.issue(with(|params| params.key_usages = usages.to_vec()))])
        };
        assert!(usages(&[KeyUsagePurpose::DigitalSignature]).is_ok());
        assert_eq!(usages(&[]), Err(SvidRejection::NoKeyUsage(id(MAPPER))));
        assert_eq!(
            usages(&[KeyUsagePurpose::KeyAgreement]),
            Err(SvidRejection::NoDigitalSignature(id(MAPPER)))
        );
        for (purpose, usage) in
            [(KeyUsagePurpose::KeyCertSign, "keyCertSign"), (KeyUsagePurpose::CrlSign, "cRLSign")]
        {
            let result = usages(&[KeyUsagePurpose::DigitalSignature, purpose]);
            assert_eq!(result, Err(SvidRejection::SigningKeyUsage { id: id(MAPPER), usage }));
        }
        let not_critical = world.root.issue(with(|params| {
            params.key_usages.clear();
            // BIT STRING { digitalSignature }
            let extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
            params.custom_extensions.push(extension);
        }));
        assert_eq!(world.verify(&[not_critical]), Err(SvidRejection::KeyUsageNotCritical(id(MAPPER))));
    }

    //
    #[test]
    fn extended_key_usage_is_for_both_ends_if_present() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
        let world = World::new();
        let purposes = |purposes: &[ExtendedKeyUsagePurpose]| {
            world.verify(&[world.root.issue(with(|params| params.extended_key_usages = purposes.to_vec()))])
        };
        assert!(purposes(&[]).is_ok());
        assert!(purposes(&[ServerAuth, ClientAuth]).is_ok());
        assert!(purposes(&[ServerAuth, ClientAuth, CodeSigning]).is_ok());
        for (only, missing) in [
            (ServerAuth, "clientAuth"),
            (ClientAuth, "serverAuth"),
            (CodeSigning, "serverAuth"),
            (Any, "serverAuth"),
        ] {
            let result = purposes(&[only]);
            assert_eq!(result, Err(SvidRejection::ExtendedKeyUsage { id: id(MAPPER), missing }));
        }
    }

    // X-7, F34: validity by the clock that is passed in, to the second.
    #[test]
    fn validity_of_the_leaf() {
        let world = World::new();
        let svid = [world.svid()];
        let at = |millis: u64| world.verify_at(&svid, UnixMillis(millis));
        assert!(at((NOW - HOUR) * 1000).is_ok());
        assert!(at((NOW + HOUR) * 1000 + 999).is_ok());
        assert!(matches!(at((NOW - HOUR) * 1000 - 1), Err(SvidRejection::NotYetValid { .. })));
        assert!(matches!(at((NOW + HOUR) * 1000 + 1000), Err(SvidRejection::Expired { .. })));
        assert!(matches!(at(0), Err(SvidRejection::NotYetValid { .. })));
        assert!(matches!(at(u64::MAX), Err(SvidRejection::Expired { .. })));
    }

    #[test]
    fn validity_of_every_authority() {
        let world = World::new();
        for (not_before, not_after) in [(NOW - 2 * HOUR, NOW - 1), (NOW + 1, NOW + 2 * HOUR)] {
            let edge = world.root.issue_ca(|params| {
                params.not_before = at(not_before);
                params.not_after = at(not_after);
            });
            let result = world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()]);
            assert!(matches!(result, Err(SvidRejection::AuthorityNotValidNow { .. })), "{result:?}");

            // As a root as well: webpki does not look at the validity of anchors.
            let mut world = World::new();
            let root = Ca::root(|params| {
                params.not_before = at(not_before);
                params.not_after = at(not_after);
            });
            world.trust("plant.example", &[&root.cert]);
            let result = world.verify(&[root.issue(leaf(MAPPER))]);
            assert!(matches!(result, Err(SvidRejection::AuthorityNotValidNow { .. })), "{result:?}");
        }
    }

    // F32, F-2: the leaf's own trust domain decides whose roots count.
    #[test]
    fn trust_domains_never_speak_for_each_other() {
        let mut world = World::new();
        let other = Ca::root(|params| {
            params.distinguished_name.push(DnType::CommonName, "other");
            params.subject_alt_names = vec![uri("spiffe://other.example")];
        });
        world.trust("other.example", &[&other.cert]);
        let theirs = "spiffe://other.example/a";
        assert!(world.verify(&[other.issue(leaf(theirs))]).is_ok());
        assert_eq!(world.verify(&[other.issue(leaf(MAPPER))]), Err(SvidRejection::UnknownIssuer(id(MAPPER))));
        assert_eq!(
            world.verify(&[world.root.issue(leaf(theirs))]),
            Err(SvidRejection::UnknownIssuer(id(theirs)))
        );

        let unknown = id("spiffe://unknown.example/a");
        assert_eq!(
            world.verify(&[world.root.issue(leaf("spiffe://unknown.example/a"))]),
            Err(SvidRejection::UnknownTrustDomain {
                trust_domain: unknown.trust_domain().clone(),
                id: unknown
            })
        );
        assert!(world.bundles.remove(&domain("other.example")));
        let result = world.verify(&[other.issue(leaf(theirs))]);
        assert!(matches!(result, Err(SvidRejection::UnknownTrustDomain { .. })));
    }

    // B-2
    #[test]
    fn bundle_without_usable_roots_trusts_nobody() {
        let mut world = World::new();
        let svid = [world.svid()];
        for roots in [vec![], vec![b"garbage".to_vec()], vec![world.svid()]] {
            world.bundles.insert(domain("plant.example"), roots.clone());
            assert!(matches!(world.verify(&svid), Err(SvidRejection::NoUsableRoot { .. })), "{roots:?}");
            assert_eq!(world.bundles.unusable_roots(&domain("plant.example")).len(), roots.len());
        }
        // One bad root does not take the good ones with it.
        world.bundles.insert(domain("plant.example"), vec![b"garbage".to_vec(), world.root.cert.clone()]);
        assert!(world.verify(&svid).is_ok());
    }

    #[test]
    fn root_of_another_domain_is_not_usable() {
        let mut world = World::new();
        world.trust("other.example", &[&world.root.cert.clone()]);
        let result = world.verify(&[world.root.issue(leaf("spiffe://other.example/a"))]);
        assert!(matches!(result, Err(SvidRejection::NoUsableRoot { .. })), "{result:?}");
        assert!(matches!(
            world.bundles.unusable_roots(&domain("other.example")),
            [SvidRejection::AuthorityId { .. }]
        ));
    }

    #[test]
    fn unknown_issuer_and_forged_signature() {
        let world = World::new();
        let stranger = Ca::root(|params| params.distinguished_name.push(DnType::CommonName, "stranger"));
        assert_eq!(
            world.verify(&[stranger.issue(leaf(MAPPER))]),
            Err(SvidRejection::UnknownIssuer(id(MAPPER)))
        );
        assert_eq!(
            world.verify(&[stranger.issue(leaf(MAPPER)), stranger.cert.clone()]),
            Err(SvidRejection::UnknownIssuer(id(MAPPER)))
        );
        // Same subject name, another key.
        let impostor = Ca::root(|_| {});
        assert_eq!(
            world.verify(&[impostor.issue(leaf(MAPPER))]),
            Err(SvidRejection::BadSignature(id(MAPPER)))
        );
    }

    #[test]
    fn leaf_cannot_issue() {
        let world = World::new();
        let (key, mut params) = (KeyPair::generate().unwrap(), leaf("spiffe://plant.example/edge/box-1"));
        params.distinguished_name.push(DnType::CommonName, "a leaf");
        let cert = params.signed_by(&key, &world.root.issuer()).unwrap().der().to_vec();
        let impostor = Ca { cert, key, params };
        let chain = [impostor.issue(leaf(MAPPER)), impostor.cert.clone()];
        assert_eq!(world.verify(&chain), Err(SvidRejection::IssuerIsNotCa(id(MAPPER))));
    }

    //
    #[test]
    fn authority_has_critical_key_cert_sign() {
        let world = World::new();
        let verify = |change: &dyn Fn(&mut CertificateParams)| {
            let edge = world.root.issue_ca(change);
            world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()])
        };
        assert!(verify(&|_| {}).is_ok());
        let wrong: [&dyn Fn(&mut CertificateParams); 3] = [
            &|params| params.key_usages.clear(),
            &|params| params.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature],
            &|params| {
                params.key_usages.clear();
                let extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 2, 0x04]);
                params.custom_extensions.push(extension);
            },
        ];
        for change in wrong {
            assert!(matches!(verify(change), Err(SvidRejection::AuthorityKeyUsage(_))));
        }
    }

    //
    #[test]
    fn authority_carries_the_id_of_its_trust_domain_or_none() {
        let world = World::new();
        let verify = |sans: &[&str]| {
            let edge = world
                .root
                .issue_ca(|params| params.subject_alt_names = sans.iter().map(|san| uri(san)).collect());
            world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()])
        };
        assert!(verify(&["spiffe://plant.example"]).is_ok());
        assert!(verify(&[]).is_ok());
        for wrong in [
            &["spiffe://plant.example/edge/box-1"][..],
            &["spiffe://other.example"],
            &["SPIFFE://plant.example"],
            &["spiffe://plant.example", "spiffe://other.example"],
        ] {
            assert!(matches!(verify(wrong), Err(SvidRejection::AuthorityId { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn authority_kept_to_other_purposes_does_not_count() {
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
        let world = World::new();
        let verify = |purposes: &[ExtendedKeyUsagePurpose]| {
            let edge = world.root.issue_ca(|params| params.extended_key_usages = purposes.to_vec());
            world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()])
        };
        assert!(verify(&[Any]).is_ok());
        assert!(verify(&[ServerAuth, ClientAuth]).is_ok());
        assert!(matches!(verify(&[CodeSigning]), Err(SvidRejection::AuthorityExtendedKeyUsage(_))));
        assert!(matches!(verify(&[ServerAuth]), Err(SvidRejection::AuthorityExtendedKeyUsage(_))));
    }

    // RFC 5280 §4.2.1.9
    #[test]
    fn path_length_is_respected() {
        let world = World::new();
        let edge = world.root.issue_ca(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        assert!(world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()]).is_ok());
        let below = edge.issue_ca(|params| params.distinguished_name.push(DnType::CommonName, "below"));
        let chain = [below.issue(leaf(MAPPER)), below.cert.clone(), edge.cert.clone()];
        let reason = webpki::Error::PathLenConstraintViolated;
        assert_eq!(world.verify(&chain), Err(SvidRejection::Path { id: id(MAPPER), reason }));
    }

    // RFC 5280 §4.2
    #[test]
    fn unknown_critical_extension_is_refused() {
        let world = World::new();
        let private = |critical: bool| {
            move |params: &mut CertificateParams| {
                let mut extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 59913, 9], vec![5, 0]);
                extension.set_criticality(critical);
                params.custom_extensions.push(extension);
            }
        };
        assert!(world.verify(&[world.root.issue(with(private(false)))]).is_ok());
        assert!(world.verify(&[world.root.issue(with(private(true)))]).is_err());
        let edge = world.root.issue_ca(private(true));
        assert!(world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()]).is_err());
    }

    // F32, RUSTSEC-2026-0098
    #[test]
    fn name_constraints_are_not_bypassed() {
        let world = World::new();
        let constrained = |name: GeneralSubtree| {
            world.root.issue_ca(move |params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![name.clone()],
                    excluded_subtrees: vec![],
                });
            })
        };
        let edge = constrained(GeneralSubtree::DnsName("box-1.local".to_owned()));
        let named = |name: &str| edge.issue(with(|params| params.subject_alt_names.push(dns(name))));
        assert!(world.verify(&[named("led.box-1.local"), edge.cert.clone()]).is_ok());
        assert!(world.verify(&[named("led.box-2.local"), edge.cert.clone()]).is_err());
    }

    #[test]
    fn issuer_scope_binds_leaves_of_its_ca() {
        let world = World::new();
        let edge = world.root.issue_ca(|params| scope(params, "/edge/box-1/"));
        let verify = |id: &str| world.verify(&[edge.issue(leaf(id)), edge.cert.clone()]);
        for allowed in ["/edge/box-1", "/edge/box-1/broker", "/edge/box-1/mapper/led"] {
            assert!(verify(&format!("spiffe://plant.example{allowed}")).is_ok(), "{allowed}");
        }
        for denied in ["/edge/box-10", "/edge/box-2/broker", "/edge", "/cloud"] {
            let result = verify(&format!("spiffe://plant.example{denied}"));
            assert!(matches!(result, Err(SvidRejection::OutOfScope { .. })), "{denied}: {result:?}");
        }
    }

    // A stolen edge key must not widen its scope by issuing a CA without one.
    #[test]
    fn issuer_scope_binds_everything_below() {
        let world = World::new();
        let edge = world.root.issue_ca(|params| scope(params, "/edge/box-1/"));
        let changes: [&dyn Fn(&mut CertificateParams); 3] =
            [&|_| {}, &|params| scope(params, "/cloud/"), &|params| scope(params, "/edge/")];
        for change in changes {
            let below = edge.issue_ca(|params| {
                params.distinguished_name.push(DnType::CommonName, "below");
                change(params);
            });
            let chain = |id: &str| [below.issue(leaf(id)), below.cert.clone(), edge.cert.clone()];
            let result = world.verify(&chain("spiffe://plant.example/cloud/hub"));
            assert!(matches!(result, Err(SvidRejection::OutOfScope { .. })), "{result:?}");
        }
    }

    #[test]
    fn broken_issuer_scope_is_no_scope_to_trust() {
        let world = World::new();
        let verify = |change: &dyn Fn(&mut CertificateParams)| {
            let edge = world.root.issue_ca(change);
            world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()])
        };
        let raw = |der: &[u8]| CustomExtension::from_oid_content(ISSUER_SCOPE_OID, der.to_vec());
        for (der, reason) in [
            (&b"\x0c\x01/"[..], ScopeError::NotAPrefix("/".to_owned())),
            (b"\x0c\x05/edge", ScopeError::NotAPrefix("/edge".to_owned())),
            (b"\x16\x06/edge/", ScopeError::Encoding),
            (b"", ScopeError::Encoding),
        ] {
            let result = verify(&|params| params.custom_extensions.push(raw(der)));
            let Err(SvidRejection::AuthorityScope { reason: is, .. }) = result else { panic!("{result:?}") };
            assert_eq!(is, reason);
        }
        let twice = verify(&|params| {
            scope(params, "/edge/box-1/");
            scope(params, "/edge/box-1/");
        });
        assert!(matches!(twice, Err(SvidRejection::Malformed(_))), "{twice:?}");
    }

    // While a CA rotates, two CA certificates of the same name are in the chain.
    #[test]
    fn the_valid_path_is_found_among_several() {
        let world = World::new();
        let expired = world.root.issue_ca(|params| params.not_after = at(NOW - 1));
        let elsewhere = world.root.issue_ca(|params| scope(params, "/edge/box-2/"));
        let edge = world.root.issue_ca(|params| scope(params, "/edge/box-1/"));
        let leaf = edge.issue(leaf(MAPPER));
        let chain = [leaf.clone(), expired.cert.clone(), elsewhere.cert.clone(), edge.cert];
        assert!(world.verify(&chain).is_ok());
        assert!(world.verify(&[leaf, expired.cert, elsewhere.cert]).is_err());
    }

    // One CA key with two certificates, of which one is of the wrong scope.
    #[test]
    fn a_path_that_breaks_our_rules_does_not_hide_one_that_keeps_them() {
        let world = World::new();
        let edge = world.root.issue_ca(|params| scope(params, "/edge/box-1/"));
        let mut wrong = edge.params.clone();
        wrong.custom_extensions.clear();
        scope(&mut wrong, "/edge/box-2/");
        let wrong = wrong.signed_by(&edge.key, &world.root.issuer()).unwrap().der().to_vec();
        let leaf = edge.issue(leaf(MAPPER));
        assert!(world.verify(&[leaf.clone(), wrong.clone(), edge.cert]).is_ok());
        assert!(matches!(world.verify(&[leaf, wrong]), Err(SvidRejection::OutOfScope { .. })));
    }

    #[test]
    fn rejections_tell_operators_what_and_why() {
        let world = World::new();
        let two =
            world.root.issue(with(|params| params.subject_alt_names.push(uri("spiffe://plant.example/b"))));
        assert_eq!(
            world.verify(&[two]).unwrap_err().to_string(),
            "certificate has 2 URI SANs, exactly one is allowed (X509-SVID §2)"
        );
        let late = world.verify_at(&[world.svid()], UnixMillis::from_secs(NOW + 2 * HOUR));
        assert_eq!(
            late.unwrap_err().to_string(),
            format!("certificate of '{MAPPER}' expired at 2027-01-15T09:00:00Z, it is 2027-01-15T10:00:00Z")
        );
        let edge = world.root.issue_ca(|params| scope(params, "/edge/box-2/"));
        assert_eq!(
            world.verify(&[edge.issue(leaf(MAPPER)), edge.cert.clone()]).unwrap_err().to_string(),
            format!("CA certificate 'O=test edge' may only issue under '/edge/box-2/', not for '{MAPPER}'")
        );
    }

    #[test]
    fn bundle_revision_follows_the_contents() {
        let mut bundles = BundleSet::new();
        let root = Ca::root(|_| {});
        assert_eq!(bundles.revision(), 0);
        bundles.insert(domain("plant.example"), vec![root.cert.clone()]);
        bundles.insert(domain("plant.example"), vec![root.cert.clone()]);
        assert_eq!(bundles.revision(), 1);
        assert_eq!(bundles.roots(&domain("plant.example")), Some(&[root.cert.clone()][..]));
        assert_eq!(bundles.roots(&domain("other.example")), None);
        let same = bundles.clone();
        bundles.insert(domain("other.example"), vec![]);
        assert_ne!(bundles, same);
        assert_eq!(
            bundles.trust_domains().map(TrustDomain::as_str).collect::<Vec<_>>(),
            ["other.example", "plant.example"]
        );
        bundles.remove(&domain("other.example"));
        assert!(!bundles.remove(&domain("other.example")));
        assert_eq!(bundles, same);
        assert_eq!(bundles.revision(), 3);
    }

    struct World {
        root: Ca,
        bundles: BundleSet,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self { root: Ca::root(|_| {}), bundles: BundleSet::new() };
            world.trust("plant.example", &[&world.root.cert.clone()]);
            world
        }

        fn trust(&mut self, name: &str, roots: &[&Vec<u8>]) {
            self.bundles.insert(domain(name), roots.iter().map(|root| (*root).clone()).collect());
        }

        fn svid(&self) -> Vec<u8> {
            self.root.issue(leaf(MAPPER))
        }

        fn verify(&self, chain: &[Vec<u8>]) -> Result<VerifiedPeer, SvidRejection> {
            self.verify_at(chain, UnixMillis::from_secs(NOW))
        }

        fn verify_at(&self, chain: &[Vec<u8>], now: UnixMillis) -> Result<VerifiedPeer, SvidRejection> {
            let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
            verify_x509_svid(&chain, &self.bundles, webpki::ALL_VERIFICATION_ALGS, now)
        }
    }

    struct Ca {
        cert: Vec<u8>,
        key: KeyPair,
        params: CertificateParams,
    }

    impl Ca {
        fn root(change: impl FnOnce(&mut CertificateParams)) -> Self {
            let (key, mut params) = (KeyPair::generate().unwrap(), ca_params("test root"));
            change(&mut params);
            Self { cert: params.self_signed(&key).unwrap().der().to_vec(), key, params }
        }

        fn issue_ca(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
            let (key, mut params) = (KeyPair::generate().unwrap(), ca_params("test edge"));
            change(&mut params);
            Self { cert: params.signed_by(&key, &self.issuer()).unwrap().der().to_vec(), key, params }
        }

        fn issue(&self, params: CertificateParams) -> Vec<u8> {
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &self.issuer()).unwrap().der().to_vec()
        }

        fn issuer(&self) -> Issuer<'_, &KeyPair> {
            Issuer::from_params(&self.params, &self.key)
        }
    }

    fn ca_params(organization: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.not_before = at(NOW - 24 * HOUR);
        params.not_after = at(NOW + 24 * HOUR);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri("spiffe://plant.example")];
        params
    }

    fn leaf(id: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "test leaf");
        params.serial_number = Some(SerialNumber::from(0x0123_4567_89ab_cdef_u64));
        params.not_before = at(NOW - HOUR);
        params.not_after = at(NOW + HOUR);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(id)];
        params
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = leaf(MAPPER);
        change(&mut params);
        params
    }

    fn scope(params: &mut CertificateParams, prefix: &str) {
        let der = IssuerScope::new(prefix).unwrap().to_der();
        params.custom_extensions.push(CustomExtension::from_oid_content(ISSUER_SCOPE_OID, der));
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn at(secs: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn id(text: &str) -> SpiffeId {
        SpiffeId::new(text).unwrap()
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }
}
