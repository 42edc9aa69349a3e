//! Policy files: which there are, what is in them, and whether they have changed.

use super::reader::{Place, Reader, read_regular};
use super::state::Fault;
use midge_policy::{DEFAULT_POLICY, DEFAULT_POLICY_NAME};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Bytes of the policy files of a directory together.
pub(crate) const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The policy files of a directory.
#[derive(Debug)]
pub(super) struct Files {
    /// None where no directory is configured.
    reader: Option<Reader>,
    /// As last read, and as last looked at.
    taken: Marks,
    seen: Marks,
    /// Whether they were not to be read in time, so that nobody knows what they are.
    is_late: bool,
}

/// The built-in rules: their text, if they apply.
#[derive(Clone, Debug)]
pub(super) struct Builtin(Option<Cow<'static, str>>);

impl Builtin {
    /// Where identities of other trust domains are admitted, the built-in rules speak of the own one alone: nobody has
    /// written them for others, whose devices and event bus are not this box's. What they deny, they deny everyone.
    pub(super) fn new(applies: bool, own: Option<&str>) -> Self {
        let bound =
            |own: &str| DEFAULT_POLICY.replace("\"spiffe://{td}/", &format!("\"spiffe://{own}/")).into();
        Self(applies.then(|| own.map_or(Cow::Borrowed(DEFAULT_POLICY), bound)))
    }

    /// Returns their name and text.
    pub(super) fn text(&self) -> Option<(&str, &str)> {
        self.0.as_deref().map(|text| (DEFAULT_POLICY_NAME, text))
    }
}

/// What tells whether policy files have changed without reading them; unset where they cannot be listed.
type Marks = Option<Vec<(PathBuf, Option<SystemTime>, u64)>>;

/// What is in a directory.
#[derive(Debug)]
pub(super) struct Found {
    marks: Marks,
    texts: Texts,
}

/// Policy files by name, or why they cannot be read.
pub(super) type Texts = Result<Vec<(String, String)>, Vec<Fault>>;

/// Policy files as they were read.
#[derive(Debug)]
pub(super) struct Read {
    /// Whether there is a file at all, as far as it is known.
    pub(super) are_there: bool,
    pub(super) texts: Texts,
}

impl Files {
    /// Returns files of which nothing is known before they are read.
    pub(super) fn new(dir: Option<&Path>) -> Self {
        Self { reader: dir.map(Reader::new), taken: None, seen: None, is_late: false }
    }

    /// Looks whether there is something to take over, and reads it. That is so once two looks find the same: who writes
    /// the files may be in the middle of it, and half a policy could be valid. Files that do not answer are told once, and
    /// read again when they do.
    pub(super) async fn look(&mut self) -> Option<Read> {
        match self.reader.as_mut()?.ask(false).await {
            Ok(Found { marks, .. }) => {
                let has_changed = marks == self.seen && (self.is_late || marks != self.taken);
                self.seen = marks;
                if has_changed { Some(self.read().await) } else { None }
            }
            Err(late) => {
                let was_late = std::mem::replace(&mut self.is_late, true);
                (!was_late).then(|| Read { are_there: true, texts: Err(vec![late]) })
            }
        }
    }

    /// Reads the files.
    pub(super) async fn read(&mut self) -> Read {
        let Some(reader) = &mut self.reader else { return Read { are_there: false, texts: Ok(Vec::new()) } };
        let found = reader.ask(true).await;
        self.is_late = found.is_err();
        match found {
            Ok(Found { marks, texts }) => {
                let are_there = marks.as_ref().is_some_and(|marks| !marks.is_empty());
                self.taken = marks;
                Read { are_there, texts }
            }
            Err(late) => Read { are_there: true, texts: Err(vec![late]) },
        }
    }

    /// Has another thread read the files.
    #[cfg(test)]
    pub(super) fn read_by(&mut self, reader: Reader) {
        self.reader = Some(reader);
    }
}

/// Finds what is in a directory now, with the texts or without. May wait for its file system for ever.
pub(super) fn find(dir: &Path, with_texts: bool, place: &Place) -> Found {
    dir.clone_into(&mut place.lock());
    let marks = policy_files(dir).ok().map(|files| {
        let mark = |file: PathBuf| {
            file.clone_into(&mut place.lock());
            let metadata = std::fs::metadata(&file).ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            (file, modified, metadata.map_or(0, |metadata| metadata.len()))
        };
        files.into_iter().map(mark).collect()
    });
    dir.clone_into(&mut place.lock());
    Found { marks, texts: if with_texts { read(dir, place) } else { Ok(Vec::new()) } }
}

fn read(dir: &Path, place: &Place) -> Texts {
    let unlisted = |error| {
        vec![Fault::new(dir.display(), format!("cannot read the policy directory (policy.dir): {error}"))]
    };
    let (mut texts, mut room) = (Vec::new(), BYTES_MAX);
    for file in policy_files(dir).map_err(unlisted)? {
        file.clone_into(&mut place.lock());
        let unread =
            |error: &dyn std::fmt::Display| vec![Fault::new(file.display(), format!("cannot read: {error}"))];
        let bytes = read_regular(&file, room).map_err(|error| unread(&error))?;
        room = room.saturating_sub(bytes.len() as u64);
        let text = String::from_utf8(bytes).map_err(|error| unread(&error.utf8_error()))?;
        texts.push((file.display().to_string(), text));
    }
    Ok(texts)
}

/// Returns the policy files of a directory in the order in which they are read.
pub(crate) fn policy_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::super::take_files;
    use super::*;
    use midge_identity::SpiffeId;
    use midge_policy::PublishFacts;
    use mqtt_proto::TopicName;

    #[test]
    fn built_in_rules_give_identities_of_other_trust_domains_nothing() {
        let publishes = |own: Option<&str>, id: &str, topic: &str| {
            let mut sources = midge_policy::Sources::default();
            take_files(&mut sources, Ok(Vec::new()), &Builtin::new(true, own)).unwrap();
            assert_eq!(sources.counts().builtin, 6);
            let rights = sources.policy().rights(&SpiffeId::new(id).unwrap());
            rights.publish(&TopicName::new(topic).unwrap(), PublishFacts::default()).is_ok()
        };
        let own = Some("plant.example");
        for (path, topic) in [
            ("event-bus", "$hw/events/device/led/twin/update/delta"),
            ("mapper/led", "$hw/events/device/led/twin/update"),
            ("mapper/led", "$hw/events/node/box-1/membership/get"),
        ] {
            let of = |trust_domain: &str| format!("spiffe://{trust_domain}/edge/box-1/{path}");
            assert!(publishes(own, &of("plant.example"), topic), "{path}");
            assert!(!publishes(own, &of("other.org"), topic), "{path}");
            assert!(publishes(None, &of("plant.example"), topic), "{path}");
        }
    }
}
