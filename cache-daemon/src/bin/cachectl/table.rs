//! A snapshot as tables, one for each component: the first word of a figure's name.

use std::io::{self, Write};

use cache_daemon::stats::planner::PlannerState;
use cache_daemon::stats::snapshot::{Figure, ProbeState, Snapshot};
use cache_daemon::stats::{LatencySummary, Value};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::units;

/// An earlier snapshot, for rates.
pub struct Before<'a> {
    pub snapshot: &'a Snapshot,
    pub seconds: f64,
}

/// A table without lines, as wide as the terminal allows.
pub fn plain(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// Prints `table` with its lines indented and without blanks at their ends.
pub fn print(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, " {}", line.trim_end())?;
    }
    Ok(())
}

/// Prints all of `snapshot`, with rates since `before`.
pub fn show(out: &mut dyn Write, snapshot: &Snapshot, before: Option<&Before<'_>>) -> io::Result<()> {
    head(out, snapshot)?;
    ratios(out, snapshot, before)?;
    for (component, figures) in components(&snapshot.figures) {
        writeln!(out, "\n{}", component.to_uppercase())?;
        counts(out, snapshot, component, &figures, before)?;
        latencies(out, component, &figures)?;
    }
    degraded(out, snapshot)
}

fn head(out: &mut dyn Write, snapshot: &Snapshot) -> io::Result<()> {
    let Snapshot { daemon, mount, store, probes, .. } = snapshot;
    writeln!(out, "{} at {}", daemon.origin, mount.mountpoint.display())?;
    writeln!(
        out,
        "  daemon  pid {}, release {}, up {}",
        daemon.pid,
        daemon.release,
        units::uptime(daemon.uptime_s)
    )?;
    let readahead = mount.read_ahead_kb.map(|kb| format!("; readahead {kb} KiB")).unwrap_or_default();
    writeln!(out, "  serve   {} ({}); {}{readahead}", mount.serve, mount.serve_why, mount.io_mode)?;
    let size = units::bytes(store.size_bytes as f64);
    writeln!(out, "  store   {} ({}); {size}", store.engine, store.engine_why)?;
    for place in &store.places {
        writeln!(out, "          {}: {}", place.path.display(), place.state)?;
    }
    writeln!(out, "  probes  tier {} ({})", probes.tier, probes.why)?;
    for attached in &probes.attached {
        writeln!(out, "          {attached}{}", cost(probes, attached))?;
    }
    for left_out in &probes.left_out {
        writeln!(out, "          without {}: {}", left_out.program, left_out.why)?;
    }
    planner(out, &snapshot.planner)
}

/// What a run of the attached program, `name (hook)`, costs, if that is measured.
fn cost(probes: &ProbeState, attached: &str) -> String {
    let name = attached.split(' ').next().unwrap_or_default();
    let cost = probes.costs.iter().find(|cost| cost.program == name);
    cost.map_or_else(String::new, |cost| {
        format!(": {} ns a run, {} runs measured", cost.ns_per_run, units::human(cost.runs, ""))
    })
}

/// A figure's or ratio's name, with a mark if it is estimated.
fn marked(snapshot: &Snapshot, name: &str, shown: &str) -> String {
    let is_estimated = snapshot.estimated.iter().any(|estimated| estimated == name);
    if is_estimated { format!("{shown} (estimated)") } else { shown.to_owned() }
}

fn planner(out: &mut dyn Write, planner: &PlannerState) -> io::Result<()> {
    // A daemon of an earlier release has none.
    if planner.mode.is_empty() {
        return Ok(());
    }
    write!(out, "  ahead   {} ({})", planner.mode, planner.activity)?;
    if planner.epoch > 0 {
        let set = if planner.set.is_empty() { "the mount" } else { &planner.set };
        let files = units::human(planner.set_files, "files");
        write!(out, "; {} of {files} files in {set}", planner.workload)?;
        write!(out, ", epoch {}, seen by {}", planner.epoch, planner.source)?;
        if !planner.order.is_empty() {
            write!(out, ", order {}", planner.order)?;
        }
    }
    writeln!(out)
}

fn ratios(out: &mut dyn Write, snapshot: &Snapshot, before: Option<&Before<'_>>) -> io::Result<()> {
    if snapshot.ratios.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nRATIOS")?;
    let mut table = plain(&["", "since start", if before.is_some() { "now" } else { "" }, ""]);
    let percent = |part: u64, whole: u64| match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    };
    for ratio in &snapshot.ratios {
        let earlier =
            before.and_then(|before| before.snapshot.ratios.iter().find(|old| old.name == ratio.name));
        let now = earlier
            .map(|old| percent(ratio.part.saturating_sub(old.part), ratio.whole.saturating_sub(old.whole)));
        table.add_row([
            marked(snapshot, &ratio.name, &ratio.name),
            percent(ratio.part, ratio.whole),
            now.unwrap_or_default(),
            ratio.meaning.clone(),
        ]);
    }
    right_align(&mut table, 1..3);
    print(out, &table)
}

/// Figures by component, in the order in which components first appear.
fn components(figures: &[Figure]) -> Vec<(&str, Vec<&Figure>)> {
    let mut components: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in figures {
        let component = figure.name.split('_').next().unwrap_or_default();
        match components.iter_mut().find(|(name, _)| *name == component) {
            Some((_, of_it)) => of_it.push(figure),
            None => components.push((component, vec![figure])),
        }
    }
    components
}

/// `store_reads` in the section STORE is `reads`.
fn short<'a>(figure: &'a Figure, component: &str) -> &'a str {
    figure.name.strip_prefix(component).map_or(&*figure.name, |rest| rest.trim_start_matches('_'))
}

fn counts(
    out: &mut dyn Write,
    snapshot: &Snapshot,
    component: &str,
    figures: &[&Figure],
    before: Option<&Before<'_>>,
) -> io::Result<()> {
    let mut table = plain(&["", "total", if before.is_some() { "change" } else { "" }, ""]);
    for figure in figures {
        let Value::Count(count) = figure.value else { continue };
        let change = before.map(|before| match before.snapshot.value(&figure.name) {
            Some(Value::Count(old)) => {
                units::rate((count as f64 - old as f64) / before.seconds, &figure.unit)
            }
            _ => String::new(),
        });
        table.add_row([
            &*marked(snapshot, &figure.name, short(figure, component)),
            &units::human(count, &figure.unit),
            &change.unwrap_or_default(),
            &figure.meaning,
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    right_align(&mut table, 1..3);
    print(out, &table)
}

fn latencies(out: &mut dyn Write, component: &str, figures: &[&Figure]) -> io::Result<()> {
    let mut table = plain(&["", "count", "p50", "p90", "p99", "max", ""]);
    for figure in figures {
        let Value::Latency(LatencySummary { count, p50_us, p90_us, p99_us, max_us }) = figure.value else {
            continue;
        };
        let times = [p50_us, p90_us, p99_us, max_us]
            .map(|us| if count == 0 { "-".into() } else { units::duration(us) });
        let mut row = vec![short(figure, component).to_owned(), units::human(count, "")];
        row.extend(times);
        row.push(figure.meaning.clone());
        table.add_row(row);
    }
    if table.is_empty() {
        return Ok(());
    }
    right_align(&mut table, 1..6);
    print(out, &table)
}

fn degraded(out: &mut dyn Write, snapshot: &Snapshot) -> io::Result<()> {
    if snapshot.degraded.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nOFF OR SLOWER THAN IT COULD BE")?;
    for it in &snapshot.degraded {
        writeln!(out, "  {}: {}\n      costs: {}\n      do:    {}", it.what, it.why, it.effect, it.do_what)?;
    }
    Ok(())
}

/// Puts numbers under each other.
pub fn right_align(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

#[cfg(test)]
mod tests {
    use cache_daemon::control::ControlFigures;
    use cache_daemon::probe::LeftOut;
    use cache_daemon::stats::Description;
    use cache_daemon::stats::snapshot::ProgramCost;

    use super::*;

    fn snapshot(requests: u64) -> Snapshot {
        let mut snapshot =
            Snapshot::new(Default::default(), Default::default(), Default::default(), Default::default());
        let figures = ControlFigures::default();
        figures.requests.add(requests);
        snapshot.add(&figures);
        let latency = LatencySummary { count: 2, p50_us: 10, p90_us: 1500, p99_us: 1500, max_us: 1500 };
        let description = Description { name: "fuse_read_latency", unit: "us", meaning: "How long." };
        snapshot.add_row(description, Value::Latency(latency));
        snapshot.add_ratio("hit_ratio", "Hits.", requests, 100);
        snapshot.estimate(&["hit_ratio", "control_requests"]);
        snapshot.probes.attached = vec!["pages_got (mm_filemap_get_pages)".into()];
        snapshot.probes.left_out = vec![LeftOut { program: "read_verified".into(), why: "refused".into() }];
        snapshot.probes.costs = vec![ProgramCost { program: "pages_got".into(), runs: 5, ns_per_run: 75 }];
        snapshot.degrade("io_uring", "sysctl", "slower", "turn it on");
        snapshot
    }

    fn shown(snapshot: &Snapshot, before: Option<&Before<'_>>) -> String {
        let mut out = Vec::new();
        show(&mut out, snapshot, before).expect("a vector takes all");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn every_figure_stands_in_its_components_section() {
        let text = shown(&snapshot(50), None);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what:?} is not in\n{text}"));
        assert!(at("CONTROL") < at(" requests") && at(" requests") < at("FUSE"));
        assert!(at("FUSE") < at("read_latency") && text.contains("1.50 ms"));
        assert!(text.contains("hit_ratio (estimated)") && text.contains("requests (estimated)"));
        assert!(text.contains("pages_got (mm_filemap_get_pages): 75 ns a run, 5 runs measured"), "{text}");
        assert!(text.contains("without read_verified: refused"), "{text}");
        assert!(text.contains("50.0 %") && text.contains("do:    turn it on"));
    }

    #[test]
    fn watching_shows_change_and_the_ratio_of_now() {
        let (old, new) = (snapshot(50), snapshot(70));
        let text = shown(&new, Some(&Before { snapshot: &old, seconds: 2.0 }));
        assert!(text.contains("+10.0/s"), "{text}");
        assert!(text.contains("change") && text.contains("now"), "{text}");
    }
}
