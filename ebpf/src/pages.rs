//! The page cache's tracepoints, from 6.12 on: what reads and faults take from it.
//!
//! `mm_filemap_get_pages` fires for each batch of folios that a read or a splice takes, with the pages that were *asked
//! for*, beyond the file's end too; `mm_filemap_map_pages` for the window that a fault maps around itself (16 pages),
//! `mm_filemap_fault` where that was not enough. <https://elixir.bootlin.com/linux/v6.18/source/mm/filemap.c>

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::structs::Mapping;
use crate::touch::{Access, Kind, touched};

#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub fn pages_got(ctx: BtfTracePointContext) -> i32 {
    pages(&ctx, Kind::Pages)
}

#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub fn pages_mapped(ctx: BtfTracePointContext) -> i32 {
    pages(&ctx, Kind::Fault)
}

#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn page_faulted(ctx: BtfTracePointContext) -> i32 {
    let inode = Mapping(ctx.arg(0)).inode();
    if inode.is_ours() {
        let page: u64 = ctx.arg(1);
        touched(inode, Access::of_pages(Kind::Fault, page, page));
    }
    0
}

#[inline(always)]
fn pages(ctx: &BtfTracePointContext, kind: Kind) -> i32 {
    let inode = Mapping(ctx.arg(0)).inode();
    if inode.is_ours() {
        touched(inode, Access::of_pages(kind, ctx.arg(1), ctx.arg(2)));
    }
    0
}
