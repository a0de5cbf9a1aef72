//! The site's token: made, shown, and taken over from another machine.

use std::io::{self, Read};

use anyhow::{Context, bail};
use imirror_protocol::token::Token;
use serde::Serialize;

use super::{WrongUsage, control};
use crate::cluster::identity;
use crate::config::{ConfigError, Loaded};

/// A token has 43 characters; more than this is something else.
const TOKEN_MAX: u64 = 4096;

/// What there is to say of a site.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// The public name of the site.
    id: String,
    /// The secret.
    token: String,
    /// What to type on another machine.
    join: String,
}

impl Shown {
    fn of(token: &Token) -> Self {
        let spelled = token.spelled();
        Self { id: token.site_id().to_string(), join: format!("imirror join {spelled}"), token: spelled }
    }
}

pub(super) fn screen(shown: &Shown) -> String {
    format!(
        "site    {}\ntoken   {}\n\nWho has the token is a member: keep it as you would a password.\nAnother machine joins by: {}\n",
        shown.id, shown.token, shown.join
    )
}

/// Makes a token and keeps it.
pub(super) fn found(loaded: &Loaded, force: bool) -> anyhow::Result<Shown> {
    let token = identity::new_token()?;
    keep(loaded, &token, force)?;
    Ok(Shown::of(&token))
}

/// The token of this machine's site.
pub(super) fn show(loaded: Loaded) -> anyhow::Result<Shown> {
    match (loaded.token_problem, loaded.config.site.token) {
        (Some(problem), _) => Err(ConfigError(vec![problem]).into()),
        (None, Some(token)) => Ok(Shown::of(&token)),
        (None, None) => {
            bail!("this machine is in no site yet: start the node, or type `imirror site new` or `imirror join TOKEN`")
        }
    }
}

/// Keeps the token of another machine; says what is to be done now.
pub(super) fn join(loaded: &Loaded, text: &str) -> anyhow::Result<String> {
    let text = match text {
        "-" => {
            let mut text = String::new();
            io::stdin().take(TOKEN_MAX).read_to_string(&mut text).context("no token could be read")?;
            text
        }
        text => text.to_owned(),
    };
    let token = Token::parse(&text)
        .map_err(|bad| WrongUsage(format!("{bad}; `imirror site show` says it on a machine of the site")))?;
    let already = loaded.config.site.token.as_ref() == Some(&token);
    if !already {
        keep(loaded, &token, true)?;
    }
    let is_running = control::ask(&loaded.config.socket, "GET", "/-/api/status").is_ok();
    let then = match (already, is_running) {
        (true, _) => "it was part of it already",
        (false, true) => "restart the node now: systemctl restart imirror, or stop it and start it again",
        (false, false) => "start the node now: systemctl start imirror, or imirror run",
    };
    Ok(format!("this machine is part of site {}; {then}\n", token.site_id()))
}

fn keep(loaded: &Loaded, token: &Token, replace: bool) -> anyhow::Result<()> {
    let configured = |key: &str| loaded.shown.iter().find(|shown| shown.key == key && shown.value.is_some());
    if let Some(shown) = configured("site.token").or_else(|| configured("site.token_file")) {
        bail!("the token is set by `{}` ({}): change or remove that", shown.key, shown.origin);
    }
    identity::keep_token(&loaded.config.state_dir, token, replace)
}
