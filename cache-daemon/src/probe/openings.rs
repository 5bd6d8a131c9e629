//! The programs, two of which run only while somebody listens: those that see files being opened and mapped.
//!
//! Every open and every mmap of the host enters them, and nobody but `cachectl trace` wants to know. So the start only
//! finds out whether they attach; attaching takes some milliseconds, and detaching is closing their links.

use aya::Ebpf;
use aya::programs::Program;
use aya::programs::fentry::FEntryLink;

use super::attach::chain;
use super::programs::{MAPPED, OPENED, Probe};
use super::report::ProbeReport;

/// The loaded object.
pub(super) struct Programs {
    ebpf: Ebpf,
    /// Those that see openings here.
    openings: Vec<Probe>,
    /// `openings` are wanted, and these are attached.
    links: Option<Vec<FEntryLink>>,
}

impl Programs {
    /// Of a loaded object, whose report says what of openings is seen.
    pub(super) fn new(ebpf: Ebpf, report: &ProbeReport) -> Self {
        let opened = report.sees_opens.then_some(OPENED);
        Self {
            ebpf,
            openings: opened.into_iter().chain(report.sees_maps.then_some(MAPPED)).collect(),
            links: None,
        }
    }

    /// Attaches what sees openings, or detaches it.
    pub(super) fn watch_openings(&mut self, on: bool) {
        if on != self.links.is_some() {
            self.links = on.then(|| self.attached());
        }
    }

    fn attached(&mut self) -> Vec<FEntryLink> {
        let Self { ebpf, openings, .. } = self;
        openings.iter().filter_map(|probe| link(ebpf, probe)).collect()
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.ebpf.programs()
    }
}

/// Attaches one of which the start found that it attaches.
fn link(ebpf: &mut Ebpf, probe: &Probe) -> Option<FEntryLink> {
    let Some(Program::FEntry(program)) = ebpf.program_mut(probe.name) else { return None };
    let link = program.attach().and_then(|id| program.take_link(id));
    link.inspect_err(|error| tracing::warn!(program = probe.name, error = chain(error), "not attached")).ok()
}
