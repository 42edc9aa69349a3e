//! The eleven steps.

mod cloud;
mod enrolment;
mod offline;
mod refusals;
mod topics;

use super::narrator::Narrator;
use super::stage::Stage;

/// How many steps there are.
pub(super) const COUNT: u32 = 11;

/// Plays them in order; an error is something that kept a step from being played at all.
pub(super) async fn play(stage: &mut Stage, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.step(1, "The edge enrols with a join token and gets its CA from the cloud");
    enrolment::enrol(stage, narrator).await?;
    narrator.step(2, "A workload without an entry has no identity");
    enrolment::nobody(stage, narrator).await?;
    narrator.step(3, "An entry created at the cloud gives a waiting workload its identity");
    enrolment::entry(stage, narrator).await?;
    narrator.step(4, "The mapper works the light, from the cloud and back");
    topics::light(stage, narrator).await?;
    narrator.step(5, "Mapper, app and event-bus each reach exactly their topics");
    topics::reach(stage, narrator).await?;
    narrator.step(6, "What is not permitted is refused and audited");
    refusals::topics(stage, narrator).await?;
    narrator.step(7, "Who is not known is refused at the door");
    refusals::door(stage, narrator).await?;
    narrator.step(8, "An unmodified MQTT client gets the identity of its uid, and nothing more");
    refusals::unmodified(stage, narrator).await?;
    narrator.step(9, "The cloud dies: the box goes on");
    offline::alone(stage, narrator).await?;
    narrator.step(10, "The cloud returns: what changed meanwhile arrives");
    let lease = cloud::lease_secs(stage).await?;
    cloud::returns(stage, narrator).await?;
    narrator.step(11, "The lease says how long the box can act alone");
    cloud::lease(stage, narrator, lease).await
}
