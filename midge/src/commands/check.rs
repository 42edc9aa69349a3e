//! `midge check`: whether a configuration could be started with.

use crate::config::{self, EdgeConfig, Role};
use crate::exit::{self, failure};
use crate::output::{self, Output};
use std::path::Path;

/// Checks a configuration file and, for an edge, the policy it names.
pub(crate) async fn run(path: &Path, output: Output) -> anyhow::Result<()> {
    let role = config::parse_any(path)?;
    if role == Role::Edge {
        let edge: EdgeConfig = config::load(path)?;
        let problems = crate::parts::policy::file_rules(&edge.policy, None).await.err();
        if let Some(problems) = problems {
            return Err(failure(exit::CONFIG, problems.to_string()));
        }
    }
    let name = role.name();
    match output {
        Output::Json => output::json(&serde_json::json!({ "file": path, "role": name, "valid": true })),
        Output::Pretty => {
            output::line(format_args!("{}: a valid configuration for `midge {name}`", path.display()));
            Ok(())
        }
    }
}
