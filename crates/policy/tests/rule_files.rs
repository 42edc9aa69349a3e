//! Faulty policy files are refused whole, with file, line, rule and remedy.

#![expect(clippy::unwrap_used, reason = "tests")]

use midge_policy::{Policy, PolicyError, Rule};

fn faults(text: &str) -> Vec<String> {
    let errors = Policy::from_toml_str(text, "site.toml").unwrap_err();
    errors.iter().map(PolicyError::to_string).collect()
}

fn fault_of(lines: &str) -> String {
    let found = faults(&format!("[[rule]]\nname = \"r\"\n{lines}\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn unknown_keys_and_types_name_the_line() {
    let unknown = fault_of("id = \"spiffe://td/a\"\npubish = [\"t\"]");
    assert!(unknown.starts_with("site.toml:4: unknown field `pubish`, expected one of `name`"), "{unknown}");
    let kind = fault_of("id = \"spiffe://td/a\"\npublish = \"t\"");
    assert!(kind.starts_with("site.toml:4: "), "{kind}");
    let top = faults("[[rules]]\nname = \"r\"");
    assert!(top[0].starts_with("site.toml:1: unknown field `rules`"), "{top:?}");
    let syntax = faults("\n\n[[rule]\n");
    assert!(syntax[0].starts_with("site.toml:3: "), "{syntax:?}");
    let missing = faults("\n[[rule]]\nname = \"r\"\n");
    assert!(missing[0].starts_with("site.toml:2: missing field `id`"), "{missing:?}");
    let later = fault_of("id = \"spiffe://td/a\"\npublish = [\"t\"]\nspeed = 5");
    assert!(later.starts_with("site.toml:5: unknown field `speed`"), "{later}");
}

// A generated list that has become empty must not open the rule for all.
#[test]
fn an_empty_list_of_whom_a_rule_holds_for_is_a_fault() {
    for key in ["client-id", "listener"] {
        let rule = |value: &str| format!("id = \"spiffe://td/a\"\npublish = [\"t\"]\n{key} = {value}");
        let fault = fault_of(&rule("[]"));
        assert!(fault.starts_with("site.toml:5: an empty list holds for none"), "{fault}");
        for value in ["[\"tls\"]", "\"tls\""] {
            assert!(
                Policy::from_toml_str(&format!("[[rule]]\nname = \"r\"\n{}", rule(value)), "site.toml")
                    .is_ok()
            );
        }
    }
    // Of what a rule leaves out, none is none.
    assert!(
        Policy::from_toml_str(
            "[[rule]]\nname = \"r\"\nid = \"spiffe://td/a\"\nunless = []\npublish = [\"t\"]",
            "f"
        )
        .is_ok()
    );
}

#[test]
fn identity_patterns() {
    let fault = |pattern: &str| {
        let text = fault_of(&format!("publish = [\"t\"]\nid = \"{pattern}\""));
        let head = format!("site.toml:4: rule `r`: id = \"{pattern}\": ");
        text.strip_prefix(&head).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(
        fault("http://td/a"),
        "must start with spiffe://, such as \"spiffe://{td}/edge/{node}/app/*\""
    );
    assert_eq!(fault("spiffe://{domain}/a"), "trust domain `{domain}` is neither a name nor * nor {td}");
    assert_eq!(fault("spiffe:///a"), "trust domain `` is neither a name nor * nor {td}");
    assert_eq!(fault("spiffe://TD/a"), "trust domain `TD` is neither a name nor * nor {td}");
    assert_eq!(fault("spiffe://td/a//b"), "a segment is empty; remove the surplus /");
    assert_eq!(fault("spiffe://td/a/"), "a segment is empty; remove the surplus /");
    let partial = "does not fill its segment; a wildcard or {capture} stands alone between slashes";
    assert_eq!(fault("spiffe://td/a*"), format!("`a*` {partial}"));
    assert_eq!(fault("spiffe://td/a{x}"), format!("`a{{x}}` {partial}"));
    assert_eq!(fault("spiffe://td/***"), format!("`***` {partial}"));
    let alphabet = "has characters that no SPIFFE ID has (letters, digits and . - _ are allowed)";
    assert_eq!(fault("spiffe://td/a+"), format!("segment `a+` {alphabet}"));
    assert_eq!(fault("spiffe://td/.."), format!("segment `..` {alphabet}"));
    assert_eq!(
        fault("spiffe://td/**/a"),
        "** stands for the rest of the path and must be last; use * for one segment"
    );
    assert_eq!(fault("spiffe://td/{A}"), "capture `{A}` needs a name of lower-case letters, digits, - and _");
    assert_eq!(fault("spiffe://td/{}"), "capture `{}` needs a name of lower-case letters, digits, - and _");
    assert_eq!(fault("spiffe://td/{x}/{x}"), "capture `{x}` stands twice; give each its own name");
    assert_eq!(fault("spiffe://td/{td}"), "{td} is the trust domain; give the segment another name");
}

#[test]
fn topic_patterns() {
    let fault = |pattern: &str| {
        let text = fault_of(&format!(
            "id = \"spiffe://{{td}}/{{app}}\"\npublish = [\n  \"fine\",\n  \"{pattern}\"]"
        ));
        let head = format!("site.toml:6: rule `r`: publish: \"{pattern}\": ");
        text.strip_prefix(&head).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(fault("a/#/b"), "`#` is not the last level or does not fill it");
    assert_eq!(fault("a+"), "`+` does not fill its level");
    assert_eq!(fault(""), "topic is empty");
    assert_eq!(
        fault("a/x{app}"),
        "`x{app}` does not fill its level; a {capture} stands alone between slashes"
    );
    assert_eq!(fault("a/{app"), "`{app` does not fill its level; a {capture} stands alone between slashes");
    assert_eq!(fault("a/{device}"), "capture `{device}` is not in id; it has {td}, {app}");
    let share = "rights are checked without the share prefix; write the filter after $share/<group>/ alone";
    assert_eq!(fault("$share/g/a"), share);
    assert_eq!(fault(&"a/".repeat(128)), "has more than 128 levels; shorten it or end it with #");
}

#[test]
fn conditions_and_names() {
    let with = |lines: &str| fault_of(&format!("id = \"spiffe://td/a\"\n{lines}"));
    assert_eq!(
        with("publish = [\"t\"]\nqos-max = 3"),
        "site.toml:5: rule `r`: qos-max = 3: must be 0, 1 or 2"
    );
    assert_eq!(
        with("deny-publish = [\"t\"]\nretain = false"),
        "site.toml:5: rule `r`: retain limits publish alone, and the rule has none; add publish or remove retain"
    );
    assert_eq!(
        with("deny-receive = [\"t\"]\nqos-max = 1"),
        "site.toml:5: rule `r`: qos-max limits publish, subscribe or receive alone, and the rule has none; \
         add publish, subscribe or receive or remove qos-max"
    );
    assert_eq!(
        with(""),
        "site.toml:1: rule `r`: the rule names no topics; \
         add publish, subscribe, receive, one of their deny- forms or a quota, or remove it"
    );
    assert_eq!(
        with("publish = [\"t\"]\nunless = \"spiffe://td/{x}\""),
        "site.toml:5: rule `r`: unless = \"spiffe://td/{x}\": capture `{x}` is not in id; use * or a capture of id"
    );
    let named = faults("[[rule]]\nname = \"a\\nb\"\nid = \"spiffe://td/a\"\npublish = [\"t\"]\n");
    assert_eq!(
        named,
        [
            "site.toml:2: rule `a\\nb`: a rule's name has 1 to 255 printable characters and no `; rename `a\\nb`"
        ]
    );
}

#[test]
fn conditions_name_value_and_remedy() {
    let with = |lines: &str| {
        let text = fault_of(&format!("id = \"spiffe://td/{{a}}\"\n{lines}"));
        text.strip_prefix("site.toml:5: ").unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let publish = |line: &str| with(&format!("publish = [\"t\"]\n{line}"));
    let subscribe = |line: &str| with(&format!("subscribe = [\"t\"]\n{line}"));
    for (line, fault) in [
        ("rate = {}", "limits nothing; add messages-per-second or bytes-per-second"),
        (
            "rate = { messages-per-second = 0 }",
            "messages-per-second = 0 would let nothing pass; give at least 1",
        ),
        (
            "rate = { messages-per-second = 1, burst-messages = 0 }",
            "burst-messages = 0 would let nothing pass; give at least 1",
        ),
        (
            "rate = { messages-per-second = 1, burst-bytes = 5 }",
            "burst-bytes has no bytes-per-second to refill it; add bytes-per-second or remove burst-bytes",
        ),
        (
            "rate = { bytes-per-second = 5 }\npayload-max = 6",
            "a payload of payload-max = 6 bytes never fits a burst of 5; raise burst-bytes",
        ),
    ] {
        assert_eq!(publish(line), format!("rule `r`: rate = {{ … }}: {fault}"));
    }
    assert!(publish("rate = { messages = 1 }").starts_with("unknown field `messages`, expected one of"));
    assert_eq!(
        publish("durability = \"disk\""),
        "unknown variant `disk`, expected one of `none`, `process-crash`, `power-loss`"
    );
    let idle = "queue-overflow limits subscribe alone, and the rule has none; add subscribe or remove queue-overflow";
    for overflow in ["drop-oldest", "refuse-publishers"] {
        assert_eq!(publish(&format!("queue-overflow = \"{overflow}\"")), format!("rule `r`: {idle}"));
    }
    assert_eq!(
        subscribe("queue-overflow = \"refuse\""),
        "rule `r`: queue-overflow limits publish alone, and the rule has none; add publish or remove queue-overflow"
    );
    assert_eq!(
        subscribe("share-groups = [\"a/b\"]"),
        "rule `r`: share-groups = \"a/b\": is neither a group's name (without / + #) nor * nor a {capture}"
    );
    assert_eq!(
        subscribe("share-groups = [\"{b}\"]"),
        "rule `r`: share-groups = \"{b}\": capture `{b}` is not in id; it has {td}, {a}"
    );
    assert_eq!(
        publish("client-id = \"x*y\""),
        "rule `r`: client-id = \"x*y\": a client id is empty, a brace is not closed, or * is not last"
    );
    assert_eq!(
        publish("client-id = [\"{a}-{b}\"]"),
        "rule `r`: client-id = \"{a}-{b}\": capture `{b}` is not in id; it has {td}, {a}"
    );
    let names = "is none of tls, tcp, unix, websocket-tls, websocket-loopback";
    for name in ["", "tsl", "mqtt-tls", "TLS"] {
        let fault = format!("rule `r`: listener = \"{name}\": {names}");
        assert_eq!(publish(&format!("listener = [\"tcp\", \"{name}\"]")), fault);
    }
    assert!(
        publish("response-topics = [\"{b}\"]").starts_with("rule `r`: response-topics: \"{b}\": capture")
    );
    assert_eq!(
        with("client-id = \"x\"\ndeny-publish = [\"t\"]").replace("site.toml:6: ", ""),
        "rule `r`: a client chooses its client id and could evade deny-publish; put it into a rule without client-id"
    );
}

#[test]
fn every_fault_is_told_and_one_refuses_the_file() {
    let text = r#"
[[rule]]
name = "fine"
id = "spiffe://td/a"
publish = ["t"]

[[rule]]
name = "fine"
id = "spiffe://td/b"
publish = ["t"]

[[rule]]
name = "faulty"
id = "spiffe://td/{x}"
publish = ["{y}", "a#"]
deny-receive = ["{z}"]
"#;
    let found = faults(text);
    let places: Vec<&str> = found.iter().filter_map(|fault| fault.split(": rule").next()).collect();
    assert_eq!(places, ["site.toml:15", "site.toml:15", "site.toml:16"]);

    let twice = text.split("[[rule]]\nname = \"faulty\"").next().unwrap();
    assert_eq!(
        faults(twice),
        ["site.toml:7: rule `fine`: the name is also used at site.toml:2; give each rule its own"]
    );
    assert_eq!(Rule::from_toml_str(&twice.replacen("fine", "good", 1), "site.toml").unwrap().len(), 2);
}
