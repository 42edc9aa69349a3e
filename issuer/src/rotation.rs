//! CA rotation: does what the journal says is next, one durable step after the other.

use crate::{
    error::IssueError,
    issuer::Issuer,
    mutation::Mutation,
    sign::{SigningCa, random_bytes, serial_text},
};
use issuer_core::{
    CaRecord, CaStep, PendingRequest, Root, Slot, SlotState, fingerprint,
    template::{CaTemplate, Validity, serial},
};
use midge_identity::UnixMillis;
use midge_pki::{CaSigner, FileError, KeyFileError, PrivateKey};
use midge_store::Batch;
use std::{io, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Longest wait between two looks at the clock: it may be stepped.
const TICK: Duration = Duration::from_secs(10);
/// Shortest wait after a failed step: each try costs a key and a write.
const RETRY: Duration = Duration::from_secs(1);
/// Shortest wait, so that very short lives do not spin.
const TICK_MIN: Duration = Duration::from_millis(200);
/// A journal leads to a CA that signs within three steps; more would be a bug.
const STEPS_MAX: usize = 4;

/// Keeps the server's CA, its own identities and its clock floor fresh until cancelled.
///
/// # Errors
/// Never: failures are retried, logged once and shown as degraded.
pub async fn run(issuer: Issuer, token: CancellationToken) -> Result<(), IssueError> {
    let mut failing = false;
    while !token.is_cancelled() {
        match issuer.tick().await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "identity server cannot rotate, will retry");
            }
            Err(error) => tracing::debug!(%error, "identity server still cannot rotate"),
        }
        let wait = if failing { issuer.wait().max(RETRY) } else { issuer.wait() };
        let mut requested = issuer.ca_request();
        tokio::select! {
            () = token.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
            // A CA that arrived has changed what is due.
            _ = requested.changed() => {}
        }
    }
    Ok(())
}

impl Issuer {
    /// Does whatever is due now: rotation steps, own identities, expired entries and tokens, the clock floor.
    ///
    /// # Errors
    /// A step failed; what was there still serves, and the next tick tries again.
    pub async fn tick(&self) -> Result<(), IssueError> {
        let rotated = self.rotate().await;
        let trouble = rotated.as_ref().err().map(ToString::to_string);
        self.shared.troubles.lock().rotation = trouble;
        let renewed = match self.renew_builtin() {
            Err(IssueError::NoAuthority(_) | IssueError::CaExpired(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        };
        let cleaned = self.clean().await;
        let saved = self.save_floor().await;
        self.publish();
        rotated.and(renewed).and(cleaned).and(saved)
    }

    /// Loads keys and brings the CA to where it can sign, if it can be.
    pub(crate) async fn recover(&self) -> Result<(), IssueError> {
        let (svid_ttl, ca_ttl) = (self.shared.config.svid_ttl, self.shared.config.ca_ttl);
        if svid_ttl > ca_ttl / 6 {
            // Just before a takeover the CA has a sixth of its life left.
            tracing::warn!(?svid_ttl, ?ca_ttl, "SVIDs can be cut short: make the CA live six times as long");
        }
        tokio::fs::create_dir_all(&self.shared.keys_dir).await.map_err(|source| {
            KeyFileError::File(FileError::Io { action: "create", path: self.shared.keys_dir.clone(), source })
        })?;
        for slot in [Slot::A, Slot::B] {
            self.recover_slot(slot).await?;
        }
        if let Some(issued) = self.shared.state.read().journal.active().map(|(_, ca)| ca.issued_at) {
            // A clock without a battery starts before the CA was made.
            self.shared.clock.raise_floor(issued);
        }
        self.load_signing()?;
        let pending = self.shared.state.read().journal.request().map(|request| request.slot);
        if let Some(slot) = pending
            && let Some(key) = self.shared.keys.lock().key(slot)
        {
            self.publish_request(slot, &key)?;
        }
        let ticked = self.tick().await;
        if self.shared.signing.read().is_none() && !self.is_upstream() {
            return ticked;
        }
        if let Err(error) = ticked {
            tracing::warn!(%error, "identity server starts with its present CA and will retry");
        }
        Ok(())
    }

    async fn recover_slot(&self, slot: Slot) -> Result<(), IssueError> {
        let expected = {
            let state = self.shared.state.read();
            let held = state.journal.slot(slot).filter(|(state, _)| *state != SlotState::Old);
            let request = state.journal.request().filter(|request| request.slot == slot);
            match (request, held) {
                (Some(request), _) => request.spki_sha256.clone(),
                (None, Some((_, ca))) => ca.spki_sha256.clone(),
                (None, None) => return Ok(()),
            }
        };
        let path = self.key_path(slot);
        let found = match PrivateKey::load(&path) {
            Ok(key) if fingerprint(&key.public_key_der()) == expected => {
                self.shared.keys.lock().set(slot, Some(Arc::new(key)));
                return Ok(());
            }
            Ok(_) => "holds another key than the one of the CA that signs",
            Err(KeyFileError::File(FileError::Io { source, .. }))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                "is missing, the key of the CA that signs"
            }
            Err(error) => return Err(error.into()),
        };
        // A key is written ahead of the journal, but never over the one that signs: that one went some other way.
        if !self.is_upstream() && self.signs(slot) {
            return Err(IssueError::RootKey { path, found });
        }
        tracing::warn!(%slot, path = %path.display(), "a CA that does not sign has lost its key, and is given up");
        self.commit(Batch::new(), move |state| {
            Ok((vec![Mutation::Journal(Box::new(state.journal.without_key(slot)))], ()))
        })
        .await
    }

    /// Tells whether the CA of this slot is the one that signs, and has not ended.
    fn signs(&self, slot: Slot) -> bool {
        let now = self.now();
        let state = self.shared.state.read();
        state.journal.active().is_some_and(|(active, ca)| active == slot && ca.is_live(now))
    }

    async fn rotate(&self) -> Result<(), IssueError> {
        let _rotation = self.shared.rotation.lock().await;
        for _ in 0..STEPS_MAX {
            let now = self.now();
            let step = self.shared.state.read().journal.next_step(self.shared.config.authority.kind(), now);
            match step {
                None => break,
                Some(CaStep::Prepare(slot)) => self.prepare(slot, now).await?,
                Some(CaStep::Request(slot)) => self.request(slot, now).await?,
                Some(CaStep::Activate(slot)) => self.activate(slot).await?,
            }
        }
        let now = self.now();
        let pruned = match self.is_upstream() {
            true => None,
            false => self.shared.state.read().bundle.pruned(now),
        };
        if pruned.is_some() {
            self.commit(Batch::new(), move |state| {
                Ok((state.bundle.pruned(now).map(Mutation::Bundle).into_iter().collect(), ()))
            })
            .await?;
        }
        Ok(())
    }

    /// Makes a CA in this slot. One that was prepared there before has signed nothing and goes.
    pub(crate) async fn prepare(&self, slot: Slot, now: UnixMillis) -> Result<(), IssueError> {
        let key = self.new_key(slot).await?;
        let validity = Validity::of_root(now, self.shared.config.ca_ttl);
        let template = CaTemplate::root(self.trust_domain().clone(), serial(random_bytes()?), validity);
        let certificate = CaSigner::self_signed_root(&template, &key)?;
        let root = Root { certificate: certificate.clone(), not_after: template.not_after, tainted: false };
        let record = CaRecord {
            certificate,
            chain: Vec::new(),
            serial: serial_text(template.serial),
            issued_at: now,
            not_after: template.not_after,
            prepared_at: now,
            spki_sha256: fingerprint(&key.public_key_der()),
            tainted: false,
        };
        tracing::info!(%slot, serial = %record.serial, not_after = %record.not_after, "CA prepared");
        self.commit(Batch::new(), move |state| {
            let journal = state.journal.with_prepared(slot, record)?;
            let unused = state.journal.prepared().filter(|(prepared, _)| *prepared == slot);
            let bundle = state.bundle.with_root(root)?;
            let bundle = match unused {
                Some((_, unused)) => bundle.without_root(&unused.certificate)?,
                None => bundle,
            };
            Ok((vec![Mutation::Journal(Box::new(journal)), Mutation::Bundle(bundle)], ()))
        })
        .await?;
        self.shared.keys.lock().set(slot, Some(key));
        Ok(())
    }

    async fn request(&self, slot: Slot, now: UnixMillis) -> Result<(), IssueError> {
        let key = self.new_key(slot).await?;
        let request =
            PendingRequest { slot, spki_sha256: fingerprint(&key.public_key_der()), requested_at: now };
        self.commit(Batch::new(), move |state| {
            Ok((vec![Mutation::Journal(Box::new(state.journal.with_request(request)?))], ()))
        })
        .await?;
        self.shared.keys.lock().set(slot, Some(Arc::clone(&key)));
        self.publish_request(slot, &key)
    }

    pub(crate) async fn activate(&self, slot: Slot) -> Result<(), IssueError> {
        self.commit(Batch::new(), move |state| {
            Ok((vec![Mutation::Journal(Box::new(state.journal.with_activated(slot)?))], ()))
        })
        .await?;
        tracing::info!(%slot, "CA activated");
        Ok(())
    }

    /// A key reaches its file before the journal names it: a crash between the two costs only the key.
    async fn new_key(&self, slot: Slot) -> Result<Arc<PrivateKey>, IssueError> {
        let key = Arc::new(PrivateKey::generate()?);
        let (stored, path) = (Arc::clone(&key), self.key_path(slot));
        match tokio::task::spawn_blocking(move || stored.store(path)).await {
            Ok(result) => result?,
            Err(_) => return Err(IssueError::Stopping),
        }
        Ok(key)
    }

    pub(crate) fn load_signing(&self) -> Result<(), IssueError> {
        let active = self.shared.state.read().journal.active().map(|(slot, ca)| (slot, ca.clone()));
        let Some((slot, ca)) = active else { return Ok(()) };
        let Some(key) = self.shared.keys.lock().key(slot) else { return Ok(()) };
        let signer = CaSigner::new(ca.certificate, key, self.trust_domain().clone())?;
        *self.shared.signing.write() = Some(Arc::new(SigningCa { signer, chain: ca.chain }));
        Ok(())
    }

    async fn clean(&self) -> Result<(), IssueError> {
        let now = self.now();
        let nothing = {
            let state = self.shared.state.read();
            state.entries.plan_expired(now).is_empty() && state.enrolment.plan_expired(now).is_empty()
        };
        if nothing {
            return Ok(());
        }
        self.commit(Batch::new(), move |state| {
            let entries = state.entries.plan_expired(now).into_iter().map(Mutation::Entry);
            let tokens = state.enrolment.plan_expired(now).into_iter().map(Mutation::TokenGone);
            Ok((entries.chain(tokens).collect(), ()))
        })
        .await
    }

    /// Returns how long nothing is due.
    fn wait(&self) -> Duration {
        let now = self.now();
        let kind = self.shared.config.authority.kind();
        let step = self.shared.state.read().journal.next_step_at(kind, now);
        let due = [step, self.builtin_due()].into_iter().flatten().min();
        due.map_or(TICK, |due| due.since(now)).clamp(TICK_MIN, TICK)
    }
}
