use base::ids::{Generation, Session};
use proptest::prelude::*;

use super::*;

const PAIR: PairId = PairId([1; 16]);
const RUN: WitnessRun = WitnessRun([9; 16]);

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// An arbiter, and random numbers for it.
#[derive(Clone)]
struct World {
    arbiter: Arbiter,
    now: Instant,
    random: u128,
    /// What each node has seen of each group, as its client would.
    seen: BTreeMap<String, u64>,
}

impl World {
    fn new() -> Self {
        let mut arbiter = Arbiter::new(at(0), RUN, Journal::default(), Rules::ALL_HOLD);
        let begun = Event::RunBegun { run: RUN, cause: RunCause::Start };
        assert_eq!(arbiter.poll_event(), Some(begun));
        Self { arbiter, now: at(0), random: 1, seen: BTreeMap::new() }
    }

    fn ask_as(&mut self, node: &str, peer: &str, question: Question) -> Answer {
        let connection = format!("{node} of {node} and {peer}");
        let seen = self.seen.get(&connection).copied().unwrap_or(0);
        let run = if seen == 0 { WitnessRun::NONE } else { self.arbiter.run() };
        let request =
            Request { id: 7, pair_id: PAIR, peer: name(peer), run, seen_counter: seen, question };
        self.random += 1;
        let random = self.random.to_le_bytes();
        let answer = self.arbiter.handle_request(self.now, &name(node), &request, random);
        assert_eq!((answer.id, answer.run), (7, self.arbiter.run()));
        self.seen.insert(connection, answer.counter);
        answer
    }

    fn ask(&mut self, node: &str, question: Question) -> Reply {
        let peer = if node == "a" { "b" } else { "a" };
        self.ask_as(node, peer, question).reply
    }

    fn create(&mut self, node: &str, nonce: u8) -> WitnessToken {
        match self.ask(node, Question::Create { nonce: TokenNonce([nonce; 16]) }) {
            Reply::Created { token } => token,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, node: &str, token: WitnessToken) -> Verdict {
        match self.ask(node, Question::Claim { token }) {
            Reply::Verdict(verdict) => verdict,
            other => panic!("{other:?}"),
        }
    }

    fn ping(&mut self, node: &str, token: WitnessToken) -> TokenState {
        match self.ask(node, Question::Ping { token: Some(token) }) {
            Reply::Pong(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.arbiter.poll_event()).collect()
    }
}

fn lost_to(winner: &str) -> Verdict {
    Verdict::Lost { winner: name(winner) }
}

#[test]
fn the_first_claim_decides_and_every_repetition_gets_the_same_answer() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let mut world = World::new();
        let token = world.create("a", 1);
        assert_eq!(world.ping("b", token), TokenState::Open);
        for _ in 0..3 {
            assert_eq!(world.claim(first, token), Verdict::Won);
            assert_eq!(world.claim(second, token), lost_to(first));
            assert_eq!(world.ping("a", token), TokenState::Decided(name(first)));
        }
    }
}

#[test]
fn a_verdict_is_logged_once_for_each_node_and_token() {
    let mut world = World::new();
    let token = world.create("a", 1);
    for _ in 0..3 {
        world.claim("a", token);
        world.claim("b", token);
        world.claim("b", token);
    }
    let events = world.events();
    let group = GroupId::new(PAIR, name("b"), name("a")).expect("two names");
    let claimed = |node: &str, verdict| {
        let (group, node) = (group.clone(), name(node));
        Event::Claimed { group, node, token, verdict }
    };
    let created = Event::Created { group: group.clone(), node: name("a"), token };
    assert_eq!(events, [created, claimed("a", Verdict::Won), claimed("b", lost_to("a"))]);
}

#[test]
fn one_wish_is_one_token_and_a_new_one_forgets_the_older() {
    let mut world = World::new();
    let first = world.create("a", 1);
    assert_eq!(world.create("a", 1), first);
    let second = world.create("b", 2);
    assert_ne!(first, second);
    assert_eq!(world.claim("a", first), Verdict::Unknown);
    // A repetition that comes late neither makes a token nor brings the old one back.
    assert_eq!(world.create("a", 1), first);
    assert_eq!(world.ping("a", first), TokenState::Unknown);
    assert_eq!(world.ping("a", second), TokenState::Open);
    assert_eq!(world.arbiter.token_count(), 1);
}

#[test]
fn what_another_run_has_made_is_unknown() {
    let mut world = World::new();
    let token = world.create("a", 1);
    assert_eq!(world.claim("a", token), Verdict::Won);
    let other = WitnessRun([8; 16]);
    world.arbiter.handle_generation_change(other);
    assert_eq!(world.claim("b", token), Verdict::Unknown);
    assert_eq!(world.claim("a", token), Verdict::Unknown);
    assert_ne!(world.create("a", 1), token, "not even with the same wish");
    let begun = Event::RunBegun { run: other, cause: RunCause::GenerationChanged };
    assert!(world.events().contains(&begun));
}

#[test]
fn a_node_that_has_seen_more_than_it_was_told_shows_a_rollback() {
    let mut world = World::new();
    let token = world.create("a", 1);
    world.ping("b", token);
    let snapshot = world.arbiter.clone();
    world.ping("b", token);
    assert_eq!(world.claim("a", token), Verdict::Won);
    // Back in time; then the node that won talks more than the other one ever heard.
    world.arbiter = snapshot;
    world.events();
    world.seen.remove("a of a and b");
    for _ in 0..10 {
        world.ask("a", Question::Ping { token: None });
    }
    assert_eq!(world.claim("b", token), Verdict::Unknown);
    assert_eq!(world.claim("a", token), Verdict::Unknown);
    let rolled_back = |event: &Event| matches!(event, Event::RolledBack { node, seen: 3, told: 2, .. } if *node == name("b"));
    assert!(world.events().iter().any(rolled_back));
    // It goes on from there: what both agree on afterwards counts.
    let again = world.create("a", 2);
    assert_eq!(world.ping("b", again), TokenState::Open);
    assert_eq!(world.claim("b", again), Verdict::Won);
    assert_eq!(world.events().iter().filter(|event| rolled_back(event)).count(), 0);
}

#[test]
fn the_counter_goes_up_with_every_message_of_the_group() {
    let mut world = World::new();
    let questions = [Question::Ping { token: None }, Question::Who];
    let mut last = 0;
    for question in questions.iter().cycle().take(6) {
        for node in ["a", "b"] {
            let peer = if node == "a" { "b" } else { "a" };
            let answer = world.ask_as(node, peer, question.clone());
            assert_eq!(answer.counter, last + 1);
            last = answer.counter;
        }
    }
    assert_eq!(world.ask_as("c", "d", Question::Who).counter, 1, "another group's is its own");
}

#[test]
fn a_node_of_another_pair_cannot_touch_a_token() {
    let mut world = World::new();
    let token = world.create("a", 1);
    for (node, peer) in [("c", "a"), ("c", "b"), ("d", "c")] {
        let claim = world.ask_as(node, peer, Question::Claim { token }).reply;
        assert_eq!(claim, Reply::Verdict(Verdict::Unknown));
        let ping = world.ask_as(node, peer, Question::Ping { token: Some(token) }).reply;
        assert_eq!(ping, Reply::Pong(TokenState::Unknown));
        world.ask_as(node, peer, Question::Create { nonce: TokenNonce([1; 16]) });
    }
    assert_eq!(world.claim("b", token), Verdict::Won);
    let itself = world.ask_as("a", "a", Question::Who).reply;
    assert!(matches!(itself, Reply::Refused { reason } if reason.contains("itself")));
}

#[test]
fn a_token_that_nobody_asks_about_is_forgotten() {
    let mut world = World::new();
    let token = world.create("a", 1);
    let day = WITNESS_TOKEN_AGE;
    world.now = at(0) + day;
    assert_eq!(world.ping("b", token), TokenState::Open);
    world.now = at(0) + day + day;
    assert_eq!(world.claim("b", token), Verdict::Won, "it was asked about");
    world.now = world.now + day + Duration::from_secs(1);
    assert_eq!(world.claim("b", token), Verdict::Unknown);
    assert!(world.events().iter().any(|event| matches!(event, Event::Forgotten { .. })));
    // And so is a group that is silent, by time alone.
    assert_eq!(world.arbiter.group_count(), 1);
    world.now = world.now + day + Duration::from_secs(1);
    assert!(world.arbiter.next_deadline().is_some_and(|at| at <= world.now));
    world.arbiter.handle_time(world.now);
    assert_eq!(world.arbiter.group_count(), 0);
    // Its nodes still count from before: no rollback.
    world.events();
    assert_eq!(world.ping("b", token), TokenState::Unknown);
    assert_eq!(world.events(), []);
    assert!(world.arbiter.next_deadline().is_some_and(|at| at > world.now));
}

#[test]
fn a_token_of_a_group_that_talks_is_forgotten_by_time() {
    let mut world = World::new();
    world.create("a", 1);
    for hour in 0..26 {
        world.now = at(hour * 3600);
        world.arbiter.handle_time(world.now);
        world.ask("a", Question::Who);
    }
    assert_eq!((world.arbiter.token_count(), world.arbiter.group_count()), (0, 1));
}

fn pair(number: usize) -> PairId {
    let mut id = PairId::NONE;
    id.0[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    id
}

/// A ping of group `number`, whose nodes have names of their own if `apart`.
fn ping_of(world: &mut World, number: usize, apart: bool) -> Reply {
    let (node, peer) =
        if apart { (format!("a{number}"), format!("b{number}")) } else { ("a".into(), "b".into()) };
    let request = Request {
        id: 1,
        pair_id: pair(number),
        peer: name(&peer),
        run: WitnessRun::NONE,
        seen_counter: 0,
        question: Question::Ping { token: None },
    };
    world.arbiter.handle_request(world.now, &name(&node), &request, [0; 16]).reply
}

#[test]
fn groups_are_bounded_and_one_that_is_silent_makes_room() {
    for (apart, max) in [(true, WITNESS_GROUPS_MAX), (false, WITNESS_NODE_GROUPS_MAX)] {
        let mut world = World::new();
        for number in 0..max {
            assert_eq!(ping_of(&mut world, number, apart), Reply::Pong(TokenState::Unknown));
        }
        let refused = ping_of(&mut world, max, apart);
        assert!(matches!(refused, Reply::Refused { .. }), "{refused:?}");
        assert_eq!(ping_of(&mut world, 0, apart), Reply::Pong(TokenState::Unknown));
        world.now = world.now + WITNESS_GROUP_SILENT;
        for number in 1..max {
            ping_of(&mut world, number, apart);
        }
        assert_eq!(ping_of(&mut world, max, apart), Reply::Pong(TokenState::Unknown));
        assert_eq!(world.arbiter.group_count(), max);
        let refused = ping_of(&mut world, 0, apart);
        assert!(matches!(refused, Reply::Refused { .. }), "the silent one has gone: {refused:?}");
    }
}

#[test]
fn notes_come_back_to_whom_they_concern() {
    let mut world = World::new();
    let note = |winner: &str| Note {
        session: Session(3),
        generation: Generation([4; 16]),
        winner: name(winner),
        forced: false,
    };
    assert_eq!(world.ask("a", Question::Note(note("a"))), Reply::Noted);
    assert_eq!(world.ask("a", Question::Note(note("a"))), Reply::Noted);
    assert_eq!(world.ask("b", Question::Who), Reply::Journal(vec![note("a")]));
    assert_eq!(world.ask_as("c", "b", Question::Who).reply, Reply::Journal(Vec::new()));
    let stranger = world.ask("a", Question::Note(note("c")));
    assert!(matches!(stranger, Reply::Refused { .. }), "{stranger:?}");
    let noted = world.events();
    assert_eq!(noted.iter().filter(|event| matches!(event, Event::Noted { .. })).count(), 1);
}

#[test]
fn times_and_counters_may_be_moved_as_long_as_their_order_stays() {
    let mut world = World::new();
    let token = world.create("a", 1);
    world.ping("b", token);
    let later = Duration::from_secs(30 * 24 * 3600);
    let mut moved = world.clone();
    moved.now = moved.now + later;
    moved.arbiter.each_instant(|at| *at = *at + later);
    moved.arbiter.each_counter(|_, counter| *counter += 1000);
    moved.seen.values_mut().for_each(|seen| *seen += 1000);
    assert_ne!(moved.arbiter, world.arbiter);
    for world in [&mut world, &mut moved] {
        world.now = world.now + WITNESS_TOKEN_AGE;
        assert_eq!(world.claim("b", token), Verdict::Won);
        assert_eq!(world.claim("a", token), lost_to("b"));
        world.now = world.now + WITNESS_TOKEN_AGE + Duration::from_secs(1);
        assert_eq!(world.ping("a", token), TokenState::Unknown);
    }
    moved.arbiter.each_instant(|at| *at = Instant::ZERO + at.since(Instant::ZERO + later));
    moved.arbiter.each_counter(|_, counter| *counter -= 1000);
    assert_eq!(moved.arbiter, world.arbiter);
}

#[derive(Clone, Debug)]
enum Step {
    Create { node: usize, nonce: u8 },
    Claim { node: usize, token: prop::sample::Index },
    Ping { node: usize, token: prop::sample::Index },
    Restart,
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..4usize;
    let token = any::<prop::sample::Index>();
    prop_oneof![
        (node.clone(), 0..6u8).prop_map(|(node, nonce)| Step::Create { node, nonce }),
        (node.clone(), token.clone()).prop_map(|(node, token)| Step::Claim { node, token }),
        (node, token).prop_map(|(node, token)| Step::Ping { node, token }),
        Just(Step::Restart),
        Just(Step::Wait),
    ]
}

proptest! {
    /// I4: against a model that remembers every token ever made and everybody who won it.
    #[test]
    fn no_token_is_won_twice_nor_in_another_run(steps in prop::collection::vec(step(), 1..200)) {
        const NODES: [(&str, &str); 4] = [("a", "b"), ("b", "a"), ("c", "b"), ("b", "c")];
        let mut world = World::new();
        let mut made: Vec<(WitnessToken, WitnessRun, [&str; 2])> = Vec::new();
        let mut won: BTreeMap<WitnessToken, String> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Create { node, nonce } => {
                    let (node, peer) = NODES[node];
                    let nonce = TokenNonce([nonce; 16]);
                    let reply = world.ask_as(node, peer, Question::Create { nonce }).reply;
                    let Reply::Created { token } = reply else { panic!("{reply:?}") };
                    made.push((token, world.arbiter.run(), [node, peer]));
                }
                Step::Claim { node, token } if !made.is_empty() => {
                    let (node, peer) = NODES[node];
                    let (token, run, nodes) = *token.get(&made);
                    let reply = world.ask_as(node, peer, Question::Claim { token }).reply;
                    if reply == Reply::Verdict(Verdict::Won) {
                        prop_assert_eq!(run, world.arbiter.run());
                        prop_assert!(nodes.contains(&node) && nodes.contains(&peer));
                        let winner = won.entry(token).or_insert_with(|| node.to_owned());
                        prop_assert_eq!(winner.as_str(), node);
                    }
                }
                Step::Ping { node, token } if !made.is_empty() => {
                    let (node, peer) = NODES[node];
                    let token = Some(token.get(&made).0);
                    world.ask_as(node, peer, Question::Ping { token });
                }
                Step::Claim { .. } | Step::Ping { .. } => {}
                Step::Restart => {
                    let run = WitnessRun([(world.random % 251) as u8; 16]);
                    if run != world.arbiter.run() {
                        world.arbiter.handle_generation_change(run);
                        world.seen.clear();
                        made.retain(|(_, of, _)| *of != run);
                    }
                }
                Step::Wait => {
                    world.now = world.now + WITNESS_TOKEN_AGE / 2;
                    world.arbiter.handle_time(world.now);
                }
            }
        }
    }
}
