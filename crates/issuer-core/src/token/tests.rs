use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const KEY: &[u8] = b"key of the box";

fn trust_domain() -> TrustDomain {
    TrustDomain::new("plant").unwrap()
}

fn node_id() -> SpiffeId {
    SpiffeId::new("spiffe://plant/edge/box").unwrap()
}

fn shown(key: &[u8]) -> NodeProof {
    NodeProof {
        id: node_id(),
        serial: "0a".into(),
        spki_sha256: fingerprint(key),
        issued: NOW,
        not_after: NOW,
    }
}

fn with_token(token: &str) -> Enrolment {
    let mut enrolment = Enrolment::default();
    add(&mut enrolment, token);
    enrolment
}

fn add(enrolment: &mut Enrolment, token: &str) {
    let made = enrolment.plan_token(token, MINUTE, Some(node_id()), NOW).unwrap();
    enrolment.put_token(made);
}

fn redeem(enrolment: &Enrolment, token: &str, key: &[u8]) -> Result<Redemption, JoinError> {
    enrolment.plan_redeem(&trust_domain(), token, key, None, NOW)
}

fn join(enrolment: &mut Enrolment, token: &str) -> Arc<Node> {
    let Redemption::Joined { token_sha256, node } = redeem(enrolment, token, KEY).unwrap() else {
        panic!("not joined");
    };
    enrolment.delete_token(&token_sha256);
    enrolment.put_node(Arc::clone(&node));
    node
}

#[test]
fn a_token_makes_a_node_once() {
    let mut enrolment = with_token("secret");
    let node = join(&mut enrolment, "secret");
    assert_eq!((node.id.clone(), node.attestation_type.as_str()), (node_id(), "join_token"));
    assert_eq!(enrolment.waiting(), 0);
    let error = redeem(&enrolment, "secret", b"another key").unwrap_err();
    assert_eq!(error.to_string(), "join token does not exist or has already been used");
}

#[test]
fn a_token_in_the_hands_of_another_node_is_not_spent() {
    let mut enrolment = with_token("secret");
    let shown = |enrolment: &Enrolment, by: &str| {
        let by = SpiffeId::new(format!("spiffe://plant/edge/{by}")).unwrap();
        enrolment.plan_redeem(&trust_domain(), "secret", KEY, Some(&by), NOW)
    };
    let error = shown(&enrolment, "other").unwrap_err();
    let told = "the join token is for spiffe://plant/edge/box, not for spiffe://plant/edge/other";
    assert_eq!(error.to_string(), told);
    assert!(matches!(shown(&enrolment, "box"), Ok(Redemption::Joined { .. })));
    join(&mut enrolment, "secret");
    assert_eq!(shown(&enrolment, "other").unwrap_err().to_string(), told, "nor repeated");
    assert!(matches!(shown(&enrolment, "box"), Ok(Redemption::Repeated(_))));
}

#[test]
fn a_lost_answer_does_not_burn_the_token() {
    let mut enrolment = with_token("secret");
    let node = join(&mut enrolment, "secret");
    assert_eq!(redeem(&enrolment, "secret", KEY), Ok(Redemption::Repeated(node)));
}

#[test]
fn a_repeat_works_after_the_token_would_have_expired() {
    let mut enrolment = with_token("secret");
    join(&mut enrolment, "secret");
    let late = NOW.after(MINUTE * 10);
    assert!(matches!(
        enrolment.plan_redeem(&trust_domain(), "secret", KEY, None, late),
        Ok(Redemption::Repeated(_))
    ));
}

#[test]
fn an_unknown_token_is_worth_nothing() {
    assert_eq!(redeem(&Enrolment::default(), "secret", KEY), Err(JoinError::UnknownToken));
}

#[test]
fn an_expired_token_is_burnt_on_its_first_use() {
    let mut enrolment = with_token("secret");
    let at_end = enrolment.plan_redeem(&trust_domain(), "secret", KEY, None, NOW.after(MINUTE));
    let Ok(Redemption::Burnt { token_sha256, error }) = at_end else { panic!("{at_end:?}") };
    assert_eq!(error.to_string(), "join token expired");
    enrolment.delete_token(&token_sha256);
    assert_eq!(redeem(&enrolment, "secret", KEY), Err(JoinError::UnknownToken));
}

#[test]
fn the_last_moment_still_counts() {
    let enrolment = with_token("secret");
    let last = NOW.after(MINUTE).before(Duration::from_millis(1));
    assert!(matches!(
        enrolment.plan_redeem(&trust_domain(), "secret", KEY, None, last),
        Ok(Redemption::Joined { .. })
    ));
}

#[test]
fn without_an_id_the_node_gets_spires() {
    let mut enrolment = Enrolment::default();
    let made = enrolment.plan_token("abc-123", MINUTE, None, NOW).unwrap();
    enrolment.put_token(made);
    let node = join(&mut enrolment, "abc-123");
    assert_eq!(node.id.to_string(), "spiffe://plant/spire/agent/join_token/abc-123");
}

#[test]
fn a_token_that_is_no_path_segment_is_named_by_its_hash() {
    let mut enrolment = Enrolment::default();
    let made = enrolment.plan_token("a/b+c=", MINUTE, None, NOW).unwrap();
    enrolment.put_token(made);
    let node = join(&mut enrolment, "a/b+c=");
    assert_eq!(node.id.path(), format!("/spire/agent/join_token/{}", fingerprint(b"a/b+c=")));
}

#[test]
fn lifetimes_and_texts_are_checked() {
    let enrolment = with_token("taken");
    let plan = |token: &str, ttl| enrolment.plan_token(token, ttl, None, NOW);
    assert_eq!(plan("x", Duration::from_millis(999)), Err(JoinError::NoTtl));
    assert_eq!(plan("taken", MINUTE), Err(JoinError::TokenExists));
    for text in ["", "a b", "a\n", "ä", &"x".repeat(256)] {
        assert_eq!(plan(text, MINUTE), Err(JoinError::TokenText), "{text}");
    }
    assert!(plan("x", Duration::from_secs(1)).is_ok());
}

#[test]
fn a_spent_token_cannot_be_made_again_while_its_node_lives() {
    let mut enrolment = with_token("secret");
    join(&mut enrolment, "secret");
    assert_eq!(enrolment.plan_token("secret", MINUTE, None, NOW), Err(JoinError::TokenExists));
    enrolment.delete_node(&node_id());
    assert!(enrolment.plan_token("secret", MINUTE, None, NOW).is_ok());
}

#[test]
fn the_store_holds_no_token() {
    let enrolment = with_token("secret");
    let json = serde_json::to_string(enrolment.tokens.values().next().unwrap()).unwrap();
    assert!(!json.contains("secret"), "{json}");
    let read: JoinToken = serde_json::from_str(&json).unwrap();
    assert_eq!(read.agent_id, Some(node_id()));
}

#[test]
fn a_banned_node_cannot_repeat_renew_or_join_anew() {
    let mut enrolment = with_token("secret");
    join(&mut enrolment, "secret");
    let banned = enrolment.plan_node(&node_id(), |node| node.banned = true).unwrap();
    enrolment.put_node(banned);
    assert_eq!(redeem(&enrolment, "secret", KEY), Err(JoinError::Banned(node_id())));
    assert_eq!(enrolment.admitted(&shown(KEY)).unwrap_err(), JoinError::Banned(node_id()));
    add(&mut enrolment, "second");
    assert_eq!(redeem(&enrolment, "second", b"new key"), Err(JoinError::Banned(node_id())));
}

#[test]
fn a_deleted_node_may_join_with_a_new_token() {
    let mut enrolment = with_token("secret");
    join(&mut enrolment, "secret");
    enrolment.delete_node(&node_id());
    assert_eq!(enrolment.admitted(&shown(KEY)).unwrap_err(), JoinError::UnknownNode);
    assert_eq!(redeem(&enrolment, "secret", KEY), Err(JoinError::UnknownToken));
    add(&mut enrolment, "second");
    join(&mut enrolment, "second");
    assert!(enrolment.admitted(&shown(KEY)).is_ok());
}

#[test]
fn a_second_token_moves_a_node_to_a_new_key() {
    let mut enrolment = with_token("first");
    join(&mut enrolment, "first");
    add(&mut enrolment, "second");
    join(&mut enrolment, "second");
    assert_eq!(redeem(&enrolment, "first", KEY), Err(JoinError::UnknownToken));
    assert_eq!(enrolment.nodes().count(), 1);
}

#[test]
fn old_tokens_are_cleaned_away_after_a_day() {
    let enrolment = with_token("secret");
    assert!(enrolment.plan_expired(NOW.after(Duration::from_secs(86_400))).is_empty());
    let gone = enrolment.plan_expired(NOW.after(Duration::from_secs(86_400 + 61)));
    assert_eq!(gone, [fingerprint(b"secret")]);
}

#[test]
fn a_node_survives_json() {
    let mut enrolment = with_token("secret");
    let node = join(&mut enrolment, "secret");
    let read: Node = serde_json::from_slice(&serde_json::to_vec(&*node).unwrap()).unwrap();
    assert_eq!(read, *node);
    assert_eq!(enrolment.find(&node_id()), Some(&node));
    assert_eq!(
        enrolment.plan_node(&SpiffeId::new("spiffe://plant/x").unwrap(), |_| {}),
        Err(JoinError::UnknownNode)
    );
}
