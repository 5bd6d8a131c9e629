//! Where fields lie in the running kernel's structs: from its own type information (BTF).
//!
//! Read in place from an anonymous file: btf-rs's parsed form of the 5.5 MB takes some 60 MiB and 0.1 s. (The kernel's
//! own file can be mapped only from 6.16 on.)

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use btf_rs::{Backend, Btf, EnumMember, Type};
use ebpf_common::{DISKS, Settings, SettingsFlags};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// A field, by its struct and its path.
pub(super) type Field = (&'static str, &'static str);

pub(super) const MAPPING_HOST: Field = ("address_space", "host");
pub(super) const INODE_SB: Field = ("inode", "i_sb");
pub(super) const INODE_INO: Field = ("inode", "i_ino");
pub(super) const INODE_SIZE: Field = ("inode", "i_size");
pub(super) const INODE_MODE: Field = ("inode", "i_mode");
pub(super) const SB_DEV: Field = ("super_block", "s_dev");
pub(super) const FILE_INODE: Field = ("file", "f_inode");
pub(super) const FAULT_VMA: Field = ("vm_fault", "vma");
pub(super) const FAULT_PGOFF: Field = ("vm_fault", "pgoff");
pub(super) const VMA_FILE: Field = ("vm_area_struct", "vm_file");
pub(super) const IOCB_FILE: Field = ("kiocb", "ki_filp");
pub(super) const IOCB_POS: Field = ("kiocb", "ki_pos");
pub(super) const ITER_COUNT: Field = ("iov_iter", "count");
pub(super) const FOLIO_MAPPING: Field = ("folio", "mapping");
const FOLIO_FLAGS: Field = ("folio", "flags");
const FOLIO_PAGES: Field = ("folio", "_nr_pages");
pub(super) const REQUEST_QUEUE: Field = ("request", "q");
pub(super) const QUEUE_DISK: Field = ("request_queue", "disk");
const REQUEST_DISK: Field = ("request", "rq_disk");
pub(super) const REQUEST_HCTX: Field = ("request", "mq_hctx");
pub(super) const REQUEST_TAG: Field = ("request", "tag");
pub(super) const REQUEST_FLAGS: Field = ("request", "cmd_flags");
pub(super) const REQUEST_LEN: Field = ("request", "__data_len");
pub(super) const HCTX_QUEUE: Field = ("blk_mq_hw_ctx", "queue_num");
pub(super) const DISK_MAJOR: Field = ("gendisk", "major");
pub(super) const DISK_MINOR: Field = ("gendisk", "first_minor");
pub(super) const FUSE_MOUNT: Field = ("fuse_req", "fm");
pub(super) const FUSE_CONN: Field = ("fuse_mount", "fc");
pub(super) const FUSE_DEV: Field = ("fuse_conn", "dev");
pub(super) const FUSE_UNIQUE: Field = ("fuse_req", "in.h.unique");
pub(super) const FUSE_OPCODE: Field = ("fuse_req", "in.h.opcode");
pub(super) const FUSE_PID: Field = ("fuse_req", "in.h.pid");
pub(super) const FUSE_OUT_LEN: Field = ("fuse_req", "out.h.len");
const TASK_PID: Field = ("task_struct", "pid");
const TASK_TGID: Field = ("task_struct", "tgid");
const TASK_SYSCR: Field = ("task_struct", "ioac.syscr");

/// Fields that the same thing was called before: each with its earlier name, tried where the first is not there.
const EARLIER: [(Field, Field); 4] = [
    // Until 5.16 there were only pages.
    (FOLIO_MAPPING, ("page", "mapping")),
    (FOLIO_FLAGS, ("page", "flags")),
    // Until 6.12.
    (FOLIO_PAGES, ("folio", "_folio_nr_pages")),
    // Until 5.14.
    (QUEUE_DISK, REQUEST_DISK),
];

/// What the probes need to know of the running kernel.
pub(super) struct Kernel {
    fields: Vec<(Field, u32)>,
    flags: u32,
    head_bit: Option<u32>,
}

impl Kernel {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    /// Why there are none: built without CONFIG_DEBUG_INFO_BTF, or hidden in a container.
    pub(super) fn running() -> Result<Self, String> {
        let btf = open().map_err(|error| format!("{VMLINUX} cannot be read ({error})"))?;
        let wanted = [
            MAPPING_HOST,
            INODE_SB,
            INODE_INO,
            INODE_SIZE,
            INODE_MODE,
            SB_DEV,
            FILE_INODE,
            FAULT_VMA,
            FAULT_PGOFF,
            VMA_FILE,
            IOCB_FILE,
            IOCB_POS,
            ITER_COUNT,
            FOLIO_MAPPING,
            FOLIO_FLAGS,
            FOLIO_PAGES,
            REQUEST_QUEUE,
            QUEUE_DISK,
            REQUEST_DISK,
            REQUEST_HCTX,
            REQUEST_TAG,
            REQUEST_FLAGS,
            REQUEST_LEN,
            HCTX_QUEUE,
            DISK_MAJOR,
            DISK_MINOR,
            FUSE_MOUNT,
            FUSE_CONN,
            FUSE_DEV,
            FUSE_UNIQUE,
            FUSE_OPCODE,
            FUSE_PID,
            FUSE_OUT_LEN,
            TASK_PID,
            TASK_TGID,
            TASK_SYSCR,
        ];
        let earlier = |field| EARLIER.iter().find(|(now, _)| *now == field).map(|(_, before)| *before);
        let offset = |field| offset_bytes(&btf, field).or_else(|| offset_bytes(&btf, earlier(field)?));
        let found = |field: Field| Some((field, offset(field)?));
        let fields = wanted.into_iter().filter_map(found).collect();
        let mut kernel = Self { fields, flags: 0, head_bit: enum_value(&btf, "pageflags", "PG_head") };
        kernel.set(
            SettingsFlags::LARGE_FOLIOS,
            kernel.head_bit.and(kernel.offset(FOLIO_PAGES)).and(kernel.offset(FOLIO_FLAGS)).is_some(),
        );
        kernel.set(SettingsFlags::DISK_IN_REQUEST, kernel.offset(REQUEST_DISK).is_some());
        let task = kernel.offset(TASK_PID).and(kernel.offset(TASK_TGID));
        kernel.set(SettingsFlags::TASK, has_helper(&btf, "BPF_FUNC_get_current_task_btf") && task.is_some());
        kernel.set(SettingsFlags::SYSCR, kernel.offset(TASK_SYSCR).is_some());
        Ok(kernel)
    }

    fn set(&mut self, flag: u32, on: bool) {
        self.flags |= if on { flag } else { 0 };
    }

    /// The offset of `field` in bytes, if this kernel has it.
    pub(super) fn offset(&self, field: Field) -> Option<u32> {
        self.fields.iter().find(|(known, _)| *known == field).map(|(_, offset)| *offset)
    }

    /// The first of `needed` that this kernel does not have.
    pub(super) fn lacks(&self, needed: &[Field]) -> Option<String> {
        let (name, path) = needed.iter().find(|field| self.offset(**field).is_none())?;
        Some(format!("this kernel's struct {name} has no field {path} that could be found"))
    }

    /// Settings with this kernel's offsets. Programs that need what was not found must not be loaded.
    pub(super) fn settings(&self) -> Settings {
        let at = |field| self.offset(field).unwrap_or(0);
        Settings {
            pause_ticks: 0,
            device: 0,
            flags: self.flags,
            mapping_host: at(MAPPING_HOST),
            inode_sb: at(INODE_SB),
            inode_ino: at(INODE_INO),
            inode_size: at(INODE_SIZE),
            inode_mode: at(INODE_MODE),
            sb_dev: at(SB_DEV),
            file_inode: at(FILE_INODE),
            fault_vma: at(FAULT_VMA),
            fault_pgoff: at(FAULT_PGOFF),
            vma_file: at(VMA_FILE),
            task_pid: at(TASK_PID),
            task_tgid: at(TASK_TGID),
            task_syscr: at(TASK_SYSCR),
            iocb_file: at(IOCB_FILE),
            iocb_pos: at(IOCB_POS),
            iter_count: at(ITER_COUNT),
            folio_mapping: at(FOLIO_MAPPING),
            folio_flags: at(FOLIO_FLAGS),
            folio_head_bit: self.head_bit.unwrap_or(0),
            folio_pages: at(FOLIO_PAGES),
            request_queue: at(REQUEST_QUEUE),
            queue_disk: at(QUEUE_DISK),
            request_disk: at(REQUEST_DISK),
            request_hctx: at(REQUEST_HCTX),
            request_tag: at(REQUEST_TAG),
            request_flags: at(REQUEST_FLAGS),
            request_len: at(REQUEST_LEN),
            hctx_queue: at(HCTX_QUEUE),
            disk_major: at(DISK_MAJOR),
            disk_minor: at(DISK_MINOR),
            fuse_mount: at(FUSE_MOUNT),
            fuse_conn: at(FUSE_CONN),
            fuse_dev: at(FUSE_DEV),
            fuse_unique: at(FUSE_UNIQUE),
            fuse_opcode: at(FUSE_OPCODE),
            fuse_pid: at(FUSE_PID),
            fuse_out_len: at(FUSE_OUT_LEN),
            openings_bytes: 0,
            disks: [0; DISKS],
        }
    }
}

fn open() -> Result<Btf, Box<dyn std::error::Error>> {
    let mut copy = File::from(nix::sys::memfd::memfd_create(c"btf", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?);
    io::copy(&mut File::open(VMLINUX)?, &mut copy)?;
    // The mapping outlives the descriptor, and nobody else can write the file.
    Ok(Btf::from_file_with_backend(format!("/proc/self/fd/{}", copy.as_raw_fd()), Backend::Mmap)?)
}

/// The offset of a field whose path may lead through structs and, unnamed, through anonymous members.
fn offset_bytes(btf: &Btf, (name, path): Field) -> Option<u32> {
    let structs = btf.resolve_types_by_name(name).ok()?;
    let mut within = structs.into_iter().find(|found| matches!(found, Type::Struct(_)))?;
    let mut bits = 0;
    for part in path.split('.') {
        let (offset, member) = member(btf, &within, part)?;
        bits += offset;
        within = member;
    }
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// The member `name` of a struct or union: its offset in bits, and its type.
fn member(btf: &Btf, within: &Type, name: &str) -> Option<(u32, Type)> {
    let (Type::Struct(within) | Type::Union(within)) = within else { return None };
    for member in &within.members {
        let mut of = btf.resolve_chained_type(member).ok()?;
        while let Type::Const(inner) | Type::Volatile(inner) = &of {
            of = btf.resolve_chained_type(inner).ok()?;
        }
        match btf.resolve_name(member).unwrap_or_default().as_str() {
            "" => {
                if let Some((offset, inner)) = self::member(btf, &of, name) {
                    return Some((member.bit_offset() + offset, inner));
                }
            }
            found if found == name => return Some((member.bit_offset(), of)),
            _ => {}
        }
    }
    None
}

/// Whether programs may call the helper `name`.
fn has_helper(btf: &Btf, name: &str) -> bool {
    enum_value(btf, "bpf_func_id", name).is_some()
}

/// The value of the member `name` of the enum `within`.
fn enum_value(btf: &Btf, within: &str, name: &str) -> Option<u32> {
    let types = btf.resolve_types_by_name(within).unwrap_or_default();
    let is_it = |member: &&EnumMember| btf.resolve_name(*member).is_ok_and(|found| found == name);
    types.iter().find_map(|found| match found {
        Type::Enum(members) => members.members.iter().find(is_it).map(EnumMember::val),
        _ => None,
    })
}
