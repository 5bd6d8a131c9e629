//! Where this machine gets its Debian packages, read from its own apt sources.
//!
//! The kernels that are tested are in other suites of the same archive, so the archive's address is the machine's, be it a
//! mirror of the company or the public one; none is written down here.

use std::path::Path;

use super::unavailable;

/// The two halves of Debian's archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrors {
    /// Releases and backports.
    pub main: String,
    /// Security updates.
    pub security: String,
}

/// Releases of Debian, as suites are named after them.
const RELEASES: [&str; 9] =
    ["bullseye", "bookworm", "trixie", "forky", "oldoldstable", "oldstable", "stable", "testing", "sid"];

/// From /etc/apt.
pub fn of_this_machine() -> anyhow::Result<Mirrors> {
    let etc = Path::new("/etc/apt");
    let mut text = vec![(false, read(&etc.join("sources.list")))];
    let parts = std::fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
    for path in parts.map(|entry| entry.path()) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => text.push((false, read(&path))),
            Some("sources") => text.push((true, read(&path))),
            _ => {}
        }
    }
    let sources =
        text.iter().flat_map(|(stanzas, text)| if *stanzas { deb822(text) } else { one_line(text) });
    choose(sources).ok_or_else(|| {
        unavailable("the apt sources of this machine name no Debian archive (give one with --mirror URL SECURITY_URL)")
    })
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// An address and a suite of it.
type Source = (String, String);

/// `deb [options] URI suite component...`
fn one_line(text: &str) -> Vec<Source> {
    let lines = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    lines.collect()
}

/// Stanzas with `Types:`, `URIs:` and `Suites:`.
fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        if field("Enabled").iter().any(|word| word == "no")
            || !field("Types").iter().any(|word| word == "deb")
        {
            continue;
        }
        for uri in field("URIs") {
            sources.extend(field("Suites").into_iter().map(|suite| (uri.clone(), suite)));
        }
    }
    sources
}

fn choose(sources: impl Iterator<Item = Source>) -> Option<Mirrors> {
    let (mut main, mut security) = (None, None);
    for (uri, suite) in sources {
        let (release, part) = suite.split_once(['-', '/']).unwrap_or((&suite, ""));
        if !RELEASES.contains(&release) {
            continue;
        }
        match part {
            "security" => security = security.or(Some(uri)),
            "" | "updates" | "backports" => main = main.or(Some(uri)),
            _ => {}
        }
    }
    Some(Mirrors { main: main?, security: security? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors(sources: Vec<Source>) -> Option<Mirrors> {
        choose(sources.into_iter())
    }

    #[test]
    fn both_ways_of_writing_sources_are_understood() {
        let wanted =
            Mirrors { main: "http://a.test/debian".into(), security: "http://a.test/security".into() };
        let lines = "# deb http://x.test/debian sid main\ndeb-src http://y.test/debian trixie main\n\
                     deb [signed-by=/a b=c] http://a.test/debian trixie main\ndeb http://a.test/security trixie-security main";
        assert_eq!(mirrors(one_line(lines)), Some(wanted.clone()));
        let stanzas = "Types: deb\nURIs: http://a.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                       Enabled: no\nTypes: deb\nURIs: http://x.test\nSuites: sid-security\n\n\
                       Types: deb\n# a comment\nURIs: http://a.test/security\nSuites: bookworm-security\n";
        assert_eq!(mirrors(deb822(stanzas)), Some(wanted));
    }

    #[test]
    fn other_archives_are_not_taken_for_debians() {
        let ubuntu = "deb http://a.test/ubuntu jammy main\ndeb http://a.test/ubuntu jammy-security main";
        assert_eq!(mirrors(one_line(ubuntu)), None);
        assert_eq!(mirrors(one_line("deb http://a.test/debian bookworm main")), None, "no security archive");
    }
}
