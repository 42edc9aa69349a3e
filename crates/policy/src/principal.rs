//! One identity under one policy, which its connections share.

use crate::policy::applying;
use crate::rights::Standing;
use crate::{CheckedRule, Context, Rights};
use midge_identity::SpiffeId;
use std::collections::HashMap;
use std::sync::Arc;

/// One identity and the rules that speak of it under one policy: what to keep per identity, since all
/// connections that the same rules hold for share one [`Rights`].
#[derive(Debug)]
pub struct Principal {
    epoch: u64,
    id: SpiffeId,
    rules: Vec<CheckedRule>,
    depends: bool,
    /// By how the rules stand that depend on the connection. As many as operators wrote conditions
    /// for, whatever client ids there are.
    rights: HashMap<Vec<Standing>, Arc<Rights>>,
}

impl Principal {
    pub(crate) fn new(epoch: u64, id: SpiffeId, rules: Vec<CheckedRule>) -> Self {
        let depends = rules.iter().any(CheckedRule::depends_on_connection);
        Self { epoch, id, rules, depends, rights: HashMap::new() }
    }

    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Tells whether rights may differ between its connections.
    pub fn depends_on_connection(&self) -> bool {
        self.depends
    }

    /// Returns what the identity may do on a connection: the same value as before wherever the same
    /// rules hold.
    pub fn rights(&mut self, context: Context<'_>) -> Arc<Rights> {
        let standings = self.standings(context);
        if let Some(rights) = self.rights.get(&standings) {
            return Arc::clone(rights);
        }
        let rules: Vec<&CheckedRule> = self.rules.iter().collect();
        let rights = Arc::new(Rights::of(self.epoch, &self.id, &applying(&rules, &self.id, context)));
        self.rights.insert(standings, Arc::clone(&rights));
        rights
    }

    fn standings(&self, context: Context<'_>) -> Vec<Standing> {
        if !self.depends {
            return Vec::new();
        }
        let depending = self.rules.iter().filter(|rule| rule.depends_on_connection());
        depending.filter_map(|rule| Some(rule.standing(context, &rule.bind(&self.id)?))).collect()
    }
}
