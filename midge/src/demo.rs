//! `midge demo`: the main job, end to end, with real processes on this machine.
//!
//! Every step does what an operator would do, by the same commands, and checks what came of it.

#![expect(clippy::indexing_slicing, reason = "a JSON value yields null where there is nothing")]

mod certificates;
mod narrator;
mod process;
mod stage;
mod steps;

use crate::cli::DemoArgs;
use crate::exit;
use crate::output::Output;
use narrator::Narrator;
use stage::Stage;
use std::process::ExitCode;

/// Plays all steps; the exit code is 0 only if every check held.
pub(crate) async fn run(arguments: &DemoArgs, output: Output) -> anyhow::Result<ExitCode> {
    let mut narrator = Narrator::new(output, arguments.step);
    let mut stage = Stage::set(&narrator)?;
    let played = steps::play(&mut stage, &mut narrator).await;
    if let Err(error) = &played {
        narrator.stumbled(error);
        narrator.note(&stage.last_words());
    }
    let all_held = narrator.finish() && played.is_ok();
    if arguments.keep {
        stage.keep(&narrator).await?;
    }
    Ok(if all_held { ExitCode::SUCCESS } else { ExitCode::from(exit::NO) })
}
