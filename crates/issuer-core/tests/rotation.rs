//! CA rotation on a virtual clock: ten years, with crashes between any two writes, restarts and
//! long times without power or cloud.

#[cfg(test)]
mod rotation {
    use issuer_core::{
        AuthorityKind, Bundle, CaJournal, CaRecord, CaStep, Lease, PRUNE_AFTER, PendingRequest, Root, Slot,
    };
    use midge_identity::UnixMillis;
    use std::{collections::BTreeMap, time::Duration};

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const START: UnixMillis = UnixMillis(1_700_000_000_000);

    /// Deterministic randomness (an LCG), seeded per run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// What survives a crash: the journal, the bundle and the key files, each written atomically.
    #[derive(Default)]
    struct Disk {
        journal: Option<Vec<u8>>,
        bundle: Bundle,
        keys: BTreeMap<&'static str, u64>,
    }

    /// Stands for what `issuer/` does around the journal; a key is a number, a certificate names its key.
    struct World {
        kind: AuthorityKind,
        ca_ttl: Duration,
        svid_ttl: Duration,
        now: UnixMillis,
        disk: Disk,
        journal: CaJournal,
        next_key: u64,
        root_ends: UnixMillis,
        cloud_reachable: bool,
        /// Writes left until the power fails.
        writes_left: Option<u64>,
        issued: Vec<(Vec<u8>, UnixMillis)>,
        roots_seen: BTreeMap<Vec<u8>, UnixMillis>,
        crashes: u64,
        activations: u64,
    }

    struct PowerCut;

    impl World {
        fn new(kind: AuthorityKind, ca_ttl: Duration, svid_ttl: Duration) -> Self {
            Self {
                kind,
                ca_ttl,
                svid_ttl,
                now: START,
                disk: Disk::default(),
                journal: CaJournal::default(),
                next_key: 1,
                root_ends: START.after(DAY * 36_500),
                cloud_reachable: true,
                writes_left: None,
                issued: Vec::new(),
                roots_seen: BTreeMap::new(),
                crashes: 0,
                activations: 0,
            }
        }

        fn write(&mut self) -> Result<(), PowerCut> {
            match &mut self.writes_left {
                Some(0) => Err(PowerCut),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
                None => Ok(()),
            }
        }

        fn commit(&mut self, journal: CaJournal, bundle: Option<Bundle>) -> Result<(), PowerCut> {
            self.write()?;
            self.disk.journal = Some(serde_json::to_vec(&journal).unwrap());
            self.disk.bundle = bundle.unwrap_or_else(|| self.disk.bundle.clone());
            self.journal = journal;
            for root in self.disk.bundle.roots() {
                self.roots_seen.entry(root.certificate.clone()).or_insert(self.now);
            }
            Ok(())
        }

        fn new_key(&mut self, slot: Slot) -> Result<u64, PowerCut> {
            self.write()?;
            let key = self.next_key;
            self.next_key += 1;
            self.disk.keys.insert(slot.key_file(), key);
            Ok(key)
        }

        fn record(&self, key: u64, not_after: UnixMillis) -> CaRecord {
            let certificate = key.to_be_bytes().to_vec();
            let chain = match self.kind {
                AuthorityKind::SelfSigned => Vec::new(),
                AuthorityKind::Upstream => vec![certificate.clone()],
            };
            CaRecord {
                certificate,
                chain,
                serial: format!("{key:x}"),
                issued_at: self.now,
                not_after,
                prepared_at: self.now,
                spki_sha256: key.to_string(),
                tainted: false,
            }
        }

        fn step(&mut self) -> Result<bool, PowerCut> {
            let Some(step) = self.journal.next_step(self.kind, self.now) else {
                if let Some(bundle) = self.disk.bundle.pruned(self.now) {
                    self.commit(self.journal.clone(), Some(bundle))?;
                }
                return self.answer_request();
            };
            match step {
                CaStep::Prepare(slot) => {
                    let key = self.new_key(slot)?;
                    let record = self.record(key, self.now.after(self.ca_ttl));
                    let root = Root {
                        certificate: record.certificate.clone(),
                        not_after: record.not_after,
                        tainted: false,
                    };
                    let bundle = self.disk.bundle.with_root(root).unwrap();
                    self.commit(self.journal.with_prepared(slot, record).unwrap(), Some(bundle))?;
                }
                CaStep::Request(slot) => {
                    let key = self.new_key(slot)?;
                    let request =
                        PendingRequest { slot, spki_sha256: key.to_string(), requested_at: self.now };
                    self.commit(self.journal.with_request(request).unwrap(), None)?;
                }
                CaStep::Activate(slot) => {
                    self.commit(self.journal.with_activated(slot).unwrap(), None)?;
                    self.activations += 1;
                }
            }
            Ok(true)
        }

        fn answer_request(&mut self) -> Result<bool, PowerCut> {
            let Some(request) = self.journal.request().cloned().filter(|_| self.cloud_reachable) else {
                return Ok(false);
            };
            let key: u64 = request.spki_sha256.parse().unwrap();
            let record = self.record(key, self.now.after(self.ca_ttl).min(self.root_ends));
            let root =
                Root { certificate: b"cloud root".to_vec(), not_after: self.root_ends, tainted: false };
            let bundle = self.disk.bundle.with_root(root).unwrap();
            self.commit(self.journal.with_prepared(request.slot, record).unwrap(), Some(bundle))?;
            Ok(true)
        }

        fn restart(&mut self) {
            self.crashes += 1;
            self.writes_left = None;
            let json = self.disk.journal.clone();
            self.journal = json.map(|json| serde_json::from_slice(&json).unwrap()).unwrap_or_default();
            for slot in [Slot::A, Slot::B] {
                let key = self.disk.keys.get(slot.key_file()).map(u64::to_string);
                let request = self.journal.request().filter(|request| request.slot == slot);
                let expected = match (request, self.journal.slot(slot)) {
                    (Some(request), _) => Some(request.spki_sha256.clone()),
                    (None, Some((issuer_core::SlotState::Old, _)) | None) => None,
                    (None, Some((_, ca))) => Some(ca.spki_sha256.clone()),
                };
                if expected.is_some() && expected != key {
                    self.journal = self.journal.without_key(slot);
                }
            }
        }

        /// Runs everything that is due now; a power cut restarts and goes on.
        fn settle(&mut self) {
            for _ in 0..32 {
                match self.step() {
                    Ok(false) => {
                        self.check();
                        return;
                    }
                    Ok(true) => self.check_invariants(),
                    Err(PowerCut) => self.restart(),
                }
            }
            panic!("rotation does not come to rest");
        }

        fn signer(&self) -> Option<(Slot, CaRecord)> {
            self.journal.active().filter(|(_, ca)| ca.is_live(self.now)).map(|(slot, ca)| (slot, ca.clone()))
        }

        fn sign(&mut self) {
            let (slot, ca) = self.signer().expect("something can sign");
            assert_eq!(
                self.disk.keys.get(slot.key_file()).map(u64::to_string),
                Some(ca.spki_sha256.clone()),
                "the key file is the active CA's"
            );
            let root = match self.kind {
                AuthorityKind::SelfSigned => ca.certificate.clone(),
                AuthorityKind::Upstream => b"cloud root".to_vec(),
            };
            let ends = self.now.after(self.svid_ttl).min(ca.not_after);
            assert!(ends > self.now);
            self.issued.push((root, ends));
        }

        fn check_invariants(&self) {
            if let (Some((active, _)), Some((prepared, _))) = (self.journal.active(), self.journal.prepared())
            {
                assert_ne!(active, prepared);
            }
            let active = [Slot::A, Slot::B]
                .into_iter()
                .filter(|slot| {
                    self.journal.slot(*slot).is_some_and(|(state, _)| state == issuer_core::SlotState::Active)
                })
                .count();
            assert!(active <= 1, "at most one CA is active");
        }

        /// Every SVID that has not expired is verified by the bundle of this moment.
        fn check(&mut self) {
            self.check_invariants();
            let now = self.now;
            self.issued.retain(|(_, ends)| *ends > now);
            for (root, _) in &self.issued {
                assert!(
                    self.disk.bundle.roots().iter().any(|known| known.certificate == *root),
                    "an unexpired SVID has lost its root"
                );
            }
            assert!(self.disk.bundle.roots().len() <= 4, "expired roots are pruned");
        }

        fn advance(&mut self, by: Duration) {
            self.now = self.now.after(by);
            self.settle();
        }
    }

    #[test]
    fn ten_years_of_own_roots() {
        let mut world = World::new(AuthorityKind::SelfSigned, DAY, HOUR);
        world.settle();
        for _ in 0..(3650 * 24) {
            world.sign();
            world.advance(HOUR);
        }
        // Each CA is prepared when its predecessor is half over: two takeovers a day.
        assert!((7_299..=7_301).contains(&world.activations), "{}", world.activations);
    }

    #[test]
    fn ten_years_of_intermediates() {
        let mut world = World::new(AuthorityKind::Upstream, DAY * 30, HOUR);
        world.settle();
        for _ in 0..(3650 * 24) {
            world.sign();
            world.advance(HOUR);
            let lease = Lease::of(&world.journal, world.kind, world.now);
            assert!(lease.remaining >= DAY * 14, "{lease:?}");
        }
    }

    #[test]
    fn a_root_is_published_long_before_it_signs() {
        let mut world = World::new(AuthorityKind::SelfSigned, DAY, HOUR);
        world.settle();
        let mut signing = world.signer().unwrap().1.certificate;
        for _ in 0..20_000 {
            world.advance(HOUR / 4);
            let current = world.signer().unwrap().1.certificate;
            if current != signing {
                let published = world.roots_seen[&current];
                assert!(world.now.since(published) >= DAY / 4, "{:?}", world.now.since(published));
                signing = current;
            }
        }
    }

    #[test]
    fn a_crash_at_every_write_costs_nothing() {
        for kind in [AuthorityKind::SelfSigned, AuthorityKind::Upstream] {
            for cut_at in 0..12 {
                let mut world = World::new(kind, DAY, HOUR);
                world.writes_left = Some(cut_at);
                world.settle();
                for _ in 0..(24 * 14) {
                    world.sign();
                    world.advance(HOUR);
                }
                assert!(world.crashes == 1 || world.writes_left.is_some(), "cut at {cut_at}");
            }
        }
    }

    #[test]
    fn ten_years_of_random_power_cuts() {
        for (seed, kind) in [(1, AuthorityKind::SelfSigned), (2, AuthorityKind::Upstream)] {
            let mut dice = Dice(seed);
            let mut world = World::new(kind, DAY, HOUR);
            world.settle();
            for _ in 0..(3650 * 8) {
                if world.writes_left.is_none() && dice.roll(3) == 0 {
                    world.writes_left = Some(dice.roll(4));
                }
                if dice.roll(10) == 0 {
                    world.restart();
                }
                world.sign();
                world.advance(HOUR * 3);
            }
            assert!(world.crashes > 2_000, "{}", world.crashes);
        }
    }

    #[test]
    fn a_box_switched_off_for_any_time_signs_again() {
        for kind in [AuthorityKind::SelfSigned, AuthorityKind::Upstream] {
            for off in [DAY / 2, DAY * 2 / 3, DAY * 5 / 6, DAY * 11 / 12, DAY, DAY * 2, DAY * 365, DAY * 3650]
            {
                let mut world = World::new(kind, DAY, HOUR);
                world.settle();
                world.now = world.now.after(off);
                world.restart();
                world.settle();
                world.sign();
                world.advance(DAY);
                world.sign();
            }
        }
    }

    #[test]
    fn a_restart_past_half_or_five_sixths_offline_keeps_serving() {
        for fraction in [50, 60, 84, 90, 99] {
            let mut world = World::new(AuthorityKind::Upstream, DAY, HOUR);
            world.settle();
            let before = world.signer().unwrap().1.certificate;
            world.cloud_reachable = false;
            world.now = START.after(DAY * fraction / 100);
            world.restart();
            world.settle();
            world.sign();
            assert_eq!(world.signer().unwrap().1.certificate, before, "{fraction} %");
        }
    }

    #[test]
    fn offline_the_lease_runs_out_and_the_cloud_restores_it() {
        let mut world = World::new(AuthorityKind::Upstream, DAY, HOUR);
        world.settle();
        world.advance(DAY / 2 - HOUR);
        world.cloud_reachable = false;
        let mut last = Lease::of(&world.journal, world.kind, world.now);
        while world.signer().is_some() {
            world.sign();
            world.restart();
            world.advance(HOUR / 2);
            let lease = Lease::of(&world.journal, world.kind, world.now);
            assert!(lease.remaining <= last.remaining && lease.warning >= last.warning);
            last = lease;
        }
        assert!(last.is_ended());
        assert_eq!(world.now, START.after(DAY));
        world.cloud_reachable = true;
        world.settle();
        world.sign();
        assert_eq!(Lease::of(&world.journal, world.kind, world.now).remaining, DAY);
    }

    #[test]
    fn a_prepared_ca_doubles_the_time_alone() {
        let mut world = World::new(AuthorityKind::Upstream, DAY, HOUR);
        world.settle();
        world.advance(DAY / 2);
        assert!(world.journal.prepared().is_some());
        world.cloud_reachable = false;
        let mut alone = Duration::ZERO;
        while world.signer().is_some() {
            world.sign();
            world.restart();
            world.advance(HOUR / 4);
            alone += HOUR / 4;
        }
        assert_eq!(alone, DAY);
    }

    #[test]
    fn the_same_key_is_asked_for_again_after_a_restart() {
        let mut world = World::new(AuthorityKind::Upstream, DAY, HOUR);
        world.cloud_reachable = false;
        world.settle();
        let asked = world.journal.request().cloned().unwrap();
        for _ in 0..5 {
            world.restart();
            world.advance(DAY);
            assert_eq!(world.journal.request(), Some(&asked));
        }
    }

    #[test]
    fn a_lost_key_file_is_recovered_from() {
        for kind in [AuthorityKind::SelfSigned, AuthorityKind::Upstream] {
            let mut world = World::new(kind, DAY, HOUR);
            world.settle();
            world.advance(DAY * 2 / 3);
            world.disk.keys.clear();
            world.restart();
            world.settle();
            world.sign();
        }
    }

    #[test]
    fn roots_outlive_what_they_signed_by_a_day() {
        let mut world = World::new(AuthorityKind::SelfSigned, DAY, HOUR);
        world.settle();
        let first = world.signer().unwrap().1;
        let known = |world: &World| {
            world.disk.bundle.roots().iter().any(|root| root.certificate == first.certificate)
        };
        while known(&world) {
            world.advance(HOUR);
        }
        assert_eq!(world.now, first.not_after.after(PRUNE_AFTER));
    }

    #[test]
    fn a_root_near_its_end_gives_shorter_and_shorter_intermediates_but_never_a_gap() {
        let mut world = World::new(AuthorityKind::Upstream, DAY, HOUR);
        world.root_ends = START.after(DAY * 3);
        world.settle();
        while world.now.after(HOUR) < world.root_ends {
            world.sign();
            world.advance(HOUR / 12);
        }
    }
}
