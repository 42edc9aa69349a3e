//! What of a log is signed, as its lines say and not as somebody's note does: the files may have been anybody's while no
//! process wrote them.

use crate::error::AuditError;
use crate::files::files;
use crate::head::SignedHead;
use crate::read::each_line;
use audit_core::{Hash, Line, checkpoint_holds, event, fingerprint};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Files that are read: the last checkpoint is in the newest, or ends the one before it.
const FILES: usize = 2;
/// Checkpoints that are tried before it is said that none holds.
const TRIED_MAX: usize = 64;
/// Where the name of an event is found in a line, at the latest.
const START: usize = 192;

/// How far a log is signed.
#[derive(Debug, Default)]
pub(crate) struct SignedTo {
    /// The last checkpoint that holds; 0 when none was found.
    pub(crate) seq: u64,
    /// The note of the last checkpoint names one that holds, or is of a first start that did not come to one.
    pub(crate) is_noted: bool,
}

#[derive(Debug, Default)]
struct Scan {
    /// The last lines that claim to be checkpoints, and the one that the note names.
    last: VecDeque<Vec<u8>>,
    noted: Option<Vec<u8>>,
    /// Keys that the lines name and the note as well.
    keys: Vec<Vec<u8>>,
    /// There is a line that is not of a start.
    has_events: bool,
}

/// Reads how far the newest files of `log` are signed, with this key (a SubjectPublicKeyInfo) or the one that `known` names.
pub(crate) fn signed_to(
    active: &Path,
    log: &str,
    spki: &[u8],
    known: Option<&SignedHead>,
) -> Result<SignedTo, AuditError> {
    let list = files(active).map_err(AuditError::io(active))?;
    let newest: Vec<PathBuf> = list.into_iter().rev().take(FILES).rev().collect();
    let mut scan = Scan::default();
    each_line(&newest, |bytes| scan.line(bytes, known))?;
    scan.keys.push(spki.to_vec());
    let place = |bytes: &Vec<u8>| {
        let line = Line::parse(bytes).ok()?;
        let holds =
            scan.keys.iter().any(|key| checkpoint_holds(bytes, &line, log, key, midge_pki::verify_message));
        holds.then_some(line.seq)
    };
    let seq = scan.last.iter().rev().find_map(place).unwrap_or_default();
    let is_noted = match known.map(|known| &known.head) {
        None => false,
        Some(head) if head.log != log => false,
        // It is noted before the first line is written, and again after the first checkpoint.
        Some(head) if head.seq == 0 => !scan.has_events,
        Some(_) => scan.noted.as_ref().is_some_and(|line| place(line).is_some()),
    };
    Ok(SignedTo { seq, is_noted })
}

impl Scan {
    fn line(&mut self, bytes: &[u8], known: Option<&SignedHead>) {
        if claims(bytes, event::CHECKPOINT) {
            if known.is_some_and(|known| known.head.hash == Hash::of(bytes)) {
                self.noted = Some(bytes.to_vec());
            }
            if self.last.len() == TRIED_MAX {
                self.last.pop_front();
            }
            self.last.push_back(bytes.to_vec());
            return;
        }
        let names_key =
            [event::CREATED, event::OPENED, event::KEY_CHANGED].iter().any(|name| claims(bytes, name));
        let of_start = [event::RESUMED, event::REPAIRED, event::HEAD_MISSING, event::HEAD_INVALID];
        self.has_events |= !names_key && !of_start.iter().any(|name| claims(bytes, name));
        let key = names_key.then(|| Line::parse(bytes).ok()).flatten();
        let key = key.and_then(|line| STANDARD.decode(line.text("public-key")?).ok());
        self.keys.extend(
            key.filter(|key| known.is_some_and(|known| known.key == fingerprint(key)))
                .filter(|key| !self.keys.contains(key)),
        );
    }
}

/// Tells whether a line claims to be of this event.
pub(crate) fn claims(bytes: &[u8], event: &str) -> bool {
    let start = bytes.get(..START).unwrap_or(bytes);
    let wanted = format!(",\"event\":\"{event}\"");
    start.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}
