//! What to write on a client of each family (CLIENTS.md): for `imirror client-config` and the page.

/// A family of package managers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    Dnf,
    Apt,
    Zypper,
    Pacman,
    Apk,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Dnf, Self::Apt, Self::Zypper, Self::Pacman, Self::Apk];

    /// The package manager, and where it is at home.
    pub fn title(self) -> &'static str {
        match self {
            Self::Dnf => "dnf: Fedora, RHEL and their kin",
            Self::Apt => "apt: Debian, Ubuntu",
            Self::Zypper => "zypper: openSUSE, SLE",
            Self::Pacman => "pacman: Arch",
            Self::Apk => "apk: Alpine",
        }
    }

    /// The name by which the command line and people know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dnf => "dnf",
            Self::Apt => "apt",
            Self::Zypper => "zypper",
            Self::Pacman => "pacman",
            Self::Apk => "apk",
        }
    }
}

/// What to type on a client that has this program: it keeps what was there before, and the client goes on without the node
/// wherever it can.
pub fn command(family: Family, node: &str) -> String {
    format!("imirror client-config {} --node {node} --apply", family.name())
}

/// Lines to copy, with where they belong.
pub fn recipe(family: Family, node: &str) -> String {
    let lines = match family {
        Family::Dnf => format!(
            "# /etc/dnf/dnf.conf, section [main]\nproxy=http://{node}\n# Behind a proxy it would measure the proxy:\nfastestmirror=0\n\
             # Repositories over https are cached when asked for as http://{node}/HTTPS///HOST/PATH in `baseurl`.\n"
        ),
        Family::Apt => format!(
            "# /etc/apt/apt.conf.d/30imirror\nAcquire::http::Proxy \"http://{node}\";\n\
             # Repositories over https: write http://HTTPS///HOST/PATH instead of https://HOST/PATH in the sources.\n"
        ),
        Family::Zypper => format!(
            "# /etc/sysconfig/proxy\nPROXY_ENABLED=\"yes\"\nHTTP_PROXY=\"http://{node}\"\n\
             # or, for one repository, in /etc/zypp/repos.d/NAME.repo\n# baseurl=http://{node}/HOST/PATH\n"
        ),
        Family::Pacman => format!(
            "# /etc/pacman.conf, in each repository's section, above its Server or Include line;\n\
             # packages come from here, databases from the Server as well when it is listed like this:\n\
             CacheServer = http://{node}/MIRROR-HOST/PATH/$repo/os/$arch\nServer = http://{node}/MIRROR-HOST/PATH/$repo/os/$arch\n"
        ),
        Family::Apk => format!(
            "# /etc/apk/repositories: put the node in front of the mirror\nhttp://{node}/MIRROR-HOST/PATH/main\n\
             # or, for a shell\n# export http_proxy=http://{node}\n"
        ),
    };
    let meaning = match family {
        // It has no way round a server whose index it keeps.
        Family::Apk => "and the mirror stays below the node",
        _ => "and so that it goes on without the node",
    };
    format!("{lines}# With imirror on the client, {meaning}:\n# {}\n", command(family, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_names_the_node_and_the_file() {
        for (family, file) in [
            (Family::Dnf, "/etc/dnf/dnf.conf"),
            (Family::Apt, "/etc/apt/apt.conf.d/"),
            (Family::Zypper, "/etc/sysconfig/proxy"),
            (Family::Pacman, "/etc/pacman.conf"),
            (Family::Apk, "/etc/apk/repositories"),
        ] {
            let recipe = recipe(family, "lab1:3142");
            assert!(recipe.contains(file) && recipe.contains("http://lab1:3142"), "{recipe}");
            assert!(recipe.contains(&format!("# imirror client-config {} --node lab1:3142 --apply\n", family.name())));
        }
    }
}
