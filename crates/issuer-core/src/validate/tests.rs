use super::*;

fn rules() -> EntryRules {
    EntryRules {
        trust_domain: TrustDomain::new("plant").unwrap(),
        boxes_are_scoped: true,
        cloud_is_elsewhere: false,
        own_node: None,
        grant_fault: |filter| filter.contains("##").then(|| "two hashes".to_owned()),
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://plant{path}")).unwrap()
}

fn selector(kind: &str, value: &str) -> Selector {
    Selector { kind: kind.to_owned(), value: value.to_owned() }
}

fn entry() -> RegistrationEntry {
    RegistrationEntry::new("e1", id("/edge/box/app/x"), id("/edge/box"), vec![selector("unix", "uid:1000")])
}

fn refused(change: impl FnOnce(&mut RegistrationEntry)) -> String {
    let mut entry = entry();
    change(&mut entry);
    rules().normalise(entry).unwrap_err().to_string()
}

fn accepted(change: impl FnOnce(&mut RegistrationEntry)) -> RegistrationEntry {
    let mut entry = entry();
    change(&mut entry);
    rules().normalise(entry).unwrap()
}

#[test]
fn a_plain_entry_is_taken_as_it_is() {
    assert_eq!(accepted(|_| {}), entry());
}

#[test]
fn ids_of_another_trust_domain_are_refused_in_spires_words() {
    let other = SpiffeId::new("spiffe://elsewhere/a").unwrap();
    assert_eq!(
        refused(|entry| entry.spiffe_id = other.clone()),
        "invalid spiffe ID: \"spiffe://elsewhere/a\" is not a member of trust domain \"plant\""
    );
    assert_eq!(
        refused(|entry| entry.parent_id = other.clone()),
        "invalid parent ID: \"spiffe://elsewhere/a\" is not a member of trust domain \"plant\""
    );
}

#[test]
fn ids_without_a_path_are_refused_in_spires_words() {
    assert_eq!(
        refused(|entry| entry.spiffe_id = id("")),
        "invalid spiffe ID: \"spiffe://plant\" is not a workload in trust domain \"plant\"; path is empty"
    );
    assert_eq!(
        refused(|entry| entry.parent_id = id("")),
        "invalid parent ID: \"spiffe://plant\" is not a member of trust domain \"plant\"; path is empty"
    );
}

#[test]
fn the_servers_own_namespace_is_reserved() {
    for path in ["/spire", "/spire/server", "/spire/agent/join_token/x"] {
        let error = refused(|entry| {
            entry.parent_id = id("/spire/server");
            entry.spiffe_id = id(path);
        });
        assert!(error.ends_with("path is in the reserved namespace"), "{error}");
    }
    accepted(|entry| {
        entry.parent_id = id("/spire/server");
        entry.spiffe_id = id("/spired");
    });
}

#[test]
fn nobody_is_registered_as_a_part_of_the_server() {
    for path in ["/edge/box", "/edge/box/broker", "/edge/box/event-bus", "/edge/other/broker", "/cloud/hub"] {
        let entry = RegistrationEntry { spiffe_id: id(path), ..entry() };
        let error = EntryRules { boxes_are_scoped: false, ..rules() }.normalise(entry).unwrap_err();
        assert!(matches!(error, EntryError::SpiffeId(IdFault::Own { .. })), "{path}: {error}");
    }
    for path in ["/edge/box/brokers", "/edge/box/broker/x", "/edge/box/app/broker", "/edge/box/agent/b"] {
        accepted(|entry| entry.spiffe_id = id(path));
    }
}

#[test]
fn a_box_cannot_be_told_to_speak_for_another() {
    for path in ["/edge/other/app/x", "/edge/box2/app/x", "/cloud", "/edge/other"] {
        let error = refused(|entry| entry.spiffe_id = id(path));
        assert!(error.contains("outside the issuer scope \"/edge/box/\""), "{error}");
    }
    accepted(|entry| entry.parent_id = id("/edge/box/agent/host"));
    accepted(|entry| {
        entry.parent_id = id("/spire/server");
        entry.spiffe_id = id("/anything");
    });
}

#[test]
fn a_box_that_is_its_own_root_is_not_scoped() {
    let rules = EntryRules { boxes_are_scoped: false, ..rules() };
    let entry = RegistrationEntry { spiffe_id: id("/anything"), ..entry() };
    assert!(rules.normalise(entry).is_ok());
}

#[test]
fn selectors_follow_spires_rules() {
    assert_eq!(refused(|entry| entry.selectors.clear()), "selector list is empty");
    let with = |kind: &'static str, value: &'static str| {
        refused(move |entry| entry.selectors = vec![selector(kind, value)])
    };
    assert_eq!(with("", "x"), "missing selector type");
    assert_eq!(with("a:b", "x"), "selector type contains ':'");
    assert_eq!(with("unix", ""), "missing selector value");
    assert_eq!(
        refused(|entry| entry.selectors = vec![selector("unix", &"x".repeat(5000))]),
        "selector is too long"
    );
    assert_eq!(
        refused(|entry| {
            entry.store_svid = true;
            entry.selectors = vec![selector("a", "1"), selector("b", "1")];
        }),
        "invalid registration entry: selector types must be the same when store SVID is enabled"
    );
}

#[test]
fn selectors_are_sorted_without_doubles() {
    let entry = accepted(|entry| {
        entry.selectors =
            vec![selector("unix", "uid:2"), selector("unix", "gid:1"), selector("unix", "uid:2")];
    });
    assert_eq!(entry.selectors, [selector("unix", "gid:1"), selector("unix", "uid:2")]);
}

#[test]
fn hints_are_at_most_1024_bytes() {
    accepted(|entry| entry.hint = "h".repeat(1024));
    assert_eq!(
        refused(|entry| entry.hint = "h".repeat(1025)),
        "hint is too long, max length is 1024 characters"
    );
}

#[test]
fn entry_ids_fit_into_keys() {
    for text in ["", "a/b", "a b", "ä"] {
        let error = refused(|entry| entry.id = text.to_owned());
        assert!(error.contains("entry ID contains invalid characters"), "{error}");
    }
    accepted(|entry| entry.id = "A-z_0.9".to_owned());
    assert!(refused(|entry| entry.id = "x".repeat(256)).ends_with("entry ID too long"));
}

#[test]
fn dns_names_are_names() {
    for name in ["broker", "a.b-c.example", "*.example.org", "192.0.2.1"] {
        assert_eq!(check_dns_name(name), Ok(()), "{name}");
    }
    for name in [
        "",
        " ",
        "*",
        "a.*.b",
        "*.*.b",
        "a..b",
        "a.",
        "-a",
        "a-",
        "a b",
        "a_b",
        "xn--80ak6aa92e.com",
        "é.com",
    ] {
        assert!(check_dns_name(name).is_err(), "{name}");
    }
    assert!(check_dns_name(&"a.".repeat(127)).is_err());
    assert!(check_dns_name(&"a".repeat(64)).is_err());
    let error = refused(|entry| entry.dns_names = vec!["a.*.b".to_owned()]);
    assert_eq!(error, "invalid DNS name: wildcard must be first label: \"a.*.b\"");
}

#[test]
fn federated_trust_domains_are_kept_by_name() {
    let entry =
        accepted(|entry| entry.federates_with = vec!["spiffe://other".to_owned(), "third".to_owned()]);
    assert_eq!(entry.federates_with, ["other", "third"]);
    let error = refused(|entry| entry.federates_with = vec!["a b".to_owned()]);
    assert!(error.starts_with("invalid federated trust domain: "), "{error}");
}

#[test]
fn lifetimes_are_at_most_a_year() {
    let year = 366 * 86_400;
    accepted(|entry| entry.x509_svid_ttl_secs = year);
    assert!(refused(|entry| entry.x509_svid_ttl_secs = year + 1).contains("TTL 31622401 s"));
    assert!(refused(|entry| entry.jwt_svid_ttl_secs = year + 1).contains("TTL 31622401 s"));
}

#[test]
fn every_list_has_a_cap() {
    let many = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    accepted(|entry| entry.publish = many(256));
    for error in [
        refused(|entry| entry.publish = many(257)),
        refused(|entry| entry.subscribe = many(257)),
        refused(|entry| entry.dns_names = many(65)),
        refused(|entry| entry.federates_with = many(65)),
        refused(|entry| entry.selectors = many(65).iter().map(|n| selector("unix", n)).collect()),
    ] {
        assert!(error.starts_with("too many "), "{error}");
    }
}
