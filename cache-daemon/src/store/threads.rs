//! The threads of a volume: one writer and a few readers, each with an engine and buffers of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};
use parking_lot::Mutex;

use super::config::{Clock, StoreConfig};
use super::desks::{self, Desks, Permits};
use super::error::StoreError;
use super::medium::Medium;
use super::plan::Planned;
use super::reader::{self, Reader};
use super::settle::Settled;
use super::superblock::Superblock;
use super::volume::Volume;
use super::writer::{self, Writer};
use super::{Handle, VolumeReport};
use crate::io::{BufferPool, Engine, EngineOptions, EngineReport, FileSlot, Waker, engine};

/// An engine with the volume's file, and buffers for it.
pub(super) fn disk(
    config: &StoreConfig,
    medium: &Medium,
    depth: usize,
    pool: &BufferPool,
    only_reads: bool,
) -> Result<(Box<dyn Engine>, FileSlot, EngineReport), StoreError> {
    disk_with(config, medium, &config.engine_options(depth, only_reads), pool)
}

fn disk_with(
    config: &StoreConfig,
    medium: &Medium,
    options: &EngineOptions,
    pool: &BufferPool,
) -> Result<(Box<dyn Engine>, FileSlot, EngineReport), StoreError> {
    let fail = |error| StoreError::io(medium.place(), "start an I/O engine for", error);
    let (mut engine, report) = engine(config.engine, pool, options).map_err(fail)?;
    let slot = engine.register(medium.file().clone()).map_err(fail)?;
    Ok((engine, slot, report))
}

/// Starts the threads of a volume.
pub(super) fn start(
    config: &StoreConfig,
    planned: Planned,
    (volume, settled): (Arc<Volume>, Settled),
    permits: &Permits,
) -> Result<(Handle, VolumeReport), StoreError> {
    let Planned { medium, found, superblock, .. } = planned;
    let Settled { allocator, tail, given_up, .. } = settled;
    let (writer, writer_waker, thread, engine) =
        start_writer(config, &medium, &volume, (superblock, allocator, tail))?;
    let mut threads = vec![thread];
    let mut readers = Vec::new();
    for number in 0..config.read_threads {
        let (sender, waker, thread) = start_reader(config, &medium, &volume, number)?;
        readers.push((sender, waker));
        threads.push(thread);
    }
    let desks = desks(config, &medium, &volume, engine.name, permits)?;
    let report = VolumeReport {
        place: volume.name.clone(),
        number: volume.number,
        segments: superblock.layout.segments,
        segment_bytes: superblock.layout.segment_bytes,
        formatted: found.is_none(),
        direct: medium.file().is_direct(),
        engine,
        given_up,
    };
    let handle = Handle {
        volume,
        medium,
        writer,
        writer_waker,
        readers,
        desks,
        next_reader: AtomicUsize::new(0),
        threads: Mutex::new(threads),
    };
    Ok((handle, report))
}

type WriterThread = (Sender<writer::Request>, Waker, JoinHandle<()>, EngineReport);

fn start_writer(
    config: &StoreConfig,
    medium: &Medium,
    volume: &Arc<Volume>,
    state: (Superblock, super::allocator::Allocator, Option<(u32, u32)>),
) -> Result<WriterThread, StoreError> {
    let depth = config.writer.depth + writer::SPARE_DEPTH;
    let pool = pool(medium, depth, Writer::buffer_bytes(volume.layout.segment_bytes))?;
    let (engine, slot, report) = disk(config, medium, depth, &pool, false)?;
    let waker = engine.waker();
    let (sender, requests) = bounded(config.queue);
    let disk = writer::Disk { engine, slot, pool };
    let writer = Writer::new(volume.clone(), disk, config.writer, requests, state, (config.clock)());
    let run = move |clock: &Clock| writer.run(clock);
    let thread = spawn(config, medium, format!("store-w{}", volume.number), run)?;
    Ok((sender, waker, thread, report))
}

fn start_reader(
    config: &StoreConfig,
    medium: &Medium,
    volume: &Arc<Volume>,
    number: usize,
) -> Result<(Sender<reader::Request>, Waker, JoinHandle<()>), StoreError> {
    let depth = config.read_depth;
    let pool = pool(medium, depth, Reader::buffer_bytes(volume.layout.segment_bytes))?;
    let (engine, slot, _) = disk(config, medium, depth, &pool, true)?;
    let waker = engine.waker();
    let (sender, requests) = bounded(config.queue);
    let disk = reader::Disk { engine, slot, pool };
    let reader = Reader::new(volume.clone(), disk, config.read_deadline, requests);
    let run = move |clock: &Clock| reader.run(clock);
    let thread = spawn(config, medium, format!("store-r{}.{number}", volume.number), run)?;
    Ok((sender, waker, thread))
}

/// Desks: only of rings that wait in the kernel, for psync's threads would be woken all the same.
fn desks(
    config: &StoreConfig,
    medium: &Medium,
    volume: &Arc<Volume>,
    engine_name: &str,
    permits: &Permits,
) -> Result<Desks, StoreError> {
    let count = if engine_name != "io_uring" || config.sqpoll || config.iopoll { 0 } else { config.desks };
    let options = EngineOptions { passed_on: true, ..config.engine_options(desks::DEPTH, true) };
    let readers = (0..count).map(|_| {
        let pool = pool(medium, desks::DEPTH, desks::BUFFER_BYTES)?;
        let (engine, slot, _) = disk_with(config, medium, &options, &pool)?;
        let disk = reader::Disk { engine, slot, pool };
        Ok(Reader::new(volume.clone(), disk, config.read_deadline, crossbeam::channel::never()))
    });
    Ok(Desks::new(readers.collect::<Result<_, StoreError>>()?, permits.clone(), config.clock.clone()))
}

fn pool(medium: &Medium, buffers: usize, buffer_bytes: usize) -> Result<BufferPool, StoreError> {
    let buffers = u16::try_from(buffers).map_err(|_| StoreError::Config(format!("a depth of {buffers}")))?;
    BufferPool::new(buffers, buffer_bytes)
        .map_err(|error| StoreError::io(medium.place(), "get buffers for", error))
}

fn spawn(
    config: &StoreConfig,
    medium: &Medium,
    name: String,
    run: impl FnOnce(&Clock) + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let clock = config.clock.clone();
    let thread = std::thread::Builder::new().name(name).spawn(move || run(&clock));
    thread.map_err(|error| StoreError::io(medium.place(), "start threads for", error))
}
