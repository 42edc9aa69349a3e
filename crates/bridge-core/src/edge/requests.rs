//! Questions to the cloud that are repeated until answered: the cursor and certificates.

use super::{EdgeEffect, EdgeSync, text_of};
use crate::message::operation;
use crate::{Message, Now, Route, SignedChain, SigningKind, SigningRequest};
use std::time::Duration;

/// The cursor's way to the cloud.
#[derive(Debug)]
pub(super) enum Hello {
    Due(Duration),
    Sent { message: Box<Message>, again_at: Duration },
    Done,
}

impl Hello {
    /// While changes are being applied the cursor is about to move: it is sent afterwards.
    pub(super) fn due(&self, applying: bool) -> Option<Duration> {
        match self {
            Self::Due(at) => Some(*at).filter(|_| !applying),
            Self::Sent { again_at, .. } => Some(*again_at),
            Self::Done => None,
        }
    }
}

/// A certificate that the edge wants.
#[derive(Debug)]
pub(super) struct Signing {
    request: SigningRequest,
    state: SigningState,
    /// Why there is no certificate yet: it stands until there is one, whatever else succeeds meanwhile.
    pub(super) error: Option<String>,
}

#[derive(Debug)]
enum SigningState {
    Due(Duration),
    Sent { message: Box<Message>, again_at: Duration },
    Installing,
}

impl Signing {
    pub(super) fn due(&self) -> Option<Duration> {
        match &self.state {
            SigningState::Due(at) | SigningState::Sent { again_at: at, .. } => Some(*at),
            SigningState::Installing => None,
        }
    }

    pub(super) fn forget_sent(&mut self) {
        if matches!(self.state, SigningState::Sent { .. }) {
            self.state = SigningState::Due(Duration::ZERO);
        }
    }
}

impl EdgeSync {
    pub(super) fn answers_hello(&self, parent: &str) -> bool {
        self.link.as_ref().is_some_and(
            |link| matches!(&link.hello, Hello::Sent { message, .. } if message.header.id == parent),
        )
    }

    pub(super) fn send_hello_when_due(&mut self, now: Now) {
        let applying = self.applying.is_some();
        let Some(link) = &self.link else { return };
        if link.hello.due(applying).is_none_or(|at| now.mono < at) {
            return;
        }
        let message = match &link.hello {
            Hello::Sent { message, .. } => message.clone(),
            Hello::Due(_) | Hello::Done => Box::new(self.hello_message(now)),
        };
        let again_at = now.mono.saturating_add(self.limits.retransmit_after);
        if let Some(link) = &mut self.link {
            link.hello = Hello::Sent { message: message.clone(), again_at };
        }
        self.effects.push_back(EdgeEffect::Send(message));
    }

    /// Sets or clears the wish for a certificate; a wish with another CSR replaces the one before.
    pub fn handle_signing_request(&mut self, kind: SigningKind, request: Option<SigningRequest>, now: Now) {
        match request {
            None => {
                self.signing.remove(&kind);
            }
            Some(request) if self.signing.get(&kind).is_some_and(|known| known.request == request) => {}
            Some(request) => {
                let state = SigningState::Due(now.mono);
                self.signing.insert(kind, Signing { request, state, error: None });
                self.send_signing_when_due(now);
            }
        }
    }

    pub(super) fn send_signing_when_due(&mut self, now: Now) {
        if self.link.is_none() {
            return;
        }
        let again_at = now.mono.saturating_add(self.limits.retransmit_after);
        for (kind, signing) in &mut self.signing {
            if signing.due().is_none_or(|at| now.mono < at) {
                continue;
            }
            let message = match &signing.state {
                SigningState::Sent { message, .. } => message.clone(),
                SigningState::Due(_) | SigningState::Installing => {
                    let route = Route::new("edgehub", "resource", operation::QUERY, kind.resource());
                    let mut message = Message::new(&mut self.ids, now, route, signing.request.content());
                    message.header.sync = true;
                    Box::new(message)
                }
            };
            signing.state = SigningState::Sent { message: message.clone(), again_at };
            self.effects.push_back(EdgeEffect::Send(message));
        }
    }

    pub(super) fn answered_signing(&self, parent: &str) -> Option<SigningKind> {
        let is_answer = |signing: &Signing| matches!(&signing.state, SigningState::Sent { message, .. } if message.header.id == parent);
        self.signing.iter().find(|(_, signing)| is_answer(signing)).map(|(kind, _)| *kind)
    }

    pub(super) fn handle_signing_answer(
        &mut self,
        kind: SigningKind,
        message: &Message,
        refused: bool,
        now: Now,
    ) {
        let Some(signing) = self.signing.get_mut(&kind) else { return };
        let later = now.mono.saturating_add(self.limits.refused_retry_after);
        if refused {
            signing.state = SigningState::Due(later);
            signing.error =
                Some(format!("the cloud refused {}: {}", kind.resource(), text_of(&message.content)));
            return;
        }
        match SignedChain::parse(&message.content) {
            Ok(signed) => {
                signing.state = SigningState::Installing;
                self.effects.push_back(EdgeEffect::Install(kind, signed));
            }
            Err(reason) => {
                signing.state = SigningState::Due(later);
                let text = format!("the cloud's answer to {} is malformed: {reason}", kind.resource());
                signing.error = Some(text);
            }
        }
    }

    /// Takes in the result of the last [`EdgeEffect::Install`] of this kind; an error is tried again later.
    pub fn handle_installed(&mut self, kind: SigningKind, result: Result<(), String>, now: Now) {
        let Some(signing) = self.signing.get_mut(&kind) else { return };
        if !matches!(signing.state, SigningState::Installing) {
            return;
        }
        match result {
            Ok(()) => {
                self.signing.remove(&kind);
                self.last_error = None;
            }
            Err(reason) => {
                signing.state = SigningState::Due(now.mono.saturating_add(self.limits.refused_retry_after));
                signing.error = Some(format!("the certificate of {} is unusable: {reason}", kind.resource()));
            }
        }
    }
}
