use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const START: UnixMillis = UnixMillis(1_700_000_000_000);

fn ca(name: u8, from: UnixMillis, life: Duration) -> CaRecord {
    CaRecord {
        certificate: vec![name],
        chain: vec![vec![name], vec![0xff]],
        serial: format!("{name:02x}"),
        issued_at: from,
        not_after: from.after(life),
        prepared_at: from,
        spki_sha256: format!("{name:064x}"),
        tainted: false,
    }
}

fn active(life: Duration) -> CaJournal {
    let journal = CaJournal::default().with_prepared(Slot::A, ca(1, START, life)).unwrap();
    journal.with_activated(Slot::A).unwrap()
}

fn self_signed(journal: &CaJournal, after: Duration) -> Option<CaStep> {
    journal.next_step(AuthorityKind::SelfSigned, START.after(after))
}

#[test]
fn an_empty_journal_makes_and_activates_slot_a() {
    let empty = CaJournal::default();
    assert_eq!(self_signed(&empty, Duration::ZERO), Some(CaStep::Prepare(Slot::A)));
    assert_eq!(empty.next_step(AuthorityKind::Upstream, START), Some(CaStep::Request(Slot::A)));
    let prepared = empty.with_prepared(Slot::A, ca(1, START, DAY)).unwrap();
    assert_eq!(self_signed(&prepared, Duration::ZERO), Some(CaStep::Activate(Slot::A)));
    let active = prepared.with_activated(Slot::A).unwrap();
    assert_eq!(self_signed(&active, Duration::ZERO), None);
}

#[test]
fn the_next_is_prepared_at_half_and_activated_at_a_sixth() {
    let journal = active(DAY);
    let ms = Duration::from_millis(1);
    assert_eq!(self_signed(&journal, DAY / 2 - ms), None);
    assert_eq!(self_signed(&journal, DAY / 2), Some(CaStep::Prepare(Slot::B)));
    let journal = journal.with_prepared(Slot::B, ca(2, START.after(DAY / 2), DAY)).unwrap();
    assert_eq!(self_signed(&journal, DAY * 5 / 6 - ms), None);
    assert_eq!(self_signed(&journal, DAY * 5 / 6), Some(CaStep::Activate(Slot::B)));
    let journal = journal.with_activated(Slot::B).unwrap();
    assert_eq!(journal.active().map(|(slot, _)| slot), Some(Slot::B));
    assert_eq!(journal.slot(Slot::A).map(|(state, _)| state), Some(SlotState::Old));
    assert_eq!(self_signed(&journal, DAY), Some(CaStep::Prepare(Slot::A)));
}

#[test]
fn long_lives_are_capped_to_thirty_and_seven_days() {
    let record = ca(1, START, DAY * 3650);
    assert_eq!(record.prepare_at(), START.after(DAY * 3620));
    assert_eq!(record.activate_at(), START.after(DAY * 3643));
    let short = ca(1, START, DAY * 42);
    assert_eq!(short.prepare_at(), START.after(DAY * 21));
    assert_eq!(short.activate_at(), START.after(DAY * 35));
}

#[test]
fn a_late_successor_is_published_before_it_signs() {
    let found = START.after(DAY * 11 / 12);
    let journal = active(DAY).with_prepared(Slot::B, ca(2, found, DAY)).unwrap();
    assert_eq!(self_signed(&journal, DAY * 11 / 12), None);
    assert_eq!(self_signed(&journal, DAY * 23 / 24), Some(CaStep::Activate(Slot::B)));
}

#[test]
fn an_ended_ca_is_replaced_at_once() {
    let journal = active(DAY);
    assert_eq!(self_signed(&journal, DAY), Some(CaStep::Prepare(Slot::B)));
    let journal = journal.with_prepared(Slot::B, ca(2, START.after(DAY * 3), DAY)).unwrap();
    assert_eq!(self_signed(&journal, DAY * 3), Some(CaStep::Activate(Slot::B)));
}

#[test]
fn an_ended_successor_is_made_anew() {
    let journal = active(DAY).with_prepared(Slot::B, ca(2, START, DAY)).unwrap();
    assert_eq!(self_signed(&journal, DAY * 2), Some(CaStep::Prepare(Slot::B)));
    assert!(journal.with_prepared(Slot::B, ca(3, START.after(DAY * 2), DAY)).is_ok());
}

#[test]
fn the_cloud_is_asked_once_at_a_time() {
    let request =
        PendingRequest { slot: Slot::B, spki_sha256: "00".to_owned(), requested_at: START.after(DAY / 2) };
    let half = START.after(DAY / 2);
    let journal = active(DAY);
    assert_eq!(journal.next_step(AuthorityKind::Upstream, half), Some(CaStep::Request(Slot::B)));
    let waiting = journal.with_request(request.clone()).unwrap();
    for later in [half, START.after(DAY), START.after(DAY * 100)] {
        assert_eq!(waiting.next_step(AuthorityKind::Upstream, later), None);
    }
    assert_eq!(waiting.request(), Some(&request));
    let answered = waiting.with_prepared(Slot::B, ca(2, half, DAY)).unwrap();
    assert_eq!(answered.request(), None);
}

#[test]
fn the_active_key_is_never_overwritten() {
    let journal = active(DAY);
    assert_eq!(journal.with_prepared(Slot::A, ca(2, START, DAY)), Err(WrongStep(Slot::A)));
    let request = PendingRequest { slot: Slot::A, spki_sha256: String::new(), requested_at: START };
    assert_eq!(journal.with_request(request), Err(WrongStep(Slot::A)));
    assert_eq!(journal.with_activated(Slot::A), Err(WrongStep(Slot::A)));
    assert_eq!(journal.with_activated(Slot::B), Err(WrongStep(Slot::B)));
}

#[test]
fn a_lost_key_makes_room_for_the_next() {
    let journal = active(DAY).without_key(Slot::A);
    assert_eq!(journal.active(), None);
    assert_eq!(self_signed(&journal, Duration::ZERO), Some(CaStep::Prepare(Slot::A)));
    let journal = active(DAY).with_prepared(Slot::B, ca(2, START, DAY)).unwrap().without_key(Slot::A);
    assert_eq!(self_signed(&journal, Duration::ZERO), Some(CaStep::Activate(Slot::B)));
}

#[test]
fn the_next_look_is_when_something_is_due() {
    let kind = AuthorityKind::SelfSigned;
    assert_eq!(CaJournal::default().next_step_at(kind, START), Some(START));
    let journal = active(DAY);
    assert_eq!(journal.next_step_at(kind, START), Some(START.after(DAY / 2)));
    let journal = journal.with_prepared(Slot::B, ca(2, START.after(DAY / 2), DAY)).unwrap();
    assert_eq!(journal.next_step_at(kind, START.after(DAY / 2)), Some(START.after(DAY * 5 / 6)));
}

#[test]
fn a_waiting_edge_looks_again_when_its_ca_ends() {
    let request = PendingRequest { slot: Slot::B, spki_sha256: String::new(), requested_at: START };
    let journal = active(DAY).with_request(request).unwrap();
    let kind = AuthorityKind::Upstream;
    assert_eq!(journal.next_step_at(kind, START.after(DAY * 2 / 3)), Some(START.after(DAY)));
    assert_eq!(journal.next_step_at(kind, START.after(DAY)), None);
}

#[test]
fn the_journal_survives_json() {
    let request = PendingRequest { slot: Slot::B, spki_sha256: "ab".to_owned(), requested_at: START };
    let journal = active(DAY).with_request(request).unwrap();
    let json = serde_json::to_vec(&journal).unwrap();
    assert_eq!(serde_json::from_slice::<CaJournal>(&json).unwrap(), journal);
    assert_eq!(
        serde_json::from_slice::<CaJournal>(b"{\"a\":null,\"b\":null}").unwrap(),
        CaJournal::default()
    );
    assert!(serde_json::from_slice::<CaJournal>(b"{\"a\":null,\"b\":null,\"c\":1}").is_err());
}

#[test]
fn slots_have_files_and_names() {
    assert_eq!((Slot::A.key_file(), Slot::B.key_file()), ("x509-ca-a.key", "x509-ca-b.key"));
    assert_eq!((Slot::A.other(), Slot::B.other()), (Slot::B, Slot::A));
    assert_eq!(format!("{}{}", Slot::A, Slot::B), "AB");
}
