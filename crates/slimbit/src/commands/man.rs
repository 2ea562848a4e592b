//! `slimbit man`: the help of every command as a manual page.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use slimbit_engine::replace_file;

use super::Outcome;
use super::output::{self, Product};
use crate::cli::{Cli, ManArgs};
use crate::console::{count, say};
use crate::version;

pub(super) fn execute(args: &ManArgs) -> Result<Outcome> {
    output::check_folder(&args.out)?;
    let pages = pages()?;
    fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    for (name, _) in &pages {
        output::check_file(&args.out.join(name), Product::Manual, &[])?;
    }
    for (name, text) in &pages {
        write(&args.out.join(name), text)?;
    }
    say!("{}: {}", args.out.display(), count(pages.len(), "page"))?;
    Ok(Outcome::Done)
}

/// The pages, by the names of their files.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command().disable_help_subcommand(true);
    // Gives every command the options that all have.
    root.build();
    std::iter::once(&root)
        .chain(root.get_subcommands())
        .map(page)
        .collect()
}

fn page(command: &Command) -> Result<(String, Vec<u8>)> {
    // The long version says what this machine can do, and a page may be read on another.
    let command = command.clone().version(version::SHORT).long_version(None);
    let source = format!("slimbit {}", version::SHORT);
    let page = clap_mangen::Man::new(command).source(source);
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok((page.get_filename(), text))
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    replace_file(path, text).with_context(|| format!("writing {}", path.display()))
}
