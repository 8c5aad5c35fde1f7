//! What breaks, and how it heals: the rows of PROTOCOL 2.12 that need no votes, and 2.8.1.

use base::ids::{ConnNonce, Incarnation, PairId, Session, VolumeIndex};
use base::time::Duration;
use datapath::port::{Scope, VolumeReport};
use datapath::storage::IoFault;

use super::world::{A, B, DurableStepKind, World};
use crate::polarization::{DurableDone, DurableStep, GroupView};
use crate::record::{Continuity, RecordState};
use crate::state_word::StateWord;
use crate::wire::{ControlMessage, Heartbeat};

const SECOND: Duration = Duration::from_secs(1);

/// Both serve again, everything acknowledged is there, and `source` was the source.
fn expect_healed(world: &mut World, source: usize) {
    world.run();
    world.expect_active();
    let orderer = world.view(A).orderer.expect("a session has one");
    assert_eq!(orderer, super::world::name(source));
    for (index, written) in world.acknowledged.iter().enumerate() {
        assert_eq!(world.nodes[A].disk.volumes[index].cached, *written);
    }
}

#[test]
fn a_killed_node_comes_back_as_target_of_the_one_that_ran_on() {
    for killed in [A, B] {
        let mut world = World::active(2);
        world.write(killed, 1, false);
        world.kill(killed, 0);
        world.run();
        let view = world.view(1 - killed);
        assert_eq!(view.state, StateWord::Deciding);
        assert!(view.cause.contains("nobody serves"), "{view:?}");
        world.compared.clear();
        world.start(killed);
        expect_healed(&mut world, 1 - killed);
        assert_eq!(world.compared, [Scope::Everything; 2]);
        assert_eq!(world.view(A).session, Session(2));
    }
}

#[test]
fn both_killed_come_back_with_the_smaller_name_as_source() {
    let mut world = World::active(1);
    world.write(B, 0, false);
    world.kill(A, 0);
    world.kill(B, 0);
    world.start(B);
    world.run();
    world.start(A);
    expect_healed(&mut world, A);
}

/// I13.
#[test]
fn a_node_whose_machine_was_reset_is_never_the_source_against_one_that_was_not() {
    for reset in [A, B] {
        let mut world = World::active(1);
        world.write(reset, 0, false);
        world.power_cut(reset, 0);
        world.kill(1 - reset, 0);
        world.start(A);
        world.start(B);
        expect_healed(&mut world, 1 - reset);
    }
}

#[test]
fn a_power_cut_of_both_keeps_what_was_flushed() {
    let mut world = World::active(1);
    let flushed = world.write(A, 0, true).expect("both serve");
    world.write(B, 0, false);
    world.power_cut(A, 0);
    world.power_cut(B, 0);
    world.acknowledged[0] = flushed;
    world.start(A);
    world.start(B);
    expect_healed(&mut world, A);
}

/// F0.
#[test]
fn continuity_is_never_computed_away_by_a_second_restart() {
    let mut world = World::active(1);
    world.write(A, 0, false);
    world.power_cut(A, 0);
    world.kill(B, 0);
    world.start(A);
    world.run();
    world.kill(A, 0);
    world.start(A);
    assert_eq!(world.group(A).record.continuity, Continuity::Unclean);
    world.start(B);
    expect_healed(&mut world, B);
}

/// I3.
#[test]
fn a_reset_connection_heals_at_once_with_a_higher_session() {
    let mut world = World::active(1);
    world.write(A, 0, false);
    world.reset_connections();
    expect_healed(&mut world, A);
    assert_eq!(world.view(B).session, Session(2));
}

/// L5.
#[test]
fn a_silent_link_is_left_after_t_sus_and_clients_are_closed_at_t_hold() {
    let mut world = World::active(1);
    world.net_up = false;
    world.pass(Duration::from_millis(350));
    assert!(world.view(A).serving, "not before T_sus");
    world.pass(Duration::from_millis(30));
    for node in [A, B] {
        assert_eq!(world.view(node).state, StateWord::Deciding);
        assert!(world.nodes[node].volumes[0].session.is_none());
        assert!(!world.nodes[node].volumes[0].discarded);
    }
    world.pass(SECOND * 5);
    for node in [A, B] {
        assert_eq!(world.view(node).state, StateWord::Limbo);
        assert!(world.nodes[node].volumes[0].discarded);
        let why = &world.nodes[node].decisions.last().expect("it was active").why;
        assert!(why.contains("their clients are given up"), "{why}");
    }
    world.net_up = true;
    world.pass(SECOND);
    expect_healed(&mut world, A);
}

#[test]
fn a_silence_of_a_second_heals_before_clients_are_closed() {
    let mut world = World::active(1);
    world.net_up = false;
    world.pass(SECOND);
    world.net_up = true;
    world.pass(SECOND);
    expect_healed(&mut world, A);
    assert!(world.nodes.iter().all(|node| !node.volumes[0].discarded));
}

#[test]
fn a_node_that_was_frozen_itself_does_not_blame_its_peer() {
    let mut world = World::active(1);
    world.now = world.now + SECOND;
    world.feed(A, |group, now| group.handle_time(now));
    assert_eq!(world.view(A).session, Session(1));
    assert!(world.group(A).is_serving(), "its own pause says nothing about the peer");
    assert!(!world.nodes[A].gate.usable(world.now), "but reads wait until it hears the peer");
    world.pass(Duration::from_millis(200));
    assert!(world.nodes[A].gate.usable(world.now));
    world.expect_active();
    assert_eq!(world.view(B).session, Session(1));
}

/// W6.
#[test]
fn a_lost_data_connection_ends_the_session_for_all_volumes() {
    let mut world = World::active(3);
    let conn_nonce = world.group(A).conn_nonce().expect("it is up");
    let lost = VolumeReport::LinkLost { conn_nonce, why: "reset".to_owned() };
    world.feed(A, |group, now| group.handle_volume(now, VolumeIndex(1), lost));
    assert!(!world.view(A).serving);
    expect_healed(&mut world, A);
    assert_eq!(world.view(A).session, Session(2));
}

#[test]
fn a_stuck_peer_ends_the_session_and_an_old_report_does_not() {
    let mut world = World::active(1);
    for session in [Session(0), Session(9)] {
        let stuck = VolumeReport::PeerStuck { session, waited_ms: 2000 };
        world.feed(A, |group, now| group.handle_volume(now, VolumeIndex(0), stuck));
        assert!(world.view(A).serving);
    }
    let stuck = VolumeReport::PeerStuck { session: Session(1), waited_ms: 2000 };
    world.feed(A, |group, now| group.handle_volume(now, VolumeIndex(0), stuck));
    assert!(!world.view(A).serving);
    expect_healed(&mut world, A);
    assert_eq!(world.messages("LEFT"), 1);
}

#[test]
fn a_disk_that_does_not_answer_is_named_at_both_nodes_and_the_peer_is_not_blamed() {
    for slow in [A, B] {
        let mut world = World::active(2);
        let (node, path) = (["a", "b"][slow], format!("({}/vol.img)", ["a", "b"][slow]));
        let stuck = VolumeReport::DiskStuck { session: Session(1), waited_ms: 2000 };
        world.feed(slow, |group, now| group.handle_volume(now, VolumeIndex(1), stuck));
        assert!(!world.view(slow).serving);
        let GroupView { cause, advice, .. } = world.view(slow);
        let what = format!("the disk of {node} has not completed a request of volume ");
        assert!(cause.starts_with(&what) && cause.contains(&path), "{cause}");
        assert!(advice.ends_with(&format!("look at the disk of node {node}")), "{advice}");
        while world.view(1 - slow).serving {
            assert!(world.step(0), "LEFT is under way");
        }
        let cause = world.view(1 - slow).cause;
        assert!(cause.starts_with(&format!("{node} left ({what}")), "{cause}");
        expect_healed(&mut world, A);
    }
}

fn fail_disk(world: &mut World, node: usize) {
    let failed = VolumeReport::DiskFailed { fault: IoFault::NoSpace, operation: "write" };
    world.feed(node, |group, now| group.handle_volume(now, VolumeIndex(0), failed));
}

/// W8: in this order.
#[test]
fn a_failed_disk_is_recorded_then_told_and_mended_from_the_other_node() {
    for failed in [A, B] {
        let mut world = World::active(1);
        world.write(failed, 0, false);
        fail_disk(&mut world, failed);
        let view = world.view(failed);
        assert!(!view.serving, "it stops at once");
        assert!(view.cause.contains("a disk of node") && !view.advice.is_empty(), "{view:?}");
        assert!(!world.nodes[failed].volumes[0].failure_recorded);
        world.run();
        assert!(world.nodes[failed].volumes[0].failure_recorded);
        let record = &world.nodes[failed].disk.record;
        assert!(record.io_failed && record.continuity == Continuity::Unclean);
        let view = world.view(failed);
        let text = format!("{} {}", view.cause, view.advice);
        for part in ["vol.img", "write failed", "no space left", "is intact", "free space"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let peer = world.view(1 - failed);
        assert!(peer.cause.contains("its disk failed"));
        assert!(peer.advice.contains("free space or mend the disk of node"), "{peer:?}");
        world.pass(SECOND * 4);
        let peer = world.view(1 - failed);
        assert!(peer.advice.contains("free space or mend the disk of node"), "{peer:?}");
        assert!(!world.view(A).serving, "it does not try again at once");
        world.pass(SECOND * 2);
        expect_healed(&mut world, 1 - failed);
        assert!(!world.nodes[failed].disk.record.io_failed, "F7 clears it");
    }
}

#[test]
fn the_rewriting_of_a_failed_copy_is_not_called_a_comparison() {
    let mut world = World::active(1);
    world.write(A, 0, false);
    fail_disk(&mut world, A);
    world.run();
    world.kill(A, 0);
    world.start(A);
    while world.view(A).state != StateWord::ResyncTarget {
        assert!(world.step(0));
    }
    let cause = world.view(A).cause;
    assert!(cause.contains("its whole copy is being written anew from b's"), "{cause}");
    let cause = world.view(B).cause;
    assert!(cause.contains("all of b's copy is being copied to a"), "{cause}");
}

#[test]
fn a_record_directory_that_is_lost_on_the_way_is_in_status() {
    let mut world = World::new(1, None, false);
    world.start(A);
    let Some((ticket, _)) = world.nodes[A].job.take() else { panic!("F0 is under way") };
    let lost_place = Some("a/record-2/record: no space left".to_owned());
    let done = Ok(DurableDone { lost_place });
    world.feed(A, |group, now| group.handle_durable(now, ticket, done));
    let view = world.view(A);
    let expected = "a/record-2/record: no space left; the record is kept twice in the other";
    assert!(view.cause.contains(expected), "{view:?}");
}

#[test]
fn no_copy_is_called_intact_whose_node_says_that_its_disk_failed() {
    let mut world = World::active(1);
    fail_disk(&mut world, A);
    fail_disk(&mut world, B);
    world.run();
    world.pass(SECOND * 2);
    for node in [A, B] {
        let GroupView { cause, advice, .. } = world.view(node);
        assert!(!cause.contains("intact") && cause.contains("failed, too"), "{cause}");
        assert!(advice.contains("both nodes") && cause.contains("vol.img"), "{cause}: {advice}");
    }
}

#[test]
fn a_disk_that_goes_on_failing_is_tried_at_intervals() {
    let mut world = World::active(1);
    fail_disk(&mut world, B);
    let mut tries = 0;
    for _ in 0..30 {
        world.pass(SECOND);
        if world.view(B).serving {
            tries += 1;
            fail_disk(&mut world, B);
        }
    }
    assert!((3..=6).contains(&tries), "{tries}");
}

#[test]
fn a_job_that_fails_during_the_join_is_a_failed_disk() {
    for kind in [DurableStepKind::Data, DurableStepKind::Record] {
        for node in [A, B] {
            let mut world = World::new(1, None, false);
            world.start(A);
            world.start(B);
            while world.view(node).state == StateWord::Starting {
                assert!(world.step(0));
            }
            world.nodes[node].fail_step = Some(kind);
            world.run();
            assert!(!world.view(A).serving && !world.view(B).serving, "{kind:?} {node}");
            world.pass(SECOND * 12);
            world.expect_active();
        }
    }
}

/// I10.
#[test]
fn a_replaced_image_is_named_and_copied_and_never_the_source() {
    for replaced in [A, B] {
        let mut world = World::active(1);
        world.write(A, 0, false);
        world.stop(replaced);
        world.run();
        let volume = &mut world.nodes[replaced].disk.volumes[0];
        (volume.cached, volume.durable, volume.empty) = (0, 0, true);
        volume.stamp = Err("there is none".to_owned());
        world.start(replaced);
        let view = world.view(replaced);
        assert!(view.cause.contains("vol.img: data replaced or rolled back"), "{view:?}");
        assert!(view.cause.contains("never the source"));
        world.compared.clear();
        expect_healed(&mut world, 1 - replaced);
        assert_eq!(world.compared, [Scope::Everything]);
    }
}

/// I11.
#[test]
fn a_whole_node_restored_from_an_earlier_day_is_never_the_source() {
    for restored in [A, B] {
        let mut world = World::active(1);
        world.write(A, 0, false);
        world.stop(restored);
        world.run();
        let backup = world.nodes[restored].disk.clone();
        world.start(restored);
        world.run();
        world.write(B, 0, false);
        world.stop(A);
        world.stop(B);
        world.run();
        world.nodes[restored].disk = backup;
        world.compared.clear();
        world.start(A);
        world.start(B);
        expect_healed(&mut world, 1 - restored);
        assert_eq!(world.compared, [Scope::Everything]);
    }
}

#[test]
fn two_copies_that_were_both_lost_are_left_alone() {
    let mut world = World::active(1);
    world.stop(A);
    world.run();
    world.stop(B);
    world.run();
    for node in [A, B] {
        world.nodes[node].disk.volumes[0].stamp = Err("there is none".to_owned());
        world.nodes[node].steps.clear();
        world.start(node);
    }
    world.run();
    world.pass(SECOND);
    for node in [A, B] {
        let view = world.view(node);
        assert!(!view.serving && view.peer.reachable);
        assert!(view.cause.contains("nobody serves"), "{view:?}");
        assert!(view.cause.contains("if that one is good"), "{view:?}");
        assert!(view.advice.contains("both copies are kept as they are"), "{view:?}");
        assert!(world.nodes[node].steps.iter().all(|step| !step.starts_with("record Target")));
    }
}

/// I5.
#[test]
fn a_target_is_never_the_source_whatever_else_is_true() {
    let mut world = World::active(1);
    world.write(A, 0, false);
    world.kill(B, 0);
    world.start(B);
    while !matches!(world.nodes[B].disk.record.state, RecordState::Target { .. }) {
        assert!(world.step(0));
    }
    world.kill(B, 0);
    world.power_cut(A, 0);
    world.nodes[A].disk.volumes[0].cached = world.acknowledged[0];
    world.start(B);
    world.start(A);
    expect_healed(&mut world, A);
}

#[test]
fn another_pair_is_refused_by_both_with_the_reason() {
    let mut world = World::new(1, None, false);
    world.nodes[B].disk.record.pair_id = PairId([7; 16]);
    world.start(A);
    world.start(B);
    world.run();
    for node in [A, B] {
        let view = world.view(node);
        assert_eq!(view.state, StateWord::Broken);
        assert!(view.cause.contains("belongs to pair"), "{view:?}");
    }
    assert_eq!(world.messages("REFUSE"), 2);
    world.pass(SECOND);
    assert_eq!(world.messages("REFUSE"), 2, "it is said once per connection");
    assert!(world.nodes.iter().all(|node| node.steps.len() == 2), "nothing but F0 was written");
}

#[test]
fn a_stop_that_the_peer_does_not_answer_ends_in_time_and_is_not_clean() {
    let mut world = World::active(1);
    world.net_up = false;
    world.stop(A);
    world.pass(Duration::from_secs(9));
    assert!(world.nodes[A].ended);
    assert!(!world.nodes[A].disk.record.clean);
    let last = &world.nodes[A].decisions.last().expect("it stopped").why;
    assert!(last.starts_with("stopped, not cleanly: the next join compares everything"), "{last}");
}

#[test]
fn a_crash_at_every_step_of_a_clean_stop_loses_nothing() {
    for crashed in [A, B] {
        for steps in 0..40 {
            let mut world = World::active(1);
            world.write(A, 0, false);
            world.stop(A);
            for _ in 0..steps {
                world.step(0);
            }
            world.kill(crashed, steps % 3);
            world.run();
            world.pass(SECOND * 7);
            for node in [A, B] {
                if world.nodes[node].group.is_none() {
                    world.start(node);
                }
            }
            world.run();
            world.pass(SECOND);
            world.expect_active();
            assert_eq!(world.nodes[A].disk.volumes[0].cached, world.acknowledged[0]);
        }
    }
}

/// P6: this is what F5, F6, F7, F8 and F8b are for.
#[test]
fn a_power_cut_at_every_step_of_a_join_loses_nothing_that_was_flushed() {
    for cut in [A, B] {
        for count in 0..60 {
            let mut world = World::active(1);
            world.write(B, 0, true);
            world.kill(B, 0);
            world.start(B);
            for _ in 0..count {
                world.step(0);
            }
            world.power_cut(cut, count % 4);
            world.run();
            world.start(cut);
            world.run();
            world.pass(SECOND);
            world.expect_active();
            assert_eq!(world.nodes[A].disk.volumes[0].cached, world.flushed[0]);
        }
    }
}

fn beat(incarnation: u8) -> ControlMessage {
    ControlMessage::Heartbeat(Heartbeat {
        id: 1,
        incarnation: Incarnation([incarnation; 16]),
        heard_ms: 0,
        state: StateWord::Starting,
        serving: false,
        io_failed: false,
    })
}

/// Not that of an older process either, whose last words were late: the newer one has joined.
#[test]
fn a_second_connection_does_not_disturb_the_session() {
    for incarnation in [1, 2] {
        let mut world = World::active(1);
        let offered = ConnNonce([200; 16]);
        let group = world.nodes[B].group.as_mut().expect("it runs");
        group.handle_control_up(world.now, offered);
        group.handle_control(world.now, offered, beat(incarnation));
        let mut closed = Vec::new();
        while let Some(action) = group.poll_action() {
            if let crate::polarization::Action::CloseControl { conn_nonce, .. } = action {
                closed.push(conn_nonce);
            }
        }
        assert_eq!(closed, [offered]);
        world.expect_active();
    }
}

#[test]
fn a_message_out_of_turn_ends_the_session_and_nothing_else() {
    let rounds = || vec![1];
    let session = Session(1);
    let messages = [
        ControlMessage::SyncReady { session },
        ControlMessage::SyncDone { session, rounds: rounds() },
        ControlMessage::AaGo { session },
        ControlMessage::AaGoAck { session: Session(99) },
        ControlMessage::FreezeAck { session },
        ControlMessage::RoundDone { session, rounds: rounds() },
        ControlMessage::Refuse { reason: "no".to_owned() },
        ControlMessage::Freeze { session: Session(5) },
    ];
    for message in messages {
        let mut world = World::active(1);
        let nonce = world.group(A).conn_nonce().expect("it is up");
        world.feed(A, |group, now| group.handle_control(now, nonce, message.clone()));
        assert!(!world.view(A).serving, "{message:?}");
        assert!(world.view(A).cause.contains("broke the protocol"), "{message:?}");
        expect_healed(&mut world, A);
    }
}

#[test]
fn a_join_that_fails_at_its_end_does_not_hold_requests_for_longer() {
    let mut world = World::active(1);
    world.net_up = false;
    world.pass(SECOND * 4);
    world.net_up = true;
    while world.nodes[A].volumes[0].session.is_none() {
        if !world.step(0) {
            world.pass(Duration::from_millis(10));
        }
    }
    assert!(!world.view(A).serving, "the volume has entered, hosts are not served yet");
    world.reset_connections();
    world.net_up = false;
    world.pass(Duration::from_millis(1500));
    assert!(world.nodes[A].volumes[0].discarded, "T_hold counts from when the session was left");
}

/// L5: also while the peer is there and its disk is not.
#[test]
fn a_join_whose_last_step_hangs_closes_clients_at_t_hold() {
    let mut world = World::active(1);
    world.reset_connections();
    while world.nodes[A].volumes[0].session.is_none() {
        assert!(world.step(0), "the join goes on by itself");
    }
    world.nodes[B].hung = true;
    world.pass(Duration::from_millis(4900));
    assert_eq!(world.view(A).state, StateWord::ResyncSource);
    assert!(!world.nodes[A].volumes[0].discarded);
    world.pass(Duration::from_millis(200));
    assert!(world.nodes[A].volumes[0].discarded);
    assert_eq!(world.view(A).state, StateWord::Limbo);
    assert!(world.view(A).cause.contains("last step"), "{}", world.view(A).cause);
    world.nodes[B].hung = false;
    world.pass(SECOND);
    expect_healed(&mut world, A);
}

/// D11: what becomes of the flush when the process ends, nobody learns.
#[test]
fn a_flush_that_takes_longer_than_t_io_is_remembered_until_it_is_done() {
    for (node, killed) in [(A, false), (B, false), (A, true), (B, true)] {
        let mut world = World::active(1);
        world.reset_connections();
        let flushes = |step: &DurableStep| matches!(step, DurableStep::SyncData(_));
        while !world.nodes[node].job.as_ref().is_some_and(|(_, job)| job.iter().any(flushes)) {
            assert!(world.step(0), "the join goes on by itself");
        }
        world.nodes[node].hung = true;
        world.pass(Duration::from_millis(1900));
        assert!(!world.nodes[node].disk_late);
        world.pass(Duration::from_millis(200));
        assert!(world.nodes[node].disk_late);
        world.nodes[node].hung = false;
        if killed {
            world.kill(node, 0);
            world.start(node);
            assert!(world.group(node).record.io_failed);
        }
        world.pass(SECOND * 10);
        world.expect_active();
        assert!(!world.nodes[node].disk_late);
        let rewritten = world.compared.last() == Some(&Scope::Rewrite);
        assert_eq!(rewritten, killed, "{:?}", world.compared);
    }
}

/// D11: the mark below /run stands until a record that was begun after it says so.
#[test]
fn a_disk_that_fails_again_is_recorded_again() {
    let mut world = World::active(1);
    for count in 1..=3 {
        fail_disk(&mut world, A);
        world.run();
        assert!(world.nodes[A].disk.record.io_failed);
        let steps = world.nodes[A].steps.iter().filter(|step| *step == "record Active");
        assert_eq!(steps.count(), 1 + count);
    }
}

/// A join waits long for a disk, but not for ever and never without a word.
#[test]
fn a_join_that_goes_no_further_is_left_with_what_it_waited_for() {
    let mut world = World::active(1);
    world.reset_connections();
    while world.messages("SYNC_START") < 2 {
        assert!(world.step(0), "the join goes on by itself");
    }
    world.nodes[B].hung = true;
    world.pass(SECOND * 119);
    assert_eq!(world.view(A).state, StateWord::ResyncSource);
    world.pass(SECOND * 2);
    assert_eq!(world.view(A).state, StateWord::Limbo);
    assert!(world.view(A).cause.contains("SYNC_READY"), "{}", world.view(A).cause);
    world.nodes[B].hung = false;
    world.pass(SECOND);
    expect_healed(&mut world, A);
}

/// L5: the clock of its clients went on while it was stopped.
#[test]
fn a_node_that_was_stopped_for_longer_than_t_hold_closes_its_clients_as_it_wakes_up() {
    for (stopped, closed) in [(SECOND * 8, true), (SECOND, false)] {
        let mut world = World::active(1);
        world.nodes[B].asleep = true;
        world.pass(stopped);
        assert_eq!(world.nodes[A].volumes[0].discarded, closed);
        assert!(world.nodes[B].volumes[0].session.is_some(), "it sleeps");
        // What the peer said before it left is heard now.
        world.nodes[B].asleep = false;
        while world.nodes[B].volumes[0].session.is_some() {
            assert!(world.step(0), "it finds out by itself");
        }
        assert_eq!(world.nodes[B].volumes[0].discarded, closed);
        world.pass(SECOND);
        expect_healed(&mut world, A);
    }
}

/// I9: what its peer said before it left is old news to one that wakes up.
#[test]
fn a_node_that_wakes_up_serves_nothing_before_it_has_read_everything() {
    let mut world = World::active(1);
    world.nodes[B].asleep = true;
    world.pass(SECOND);
    world.nodes[B].asleep = false;
    while world.nodes[B].volumes[0].session.is_some() {
        assert!(!world.nodes[B].gate.usable(world.now));
        assert!(world.step(0), "it finds out by itself");
    }
    world.pass(SECOND);
    expect_healed(&mut world, A);
}

/// A round that nobody made would count as a rollback for ever.
#[test]
fn a_clean_stop_takes_only_the_round_that_both_nodes_make() {
    let mut world = World::active(1);
    world.stop(B);
    while world.messages("ROUND_DONE") == 0 {
        assert!(world.step(0), "the stop goes on by itself");
    }
    let (session, rounds) = (world.view(A).session, vec![1 << 40]);
    let nonce = world.group(A).conn_nonce().expect("still connected");
    let absurd = ControlMessage::RoundDone { session, rounds };
    world.feed(A, |group, now| group.handle_control(now, nonce, absurd));
    world.run();
    let header = world.nodes[A].disk.volumes[0].header;
    assert!(header.peer_round < 10, "{header:?}");
    assert!(!world.nodes[A].disk.record.clean);
}
