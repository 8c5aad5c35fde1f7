//! Starts, joins and stops that go well.

use base::ids::Session;
use base::time::Duration;
use datapath::port::Scope;

use super::world::{A, B, World};
use crate::polarization::DurableStep;
use crate::record::{Continuity, RecordState};
use crate::state_word::StateWord;

#[test]
fn a_first_start_compares_everything_and_both_serve() {
    let world = World::active(2);
    assert_eq!(world.compared, [Scope::Everything; 2]);
    for node in [A, B] {
        let disk = &world.nodes[node].disk;
        assert_eq!(disk.record.state, RecordState::Active);
        assert_eq!(disk.record.session, Session(1));
        assert_eq!(disk.record.continuity, Continuity::Continuous);
        for (volume, other) in disk.volumes.iter().zip(&world.nodes[1 - node].disk.volumes) {
            assert_eq!((volume.header.round, volume.header.peer_round), (1, 1));
            assert_eq!(volume.header.peer_disk_id, other.header.disk_id);
            assert_eq!(volume.stamp.as_ref().map(|s| s.round), Ok(1));
        }
        assert_eq!(world.view(node).orderer.map(|n| n.to_string()).as_deref(), Some("a"));
    }
    let generations = [A, B].map(|node| world.nodes[node].disk.record.generation);
    assert_eq!(generations[A], generations[B], "the target takes the source's generation");
}

/// F5, F7, F8, F8b.
#[test]
fn the_durable_steps_of_a_first_start_have_the_order_of_protocol_2_2() {
    let world = World::active(1);
    let a = ["record Virgin", "header 0/0", "data", "stamp 1", "header 1/0", "record Active"];
    assert_eq!(world.nodes[A].steps[..6], a);
    assert_eq!(world.nodes[A].steps[6..], ["header 1/1"]);
    let b = &world.nodes[B].steps;
    assert_eq!(b[..2], ["record Virgin", "header 0/0"]);
    assert!(b[2].starts_with("record Target"), "{b:?}");
    assert_eq!(b[3..5], ["header 0/0", "data"]);
    assert_eq!(b[5..8], ["stamp 1", "header 1/1", "record Ready"]);
    assert_eq!(b[8..], ["record Active", "header 1/1"]);
}

/// F0: the stamp was seen, and may never have reached the disk.
#[test]
fn a_stamp_that_is_ahead_of_its_header_is_written_again_before_the_header_is() {
    let mut world = World::new(1, None, false);
    world.start(A);
    world.start(B);
    let raises = |step: &DurableStep| matches!(step, DurableStep::WriteStamp(..));
    while !world.nodes[A].job.as_ref().is_some_and(|(_, job)| job.iter().any(raises)) {
        assert!(world.step(0), "the join goes on by itself");
    }
    world.kill(A, 1);
    assert_eq!(world.nodes[A].steps.last().map(String::as_str), Some("stamp 1"));
    world.nodes[A].steps.clear();
    world.start(A);
    world.run();
    assert_eq!(world.nodes[A].steps[..3], ["record Virgin", "stamp 1", "header 1/0"]);
    world.expect_active();
}

#[test]
fn new_and_empty_files_need_no_comparison() {
    let mut world = World::new(1, None, true);
    world.start(A);
    world.start(B);
    while world.view(A).state != StateWord::ResyncSource {
        assert!(world.step(0));
    }
    let view = world.view(A);
    assert!(view.cause.contains("nothing is compared"), "{view:?}");
    assert_eq!(view.volumes[0].resync, None, "nothing has a progress");
    world.run();
    world.expect_active();
    assert_eq!(world.compared, [Scope::Nothing]);
}

#[test]
fn the_node_initialised_with_source_is_the_source() {
    let mut world = World::new(1, Some(B), false);
    world.nodes[B].disk.volumes[0].cached = 77;
    world.start(A);
    world.start(B);
    world.run();
    world.expect_active();
    assert_eq!(world.nodes[A].disk.volumes[0].cached, 77);
    assert_eq!(world.view(A).orderer.map(|n| n.to_string()).as_deref(), Some("b"));
}

#[test]
fn one_node_alone_waits_then_refuses_clients() {
    let mut world = World::new(1, None, false);
    world.start(A);
    world.run();
    assert_eq!(world.view(A).state, StateWord::Starting);
    assert!(world.view(A).cause.contains("waiting for node b"));
    world.pass(Duration::from_secs(6));
    assert_eq!(world.view(A).state, StateWord::Limbo);
    assert!(world.nodes[A].volumes[0].discarded);
    let view = world.view(A);
    assert!(view.cause.contains("waiting for node b") && view.advice.contains("start node b"));
    let why = world.nodes[A].decisions.last().map(|decision| decision.why.clone());
    assert_eq!(
        why.as_deref(),
        Some("no session with b within 5s; nobody is served until there is")
    );
    world.start(B);
    world.run();
    world.expect_active();
    assert!(!world.nodes[A].volumes[0].discarded);
}

/// I12.
#[test]
fn a_clean_stop_of_either_node_and_a_restart_copy_nothing() {
    for stopped in [A, B] {
        let mut world = World::active(2);
        let written = world.write(1 - stopped, 0, false);
        assert!(written.is_some());
        world.stop(stopped);
        world.run();
        assert!(world.nodes[stopped].ended);
        for node in [A, B] {
            let record = &world.nodes[node].disk.record;
            assert_eq!(record.state, RecordState::Stopped);
            assert!(record.clean, "node {node}");
            assert_eq!(world.nodes[node].disk.volumes[0].durable, written.expect("written"));
        }
        let view = world.view(1 - stopped);
        assert_eq!(view.state, StateWord::Deciding);
        assert!(view.cause.contains("was stopped cleanly"), "{view:?}");
        world.pass(Duration::from_secs(6));
        assert_eq!(world.view(1 - stopped).state, StateWord::Limbo);
        world.compared.clear();
        world.start(stopped);
        world.run();
        world.expect_active();
        assert_eq!(world.compared, [Scope::Nothing; 2]);
        assert_eq!(world.view(A).session, Session(2));
    }
}

#[test]
fn both_stopped_at_once_are_both_clean() {
    let mut world = World::active(1);
    world.write(A, 0, false);
    world.stop(A);
    world.stop(B);
    world.run();
    assert!(world.nodes.iter().all(|node| node.ended && node.disk.record.clean));
    world.compared.clear();
    world.start(A);
    world.start(B);
    world.run();
    world.expect_active();
    assert_eq!(world.compared, [Scope::Nothing]);
}

#[test]
fn a_survivor_of_a_clean_stop_that_is_stopped_too_stays_clean() {
    let mut world = World::active(1);
    world.stop(A);
    world.run();
    world.stop(B);
    world.run();
    assert!(world.nodes[B].ended && world.nodes[B].disk.record.clean);
}

#[test]
fn a_node_that_stops_outside_a_session_leaves_its_record_alone() {
    let mut world = World::active(1);
    world.kill(A, 0);
    world.run();
    world.stop(B);
    world.run();
    assert!(world.nodes[B].ended);
    assert_eq!(world.nodes[B].disk.record.state, RecordState::Active);
    assert!(!world.nodes[B].disk.record.clean);
}

#[test]
fn active_active_is_said_only_while_the_peer_says_so() {
    let mut world = World::active(1);
    world.net_up = false;
    world.pass(Duration::from_millis(300));
    assert!(world.view(A).serving, "a short silence changes nothing");
    world.pass(Duration::from_millis(200));
    for node in [A, B] {
        assert_eq!(world.view(node).state, StateWord::Deciding);
        assert!(!world.view(node).serving);
        assert!(!world.view(node).peer.reachable);
    }
}
