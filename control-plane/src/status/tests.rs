use super::*;

fn example() -> NodeStatus {
    let name = |text: &str| text.parse::<NodeName>().expect("a name");
    NodeStatus {
        state: StateWord::ResyncSource,
        mode: Mode::Preferred(name("a")),
        serving: true,
        session: Session(7),
        orderer: Some(name("a")),
        dirty_bytes: Some(3 << 20),
        cause: "b was away".to_owned(),
        advice: "wait until the copy is done".to_owned(),
        survives: vec![Fault::Node(name("b")), Fault::Link, Fault::Witness],
        uptime_ms: 93_784_005,
        pids: Pids { node: 4711, supervisor: Some(4710) },
        peer: PeerStatus {
            name: name("b"),
            reachable: true,
            state: Some(StateWord::ResyncTarget),
            last_seen_ms: Some(12),
            grant_ms: None,
        },
        witness: Some(WitnessStatus { name: name("w"), reachable: false, last_seen_ms: None }),
        volumes: vec![
            VolumeStatus {
                name: "vol0".parse().expect("a name"),
                size: 1 << 30,
                dirty_bytes: Some(3 << 20),
                marked_bytes: Some(5 << 20),
                clients: 2,
                resync: Some(ResyncStatus {
                    role: ResyncRole::Source,
                    done_bytes: 512 << 20,
                    todo_bytes: 512 << 20,
                    bytes_per_s: Some(200 << 20),
                    eta_ms: Some(2560),
                }),
            },
            VolumeStatus {
                name: "a-longer-name".parse().expect("a name"),
                size: 4096,
                dirty_bytes: None,
                marked_bytes: None,
                clients: 0,
                resync: None,
            },
        ],
        ..NodeStatus::starting(name("a"), name("b"), name("a"), 1)
    }
}

fn beginning() -> NodeStatus {
    let name = |text: &str| text.parse::<NodeName>().expect("a name");
    NodeStatus::starting(name("a"), name("b"), name("b"), 4711)
}

#[test]
fn the_json_is_golden() {
    let json = |status: &NodeStatus| serde_json::to_string_pretty(status).expect("has a JSON form");
    insta::assert_snapshot!("json", json(&example()));
    insta::assert_snapshot!("json_starting", json(&beginning()));
}

#[test]
fn the_json_reads_back() {
    for status in [example(), beginning()] {
        let text = serde_json::to_string(&status).expect("has a JSON form");
        let read: NodeStatus = serde_json::from_str(&text).expect("reads back");
        assert_eq!(read, status);
    }
}

#[test]
fn a_newer_node_may_say_more() {
    let mut value = serde_json::to_value(example()).expect("has a JSON form");
    value["weather"] = "fine".into();
    let read: NodeStatus = serde_json::from_value(value).expect("more keys are no error");
    assert_eq!(read, example());
}

#[test]
fn the_text_is_golden() {
    insta::assert_snapshot!("text", render(&example()));
    insta::assert_snapshot!("text_starting", render(&beginning()));
}

#[test]
fn one_line_per_change() {
    insta::assert_snapshot!(change_line(&example()));
    let mut later = example();
    later.uptime_ms += 1000;
    later.peer.last_seen_ms = Some(3);
    if let Some(resync) = &mut later.volumes[0].resync {
        resync.done_bytes += 1;
        resync.todo_bytes -= 1;
    }
    assert_eq!(change_line(&later), change_line(&example()));
    later.state = StateWord::ActiveActive;
    assert_ne!(change_line(&later), change_line(&example()));
}

#[test]
fn modes_read_back() {
    for text in ["witnessed", "preferred:a", "none"] {
        assert_eq!(text.parse::<Mode>().map(|mode| mode.to_string()), Ok(text.to_owned()));
    }
    for text in ["preferred", "preferred:", "witness", ""] {
        assert_eq!(text.parse::<Mode>(), Err(ModeError), "{text}");
    }
}

#[test]
fn what_a_silent_peer_said_last_is_not_told_as_current() {
    let mut status = example();
    status.peer.reachable = false;
    let text = render(&status);
    assert!(text.contains("peer b     not reachable, was resync-target, heard 12ms ago"), "{text}");
}

#[test]
fn waiting_asks_for_state_and_mode() {
    let status = example();
    let wanted = |state, mode| Wanted { state, mode };
    assert!(status.is(&wanted(StateWord::ResyncSource, None)));
    assert!(
        status.is(&wanted(StateWord::ResyncSource, Some(Mode::Preferred("a".parse().unwrap()))))
    );
    assert!(!status.is(&wanted(StateWord::ResyncSource, Some(Mode::None))));
    assert!(!status.is(&wanted(StateWord::ActiveActive, None)));
}

#[test]
fn an_old_report_is_not_fresh() {
    let report = StatusReport { at: Instant::ZERO, status: beginning() };
    assert!(report.fresh(Instant::ZERO + REPORT_AGE_MAX));
    assert!(!report.fresh(Instant::ZERO + REPORT_AGE_MAX + Duration::from_nanos(1)));
}
