//! `midge node …`: the boxes that have joined a cloud, and the agents beside a box, which are known by their IDs.

use super::admin::{Admin, spiffe_id};
use crate::cli::NodeCommand;
use crate::exit::{self, failure};
use crate::output::{self, Output};
use midge_api::midge::v1::{ListNodesRequest, Node};
use midge_api::spire::api::server::agent::v1::{BanAgentRequest, DeleteAgentRequest};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) async fn run(admin: &Admin, command: NodeCommand, output: Output) -> anyhow::Result<()> {
    match command {
        NodeCommand::List => list(&nodes(admin).await?, output),
        NodeCommand::Show { node } => show(find(&nodes(admin).await?, &node)?, output),
        NodeCommand::Ban { node } => {
            let request = BanAgentRequest { id: Some(spiffe_id(&id_of(admin, &node).await?)?) };
            let banned = admin.agents().await?.ban_agent(request).await;
            banned.map_err(|status| unknown(admin.error(&status), &node))?;
            done("banned", &node, &format!("until `midge node delete {node}` it is let in no more"), output)
        }
        NodeCommand::Delete { node } => {
            let request = DeleteAgentRequest { id: Some(spiffe_id(&id_of(admin, &node).await?)?) };
            let deleted = admin.agents().await?.delete_agent(request).await;
            deleted.map_err(|status| unknown(admin.error(&status), &node))?;
            done("deleted", &node, "a box joins again with a new token, an agent at once", output)
        }
    }
}

/// SPIRE's message does not say which agent, nor what to do.
fn unknown(error: anyhow::Error, node: &str) -> anyhow::Error {
    let text = error.to_string();
    if !text.ends_with("agent not found") {
        return error;
    }
    let where_from =
        "`midge node list` at a cloud lists them; at a box write the agent's own ID, …/agent/<name>";
    failure(exit::NO, format!("{text}: {node}; {where_from}"))
}

async fn nodes(admin: &Admin) -> anyhow::Result<Vec<Node>> {
    let response = admin.midge().await?.list_nodes(ListNodesRequest {}).await;
    Ok(response.map_err(|status| admin.error(&status))?.into_inner().nodes)
}

/// The SPIFFE ID of a node, which may be given by its name at a cloud.
async fn id_of(admin: &Admin, wanted: &str) -> anyhow::Result<String> {
    if wanted.starts_with("spiffe://") {
        return Ok(wanted.to_owned());
    }
    Ok(find(&nodes(admin).await?, wanted)?.spiffe_id.clone())
}

/// A node by its name or its SPIFFE ID.
fn find<'a>(nodes: &'a [Node], wanted: &str) -> anyhow::Result<&'a Node> {
    nodes.iter().find(|node| node.name == wanted || node.spiffe_id == wanted).ok_or_else(|| {
        failure(exit::NO, format!("no node {wanted} has joined; `midge node list` shows those that have"))
    })
}

fn done(what: &str, name: &str, then: &str, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&serde_json::json!({ what: name }));
    }
    output::line(format_args!("Node {name} is {what}; {then}"));
    Ok(())
}

fn list(nodes: &[Node], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(&serde_json::json!({ "nodes": nodes }));
    }
    let now = now_ms();
    let row = |node: &Node| {
        let (state, pending) = (state(node), node.pending.to_string());
        vec![
            node.name.clone(),
            state.into(),
            ago(node.since_ms, now),
            ends(node.ca_not_after_ms, now),
            pending,
        ]
    };
    output::table(
        &["NODE", "STATE", "SINCE", "CA ENDS", "PENDING"],
        &nodes.iter().map(row).collect::<Vec<_>>(),
    );
    Ok(())
}

fn show(node: &Node, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return output::json(node);
    }
    let now = now_ms();
    output::fields(&[
        ("Node", node.name.clone()),
        ("SPIFFE ID", node.spiffe_id.clone()),
        ("State", state(node).into()),
        ("Since", ago(node.since_ms, now)),
        ("Remote", node.remote.clone()),
        ("Joined", ago(node.joined_at_ms, now)),
        ("CA ends", ends(node.ca_not_after_ms, now)),
        ("Pending", format!("{} changes", node.pending)),
    ]);
    Ok(())
}

fn state(node: &Node) -> &'static str {
    match (node.banned, node.connected) {
        (true, _) => "banned",
        (false, true) => "connected",
        (false, false) => "away",
    }
}

/// How long ago something was; a dash for what never was.
fn ago(at_ms: i64, now_ms: i64) -> String {
    if at_ms == 0 { "-".into() } else { format!("{} ago", span_ms(now_ms.saturating_sub(at_ms))) }
}

/// When a CA ends; a dash where there is none yet.
fn ends(at_ms: i64, now_ms: i64) -> String {
    match at_ms {
        0 => "-".into(),
        _ if at_ms <= now_ms => "ended".into(),
        _ => format!("in {}", span_ms(at_ms.saturating_sub(now_ms))),
    }
}

fn span_ms(ms: i64) -> String {
    output::span(u64::try_from(ms / 1_000).unwrap_or_default())
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_name_or_id_and_their_state_is_one_word() {
        let node = |name: &str, connected, banned| {
            let spiffe_id = format!("spiffe://t/edge/{name}");
            Node { name: name.into(), spiffe_id, connected, banned, ..Node::default() }
        };
        let nodes = [node("a", true, false), node("b", false, false), node("c", true, true)];
        let states: Vec<&str> = nodes.iter().map(state).collect();
        assert_eq!(states, ["connected", "away", "banned"]);
        assert_eq!(find(&nodes, "b").unwrap().name, "b");
        assert_eq!(find(&nodes, "spiffe://t/edge/c").unwrap().name, "c");
        assert!(find(&nodes, "d").unwrap_err().to_string().contains("no node d has joined"));
    }

    #[test]
    fn times_are_told_from_now() {
        assert_eq!((ago(0, 5_000), ago(2_000, 5_000)), ("-".into(), "3 s ago".into()));
        assert_eq!((ends(0, 5_000), ends(5_000, 5_000)), ("-".into(), "ended".into()));
        assert_eq!(ends(65_000, 5_000), "in 1 min");
    }
}
