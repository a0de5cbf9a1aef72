//! apt: a program that tells it for each run which node answers, and the line that names that program. Pure.
//!
//! apt takes the path of a program without arguments and a failure of it for its own, so the program is a script that never
//! fails. What it prints goes before any proxy that is configured otherwise; when it prints nothing, that one counts.

use std::path::Path;

/// Relative to the root.
pub(super) const SETTINGS: &str = "etc/apt/apt.conf.d/30imirror";
pub(super) const SCRIPT: &str = "etc/apt/imirror-proxy-detect";

/// In the files that are ours as a whole.
pub(super) const MARK: &str = "Written by `imirror client-config apt --apply`";

/// The line for apt; the path is that of the script as apt sees it.
pub(super) fn settings(script: &Path) -> String {
    format!("// {MARK}; --undo takes it away.\nAcquire::http::Proxy-Auto-Detect \"{}\";\n", script.display())
}

/// The nodes are names of hosts with ports: nothing in them means anything to a shell.
pub(super) fn script(nodes: &[String]) -> String {
    let flags: Vec<String> = nodes.iter().map(|node| format!("--node {node}")).collect();
    format!(
        "#!/bin/sh
# {MARK}; --undo takes it away.
# apt runs this for each host that it is going to ask. It prints the first node that answers, and nothing when none does:
# then apt goes on as without this file.
if command -v imirror >/dev/null; then
  node=$(imirror apt-proxy-detect {flags} 2>/dev/null)
  case \"$node\" in http:*) echo \"$node\" ;; esac
  exit 0
fi
answer=$(mktemp) || exit 0
trap 'rm -f \"$answer\"' EXIT
for node in {nodes}; do
  if /usr/lib/apt/apt-helper -o Acquire::http::Proxy-Auto-Detect= -o Acquire::http::Proxy=DIRECT -o Acquire::Retries=0 \\
    -o Acquire::http::Timeout=1 download-file \"http://$node/-/health\" \"$answer\" >/dev/null 2>&1 &&
    [ \"$(cat \"$answer\")\" = ok ]; then
    echo \"http://$node/\"
    break
  fi
done
exit 0
",
        flags = flags.join(" "),
        nodes = nodes.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_reads_and_runs() {
        insta::assert_snapshot!(settings(Path::new("/etc/apt/imirror-proxy-detect")), @r#"
        // Written by `imirror client-config apt --apply`; --undo takes it away.
        Acquire::http::Proxy-Auto-Detect "/etc/apt/imirror-proxy-detect";
        "#);
        let script = script(&["lab1:3142".into(), "[2001:db8::1]:3142".into()]);
        assert!(script.contains("apt-proxy-detect --node lab1:3142 --node [2001:db8::1]:3142 2>"), "{script}");
        assert!(script.contains("for node in lab1:3142 [2001:db8::1]:3142; do\n"), "{script}");
    }
}
