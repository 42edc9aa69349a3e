//! Attestation off the tasks that serve sockets, so that no user's processes can hold up others.

use super::{AttestError, Attestor, LocalPeer, Needs};
use issuer_core::Selector;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task, time};

// A large executable on a slow card takes its time.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Attestations of one user that run at once; further ones wait.
pub const ATTESTATIONS_PER_UID_MAX: usize = 4;

/// Runs attestations on threads of their own, a few per user at once.
///
/// Reading an executable may hang for ever: its file system may be one in user space. A thread
/// that hangs keeps its place, so a user can tie up only as many as he has places.
#[derive(Clone, Debug)]
pub struct AttestPool {
    attestor: Arc<Attestor>,
    per_uid_max: usize,
    timeout: Duration,
    by_uid: Arc<Mutex<BTreeMap<u32, Arc<Semaphore>>>>,
}

impl AttestPool {
    /// Returns a pool that runs so many attestations of one user at once.
    pub fn new(attestor: Attestor, per_uid_max: usize) -> Self {
        Self { attestor: Arc::new(attestor), per_uid_max, timeout: TIMEOUT, by_uid: Arc::default() }
    }

    /// Returns the selectors of the owner of a local socket, as [`Attestor::attest_local`] does.
    ///
    /// # Errors
    /// As that does, and when it takes longer than fifteen seconds.
    pub async fn attest_local(&self, peer: LocalPeer, needs: Needs) -> Result<Vec<Selector>, AttestError> {
        self.run(peer.uid, move |attestor| attestor.attest_local(&peer, needs)).await
    }

    pub(crate) async fn run<T: Send + 'static>(
        &self,
        uid: u32,
        work: impl FnOnce(&Attestor) -> Result<T, AttestError> + Send + 'static,
    ) -> Result<T, AttestError> {
        let attestor = Arc::clone(&self.attestor);
        let places = self.places(uid);
        let work = async move {
            let place = places.acquire_owned().await;
            task::spawn_blocking(move || {
                let _place = place;
                work(&attestor)
            })
            .await
        };
        match time::timeout(self.timeout, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => Err(AttestError::TimedOut { uid }),
            },
            Err(_elapsed) => Err(AttestError::TimedOut { uid }),
        }
    }

    fn places(&self, uid: u32) -> Arc<Semaphore> {
        let mut by_uid = self.by_uid.lock();
        // Whoever waits or runs holds the semaphore: what only the map holds can go.
        by_uid.retain(|_, places| Arc::strong_count(places) > 1);
        let places = by_uid.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(self.per_uid_max)));
        Arc::clone(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_hanging_attestation_costs_only_its_own_user() {
        let pool = AttestPool::new(Attestor::default(), 1);
        let (finish, hang) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel::<()>();
        let hanging = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(1, move |_| {
                    begun.send(()).unwrap();
                    hang.recv().unwrap();
                    Ok(())
                })
                .await
            }
        });
        task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
        assert_eq!(pool.run(2, |_| Ok(7)).await, Ok(7));
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(1, |_| Ok(8)).await }
        });
        task::yield_now().await;
        assert!(!waiting.is_finished());
        finish.send(()).unwrap();
        assert_eq!(hanging.await.unwrap(), Ok(()));
        assert_eq!(waiting.await.unwrap(), Ok(8));
    }

    #[tokio::test]
    async fn a_user_whose_places_all_hang_is_refused_in_time() {
        let mut pool = AttestPool::new(Attestor::default(), 1);
        pool.timeout = Duration::from_millis(20);
        let _taken = pool.places(1).acquire_owned().await.unwrap();
        assert_eq!(pool.run(1, |_| Ok(())).await, Err(AttestError::TimedOut { uid: 1 }));
    }

    #[tokio::test]
    async fn nothing_is_kept_of_users_who_are_done() {
        let pool = AttestPool::new(Attestor::default(), 1);
        for uid in 0..100 {
            pool.run(uid, |_| Ok(())).await.unwrap();
        }
        assert!(pool.by_uid.lock().len() <= 2);
    }
}
