//! What is in the page cache of the mount's files: pages are counted when they come and when they go.
//!
//! Pages that came before the probes were attached are not counted when they go either.
//! <https://elixir.bootlin.com/linux/v6.18/source/mm/filemap.c>: a page comes with its folio locked, and goes with it
//! locked and under the lock of its mapping; so nothing goes before it came, and one at a time goes of a file.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps;
use crate::structs::Folio;
use crate::touch::add_u32;

#[btf_tracepoint(function = "mm_filemap_add_to_page_cache")]
pub fn page_added(ctx: BtfTracePointContext) -> i32 {
    let folio = Folio(ctx.arg(0));
    let inode = folio.inode();
    if inode.is_ours()
        && let Some(heat) = maps::heat(inode.number())
    {
        let pages = u64::from(folio.pages());
        // SAFETY: a value of an array lives as long as the map; everybody adds to it atomically.
        add_u32(unsafe { &raw mut (*heat).resident_pages }, pages);
        maps::count_pages(|residents| residents.added += pages);
    }
    0
}

#[btf_tracepoint(function = "mm_filemap_delete_from_page_cache")]
pub fn page_removed(ctx: BtfTracePointContext) -> i32 {
    let folio = Folio(ctx.arg(0));
    let inode = folio.inode();
    if inode.is_ours()
        && let Some(heat) = maps::heat(inode.number())
    {
        // SAFETY: as above; it only grows meanwhile, see the head of this file.
        let resident = unsafe { &raw mut (*heat).resident_pages };
        // SAFETY: as above.
        let counted = u64::from(unsafe { resident.read_volatile() });
        let pages = u64::from(folio.pages()).min(counted);
        add_u32(resident, pages.wrapping_neg());
        maps::count_pages(|residents| residents.removed += pages);
    }
    0
}
