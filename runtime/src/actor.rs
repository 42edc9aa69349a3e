//! On whose behalf a task acts.

use std::sync::Arc;

tokio::task_local! {
    static ACTOR: Actor;
}

/// On whose behalf the current task acts: set where a request comes in, read where a change is recorded. It
/// decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// User, as the kernel says.
    pub uid: u32,
    /// Process, as the kernel says.
    pub pid: Option<i32>,
    /// What was asked for.
    pub method: Arc<str>,
}

impl Actor {
    /// Runs a future on behalf of this actor. Tasks that it spawns are not.
    pub async fn scope<T>(self, act: impl Future<Output = T>) -> T {
        ACTOR.scope(self, act).await
    }

    /// Returns whoever the current task acts for; none when Midge acts by itself.
    pub fn current() -> Option<Self> {
        ACTOR.try_with(Clone::clone).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_actor_is_known_within_its_scope_only() {
        let actor = Actor { uid: 7, pid: Some(1), method: "x".into() };
        let inner = actor.clone().scope(async { Actor::current() }).await;
        assert_eq!((inner, Actor::current()), (Some(actor), None));
    }
}
