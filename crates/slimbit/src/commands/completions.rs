use anyhow::Result;
use clap::CommandFactory;

use super::Outcome;
use crate::cli::{Cli, CompletionsArgs};
use crate::console;

pub(super) fn execute(args: &CompletionsArgs) -> Result<Outcome> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "slimbit", &mut text);
    console::print_exactly(&String::from_utf8(text)?)?;
    Ok(Outcome::Done)
}
