//! A thread that reads policy files: whatever a file or its file system does to who reads it, nothing else waits for it,
//! nor does the end of the process.

use super::files::{Found, find};
use super::state::Fault;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the files of a directory may take.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(5);

/// Reads the files of one directory, in a thread of its own.
#[derive(Debug)]
pub(super) struct Reader {
    questions: mpsc::Sender<Question>,
    /// What was not answered in time. While that is so nothing more is asked: there is one thread, however long it hangs.
    late: Option<oneshot::Receiver<Found>>,
    /// What the thread is at.
    place: Place,
    within: Duration,
}

/// Whether the texts are wanted too, and who wants to know.
type Question = (bool, oneshot::Sender<Found>);

/// Where a reader is.
pub(super) type Place = Arc<Mutex<PathBuf>>;

impl Reader {
    pub(super) fn new(dir: &Path) -> Self {
        let owned = dir.to_owned();
        Self::of(dir, READ_WITHIN, move |with_texts, place| find(&owned, with_texts, place))
    }

    /// Returns a reader that finds what is there in its own way.
    pub(super) fn of(
        dir: &Path,
        within: Duration,
        mut find: impl FnMut(bool, &Place) -> Found + Send + 'static,
    ) -> Self {
        let (sender, questions) = mpsc::channel::<Question>();
        let place = Place::new(Mutex::new(dir.to_owned()));
        let at = Arc::clone(&place);
        let work = move || {
            for (with_texts, asked) in questions {
                // Who asked may have given up.
                drop(asked.send(find(with_texts, &at)));
            }
        };
        // No task of the runtime: the process waits for those when it ends. One that cannot be started answers nothing,
        // which is told.
        drop(std::thread::Builder::new().name("policy-files".into()).spawn(work));
        Self { questions: sender, late: None, place, within }
    }

    /// Returns what is there.
    ///
    /// # Errors
    /// When there was no answer in time, at once as long as a former question has none.
    pub(super) async fn ask(&mut self, with_texts: bool) -> Result<Found, Fault> {
        if let Some(late) = &mut self.late {
            if matches!(late.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                return Err(self.overdue());
            }
            self.late = None;
        }
        let (asked, mut answer) = oneshot::channel();
        let ended = |place: &Place| Fault::new(place.lock().display(), "nothing reads it: restart".into());
        if self.questions.send((with_texts, asked)).is_err() {
            return Err(ended(&self.place));
        }
        match tokio::time::timeout(self.within, &mut answer).await {
            Ok(answered) => answered.map_err(|_| ended(&self.place)),
            Err(_) => {
                self.late = Some(answer);
                Err(self.overdue())
            }
        }
    }

    fn overdue(&self) -> Fault {
        Fault::new(self.place.lock().display(), overdue(self.within))
    }
}

/// Says that something was not read in time.
pub(crate) fn overdue(within: Duration) -> String {
    format!("cannot read it within {} s: its file system does not answer", within.as_secs_f32())
}

/// Reads a regular file of no more than `max` bytes. Nothing else is opened: a pipe or a device may keep its reader waiting
/// for ever, or have no end.
pub(crate) fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Before it is opened, which is enough for some devices to do something.
    ask_regular(&std::fs::metadata(path)?)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    // It may have become something else meanwhile.
    ask_regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let text = format!("policy files are longer than {} MiB together", super::files::BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

fn ask_regular(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "directory",
        () if kind.is_fifo() => "named pipe",
        () if kind.is_socket() => "socket",
        () => "device",
    };
    let text = format!("it is a {what} and no regular file; remove it, or name it otherwise than *.toml");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}
