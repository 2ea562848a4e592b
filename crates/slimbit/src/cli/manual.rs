//! Arguments of what makes the program easier to use.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit completions bash > ~/.local/share/bash-completion/completions/slimbit
  slimbit completions zsh > ~/.zfunc/_slimbit          with ~/.zfunc in zsh's fpath
  slimbit completions fish > ~/.config/fish/completions/slimbit.fish")]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit man --out ~/.local/share/man/man1            then: man slimbit-pretrain")]
pub struct ManArgs {
    /// Folder for slimbit.1 and a page for every command; it is made where it is missing.
    #[arg(long)]
    pub out: PathBuf,
}
