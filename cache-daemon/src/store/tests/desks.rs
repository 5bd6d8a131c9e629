//! Desks: reads on the thread that asks.

use std::thread;

use super::super::*;
use super::rig::{Rig, data_of, desk, format};
use super::{Home, data, key};
use crate::io::EngineKind;
use crate::io::sim::Faults;

/// A store with rings and so many desks, and who says why there is none.
fn store(home: &mut Home, desks: usize) -> Option<Store> {
    home.engine = EngineKind::Uring;
    let config = StoreConfig { desks, ..home.config(64 << 20) };
    let opened = Store::open(config, Arc::default());
    opened.inspect_err(|error| println!("skipped: {error}")).ok().map(|(store, _)| store)
}

/// The answer to a read, if it came before the asking returned, and the thread that gave it.
fn read_here(store: &Store, number: u64, len: u32) -> Option<(Result<Vec<u8>, Miss>, thread::ThreadId)> {
    let (done, answer) = bounded(1);
    let give = move |bytes: Result<&[u8], Miss>| {
        done.send((bytes.map(<[u8]>::to_vec), thread::current().id())).expect("the test listens");
    };
    store.read_here(key(number), 0..len, Box::new(give));
    answer.try_recv().ok()
}

#[test]
fn a_read_at_a_desk_is_answered_on_its_own_thread_before_the_asking_returns() {
    let mut home = Home::new();
    let Some(store) = store(&mut home, 1) else { return };
    store.put(key(1), &data(1, 110_000));
    for _ in 0..3 {
        // By several threads, one after the other: a ring of one thread's own would refuse the second.
        thread::scope(|scope| {
            let read = || (read_here(&store, 1, 110_000), thread::current().id());
            let (read, id) = scope.spawn(read).join().unwrap();
            assert!(read == Some((Ok(data(1, 110_000).to_vec()), id)));
        });
    }
}

#[test]
fn what_a_desk_has_no_buffer_for_goes_to_a_reader_thread() {
    let mut home = Home::new();
    home.engine = EngineKind::Uring;
    let config = StoreConfig { desks: 1, segment_bytes: 4 << 20, ..home.config(64 << 20) };
    let Ok((store, _)) = Store::open(config, Arc::default()) else { return println!("skipped: no ring") };
    let large = data(1, 1 << 20);
    store.put(key(1), &large);
    let (done, answer) = bounded(1);
    let give = move |bytes: Result<&[u8], Miss>| {
        done.send((bytes.map(<[u8]>::to_vec), thread::current().id())).expect("the test listens");
    };
    store.read_here(key(1), 0..1 << 20, Box::new(give));
    let (bytes, id) = answer.recv_timeout(Duration::from_secs(60)).expect("every read is answered");
    assert!(bytes.unwrap() == large && id != thread::current().id());
}

#[test]
fn an_answer_may_ask_again_while_its_desk_is_taken() {
    let mut home = Home::new();
    let Some(store) = store(&mut home, 1).map(Arc::new) else { return };
    store.put(key(1), &data(1, 5000));
    let (done, answer) = bounded(1);
    let again = store.clone();
    let give = move |_: Result<&[u8], Miss>| {
        let give =
            move |bytes: Result<&[u8], Miss>| done.send(bytes.map(<[u8]>::to_vec)).expect("listened to");
        again.read_here(key(1), 0..5000, Box::new(give));
    };
    store.read_here(key(1), 0..5000, Box::new(give));
    let bytes = answer.recv_timeout(Duration::from_secs(60)).expect("every read is answered");
    assert!(bytes.unwrap() == data(1, 5000));
}

#[test]
fn readers_at_desks_and_in_queues_get_what_they_asked_for_side_by_side() {
    let mut home = Home::new();
    let Some(store) = store(&mut home, 3) else { return };
    let len = |number: u64| 1 + (number as usize * 7919) % 200_000;
    (0..40).for_each(|number| _ = store.put(key(number), &data(number, len(number))));
    thread::scope(|scope| {
        for worker in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for turn in 0..200 {
                    let number = (turn * 13 + worker * 7) % 40;
                    let wanted = data(number, len(number));
                    let (done, answer) = bounded(1);
                    let give = move |bytes: Result<&[u8], Miss>| {
                        done.send(bytes.map(<[u8]>::to_vec)).expect("listened to")
                    };
                    store.read_here(key(number), 0..wanted.len() as u32, Box::new(give));
                    let bytes = answer.recv_timeout(Duration::from_secs(60)).expect("every read is answered");
                    assert!(bytes.unwrap() == wanted, "{number}");
                }
            });
        }
    });
}

#[test]
fn a_silent_device_keeps_a_desk_and_whoever_comes_then_goes_elsewhere() {
    let mut rig = Rig::open(format(1), None, 1);
    rig.put(1);
    rig.sync().unwrap();
    let clock: Clock = Arc::new(Instant::now);
    let mut desk = desk(&rig.device, &rig.volume, Duration::from_millis(20), 7);
    let ask = |rig: &Rig| {
        let (request, answer) = rig.request(1, None).expect("it is stored");
        (reader::Request { asked: Instant::now(), ..request }, answer)
    };
    rig.device.set_faults(Faults { stall: 1.0, ..Faults::default() });
    // The desk has two buffers, so two reads can be given up before it has none.
    for _ in 0..desks::DEPTH {
        let (request, answer) = ask(&rig);
        assert!(desk.read_now(request, &clock).is_none());
        assert_eq!(answer.try_recv().expect("answered at its deadline"), Err(Miss::Failed));
    }
    let (request, answer) = ask(&rig);
    let refused = desk.read_now(request, &clock).expect("the device still holds both buffers");
    assert!(answer.try_recv().is_err(), "the request is as it was");
    drop(refused);
    rig.device.set_faults(Faults::default());
    rig.device.release_stalled();
    let (request, answer) = ask(&rig);
    assert!(desk.read_now(request, &clock).is_none());
    assert!(answer.try_recv().unwrap().unwrap() == data_of(1));
    assert_eq!(rig.figures.reads_in_flight.get(), 0);
}
