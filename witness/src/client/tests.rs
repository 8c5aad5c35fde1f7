use base::ids::{Generation, Session};

use super::*;
use crate::arbiter::Arbiter;
use crate::journal::Journal;

const RULES: Rules = Rules::ALL_HOLD;

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn run_of(number: u8) -> WitnessRun {
    WitnessRun([number; 16])
}

/// A client of node a with real witnesses behind it, whose answers come at once.
struct World {
    client: Client,
    now: Instant,
    /// What is there of each witness of the list; none: nobody listens.
    witnesses: Vec<Option<Arbiter>>,
    /// The connection that is up, and to which witness.
    up: Option<(u64, usize)>,
    /// Requests are taken and not answered.
    silent: bool,
    told: Vec<Event>,
    sent: Vec<Request>,
    dialed: Vec<(Instant, usize)>,
    random: u8,
}

impl World {
    fn new(count: usize) -> Self {
        let now = Instant::ZERO + Duration::from_secs(100);
        let names = (0..count).map(|number| name(&format!("w{number}")));
        let config = ClientConfig {
            pair_id: PairId([1; 16]),
            peer: name("b"),
            witnesses: names.collect(),
            timers: WitnessTimers::DEFAULT,
            rules: RULES,
        };
        let client = Client::new(now, config);
        let mut world = Self {
            client,
            now,
            witnesses: vec![None; count],
            up: None,
            silent: false,
            told: Vec::new(),
            sent: Vec::new(),
            dialed: Vec::new(),
            random: 0,
        };
        (0..count).for_each(|index| world.start(index, 10 + index as u8));
        world.client.handle_time(now);
        world
    }

    fn start(&mut self, index: usize, run: u8) {
        let arbiter = Arbiter::new(self.now, run_of(run), Journal::default(), RULES);
        self.witnesses[index] = Some(arbiter);
        self.cut(index);
    }

    fn stop(&mut self, index: usize) {
        self.witnesses[index] = None;
        self.cut(index);
    }

    fn cut(&mut self, index: usize) {
        if let Some((attempt, _)) = self.up.take_if(|(_, witness)| *witness == index) {
            self.client.handle_lost(self.now, attempt);
        }
        self.work();
    }

    /// Everything that can be done without time.
    fn work(&mut self) {
        while let Some(action) = self.client.poll_action() {
            match action {
                Action::Dial { witness, attempt } => {
                    self.dialed.push((self.now, witness));
                    if self.witnesses[witness].is_some() {
                        self.up = Some((attempt, witness));
                        self.client.handle_connected(self.now, attempt);
                    } else {
                        self.client.handle_lost(self.now, attempt);
                    }
                }
                Action::Close { attempt } => {
                    self.up.take_if(|(up, _)| *up == attempt);
                }
                Action::Send { attempt, request } => {
                    self.sent.push(request.clone());
                    let Some((_, index)) = self.up.filter(|(up, _)| *up == attempt) else {
                        panic!("{request:?} on a connection that is not there");
                    };
                    if !self.silent {
                        let answer = self.answer_of(index, "a", "b", &request);
                        self.client.handle_answer(self.now, attempt, answer);
                    }
                }
                Action::Tell(event) => self.told.push(event),
            }
        }
    }

    fn answer_of(&mut self, index: usize, node: &str, peer: &str, request: &Request) -> Answer {
        self.random = self.random.wrapping_add(1);
        let arbiter = self.witnesses[index].as_mut().expect("it runs");
        let request = Request { peer: name(peer), ..request.clone() };
        arbiter.handle_request(self.now, &name(node), &request, [self.random; 16])
    }

    /// Node b asks a witness, over a connection of its own.
    fn as_b(&mut self, index: usize, question: Question) -> Reply {
        let request = Request {
            id: 1,
            pair_id: PairId([1; 16]),
            peer: name("a"),
            run: WitnessRun::NONE,
            seen_counter: 0,
            question,
        };
        self.answer_of(index, "b", "a", &request).reply
    }

    /// Lets time pass, with a look at every deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.work();
        while let Some(at) = self.client.next_deadline().filter(|at| *at <= end) {
            assert!(at > self.now || self.client.next_deadline().is_some(), "it gets on");
            self.now = self.now.max(at);
            self.client.handle_time(self.now);
            self.work();
            let next = self.client.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "nothing is due twice: {next:?}");
        }
        self.now = end;
    }

    fn told(&mut self) -> Vec<Event> {
        self.work();
        std::mem::take(&mut self.told)
    }

    fn create(&mut self, nonce: u8) -> TokenAt {
        let nonce = TokenNonce([nonce; 16]);
        self.client.create(self.now, Some(nonce));
        let told = self.told();
        let created = told.iter().find_map(|event| match event {
            Event::Created { nonce: of, token } if *of == nonce => Some(token.clone()),
            _ => None,
        });
        created.unwrap_or_else(|| panic!("{told:?}"))
    }
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn reachable(witness: &str, run: u8) -> Event {
    Event::Reachable { witness: name(witness), run: run_of(run) }
}

fn stable(witness: &str) -> Event {
    Event::Stable { witness: name(witness) }
}

fn lost(witness: &str, why: Loss) -> Event {
    Event::Lost { witness: name(witness), why }
}

#[test]
fn a_witness_that_was_never_lost_is_stable_at_once_and_is_pinged() {
    let mut world = World::new(1);
    assert_eq!(world.told(), [reachable("w0", 10), stable("w0")]);
    assert!(world.client.is_reachable() && world.client.is_stable());
    world.sent.clear();
    world.pass(ms(3000));
    assert_eq!(world.sent.len(), 10);
    assert!(world.sent.iter().all(|request| request.question == Question::Ping { token: None }));
    assert!(world.sent.iter().map(|request| request.id).eq(2..12));
    assert!(world.sent.iter().map(|request| request.seen_counter).eq(1..11));
    assert_eq!(world.told(), []);
}

#[test]
fn a_silent_witness_is_lost_after_its_time_and_tried_again() {
    let mut world = World::new(1);
    world.pass(ms(3100));
    world.told();
    world.silent = true;
    // It answered 100 ms ago.
    world.pass(ms(899));
    assert_eq!(world.told(), []);
    world.pass(ms(1));
    assert_eq!(world.told(), [lost("w0", Loss::Silent)]);
    assert!(!world.client.is_reachable() && world.client.heard_at().is_none());
    world.silent = false;
    world.pass(ms(2000));
    assert_eq!(world.told(), [reachable("w0", 10)]);
    assert!(!world.client.is_stable());
}

#[test]
fn a_connection_that_breaks_and_comes_back_in_time_is_no_loss() {
    let mut world = World::new(1);
    world.pass(ms(500));
    world.told();
    world.cut(0);
    assert_eq!(world.told(), []);
    assert!(world.client.is_reachable());
    let again = world.sent.last().expect("asked again");
    assert_eq!((again.id, again.run, again.seen_counter > 1), (1, run_of(10), true));
    // As soon as nobody listens, it is one.
    world.stop(0);
    world.pass(ms(999));
    assert_eq!(world.told(), []);
    world.pass(ms(1));
    assert_eq!(world.told(), [lost("w0", Loss::Silent)]);
}

#[test]
fn a_stopped_node_asks_again_before_it_gives_its_witness_up() {
    let mut world = World::new(1);
    world.pass(ms(500));
    world.told();
    world.now = world.now + Duration::from_secs(60);
    world.client.handle_time(world.now);
    assert_eq!(world.told(), []);
    world.pass(ms(1000));
    assert_eq!(world.told(), []);
}

#[test]
fn the_next_witness_is_used_when_one_is_lost_and_after_the_last_the_first() {
    let mut world = World::new(3);
    world.told();
    world.witnesses[1] = None;
    world.stop(0);
    world.pass(ms(1000));
    assert_eq!(world.told(), [lost("w0", Loss::Silent)]);
    world.pass(ms(1000));
    assert_eq!(world.told(), [reachable("w2", 12), stable("w2")], "it was never lost");
    assert_eq!(world.client.witness(), Some(&name("w2")));
    world.start(0, 20);
    world.pass(ms(5000));
    assert_eq!(world.told(), [], "one that works is not left");
    world.stop(2);
    world.pass(ms(2000));
    assert_eq!(world.told(), [lost("w2", Loss::Silent), reachable("w0", 20)]);
}

#[test]
fn attempts_become_rarer_while_nobody_answers() {
    let mut world = World::new(2);
    world.stop(0);
    world.stop(1);
    world.pass(ms(60_000));
    world.dialed.clear();
    world.pass(ms(60_000));
    assert_eq!(world.dialed.len(), 30);
    assert!(world.dialed.windows(2).all(|pair| pair[0].1 != pair[1].1), "both by turns");
    world.start(1, 9);
    world.pass(ms(4000));
    assert!(world.client.is_reachable());
}

#[test]
fn a_wish_is_tried_at_once_whatever_the_pause() {
    let mut world = World::new(1);
    world.stop(0);
    world.pass(ms(60_000));
    world.start(0, 9);
    world.told();
    let token = world.create(1);
    assert_eq!(token.witness, name("w0"));
}

#[test]
fn an_attempt_that_hangs_is_given_up() {
    let mut world = World::new(1);
    let mut client = Client::new(world.now, world.client.config.clone());
    assert_eq!(client.next_deadline(), Some(world.now));
    client.handle_time(world.now);
    let first = Action::Dial { witness: 0, attempt: 1 };
    assert_eq!(client.poll_action(), Some(first));
    world.now = client.next_deadline().expect("a limit");
    client.handle_time(world.now);
    assert_eq!(client.poll_action(), Some(Action::Close { attempt: 1 }));
    client.handle_connected(world.now, 1);
    assert!(client.poll_action().is_none(), "it comes too late");
    client.handle_time(client.next_deadline().expect("another attempt"));
    assert_eq!(client.poll_action(), Some(Action::Dial { witness: 0, attempt: 2 }));
}

#[test]
fn stability_takes_longer_with_every_loss_and_is_trusted_again_after_long() {
    let mut world = World::new(1);
    world.told();
    for hold_s in [10, 20, 40, 80, 160, 320, 600] {
        let run = world.witnesses[0].as_ref().expect("it runs").run().0[0] + 1;
        world.start(0, run);
        assert_eq!(world.told(), [lost("w0", Loss::Restarted), reachable("w0", run)]);
        world.pass(Duration::from_secs(hold_s) - ms(1));
        assert!(!world.client.is_stable() && world.told().is_empty(), "{hold_s}");
        world.pass(ms(1));
        assert!(world.client.is_stable());
        assert_eq!(world.told(), [stable("w0")], "{hold_s}");
    }
    // It was there for that long.
    world.start(0, 5);
    world.told();
    world.pass(Duration::from_secs(10));
    assert_eq!(world.told(), [stable("w0")]);
}

#[test]
fn a_watched_token_is_told_of_once_for_each_change() {
    let mut world = World::new(1);
    world.pass(ms(10));
    let token = world.create(1);
    world.client.watch(world.now, Some(token.clone()));
    let told = |state| Event::Token { token: token.clone(), state };
    world.pass(ms(1000));
    assert_eq!(world.told(), [told(TokenState::Open)]);
    let claimed = world.as_b(0, Question::Claim { token: token.token });
    assert_eq!(claimed, Reply::Verdict(Verdict::Won));
    world.pass(ms(1000));
    assert_eq!(world.told(), [told(TokenState::Decided(name("b")))]);
    world.start(0, 9);
    world.pass(ms(1000));
    let (gone, back) = (lost("w0", Loss::Restarted), reachable("w0", 9));
    assert_eq!(world.told(), [gone, back, told(TokenState::Unknown)]);
    world.client.watch(world.now, None);
    world.sent.clear();
    world.pass(ms(1000));
    assert!(world.sent.iter().all(|request| request.question == Question::Ping { token: None }));
}

#[test]
fn a_claim_is_asked_at_once_and_repeated_until_there_is_a_verdict() {
    let mut world = World::new(1);
    world.pass(ms(10));
    let token = world.create(1);
    world.silent = true;
    world.client.claim(world.now, Some(token.clone()));
    world.work();
    let claims = |world: &World| {
        let is_claim = |request: &&Request| matches!(request.question, Question::Claim { .. });
        world.sent.iter().filter(is_claim).count()
    };
    assert_eq!(claims(&world), 1);
    world.pass(ms(400));
    world.silent = false;
    world.cut(0);
    assert_eq!(claims(&world), 2, "the first went with its connection");
    let won = |verdict| Event::Verdict { token: token.clone(), verdict };
    assert_eq!(world.told(), [won(Verdict::Won)]);
    world.pass(ms(2000));
    assert_eq!(claims(&world), 2);
    // Asked again by the group, the answer is the same; of another run it is unknown.
    world.client.claim(world.now, Some(token.clone()));
    assert_eq!(world.told(), [won(Verdict::Won)]);
    world.start(0, 9);
    world.client.claim(world.now, Some(token.clone()));
    let told = world.told();
    assert!(told.contains(&won(Verdict::Unknown)), "{told:?}");
}

#[test]
fn a_claim_goes_to_the_tokens_own_witness_only() {
    let mut world = World::new(2);
    world.pass(ms(10));
    let token = world.create(1);
    let keep = world.witnesses[0].clone();
    world.stop(0);
    world.pass(ms(3000));
    assert_eq!(world.client.witness(), Some(&name("w1")));
    world.told();
    world.sent.clear();
    world.client.watch(world.now, Some(token.clone()));
    world.client.claim(world.now, Some(token.clone()));
    world.pass(ms(3000));
    assert_eq!(world.told(), [lost("w1", Loss::Left)]);
    assert!(world.sent.is_empty(), "the other witness is not asked: {:?}", world.sent);
    world.witnesses[0] = keep;
    world.pass(ms(3000));
    let verdict = Event::Verdict { token: token.clone(), verdict: Verdict::Won };
    assert!(world.told().contains(&verdict));
}

#[test]
fn a_watched_token_leads_back_to_its_witness_and_its_loss_to_the_next() {
    let mut world = World::new(2);
    world.pass(ms(10));
    let token = world.create(1);
    world.client.watch(world.now, Some(token.clone()));
    world.pass(ms(10));
    let keep = world.witnesses[0].clone();
    world.stop(0);
    world.pass(ms(2000));
    world.told();
    world.sent.clear();
    world.pass(ms(1000));
    assert!(world.sent.iter().all(|request| request.question == Question::Ping { token: None }));
    assert_eq!(world.told(), [], "what w1 does not know says nothing about it");
    world.witnesses[0] = keep;
    world.client.watch(world.now, None);
    world.client.watch(world.now, Some(token.clone()));
    world.pass(ms(1000));
    let open = Event::Token { token, state: TokenState::Open };
    let told = world.told();
    assert_eq!(told, [lost("w1", Loss::Left), reachable("w0", 10), open]);
}

#[test]
fn notes_are_told_one_after_the_other_and_come_back() {
    let mut world = World::new(1);
    let note = |session| Note {
        session: Session(session),
        generation: Generation([2; 16]),
        winner: name("a"),
        forced: false,
    };
    (1..=3).for_each(|session| world.client.note(world.now, note(session)));
    world.pass(ms(1000));
    world.told();
    world.client.ask_who(world.now);
    let notes = vec![note(3), note(2), note(1)];
    assert_eq!(world.told(), [Event::Journal { witness: name("w0"), notes }]);
    let stranger = Note { winner: name("c"), ..note(4) };
    world.client.note(world.now, stranger);
    let told = world.told();
    assert!(matches!(&told[..], [Event::Refused { .. }]), "{told:?}");
    world.pass(ms(1000));
    assert_eq!(world.told(), [], "it is not told for ever");
}

#[test]
fn an_answer_to_nothing_that_was_asked_ends_the_connection() {
    for (id, reply) in [(99, Reply::Pong(TokenState::Open)), (1, Reply::Noted)] {
        let mut world = World::new(1);
        world.silent = true;
        world.work();
        let (attempt, _) = world.up.expect("a connection");
        let answer = Answer { id, run: run_of(10), counter: 1, reply };
        world.client.handle_answer(world.now, attempt, answer);
        assert_eq!(world.client.poll_action(), Some(Action::Close { attempt }));
        assert!(!world.client.is_reachable());
    }
}

#[test]
fn a_refusal_is_told_once_and_is_not_an_answer() {
    let mut world = World::new(1);
    world.silent = true;
    world.work();
    for _ in 0..3 {
        let (attempt, _) = world.up.expect("a connection");
        let reason = "a certificate of kind node is needed".to_owned();
        let reply = Reply::Refused { reason };
        let answer = Answer { id: 0, run: run_of(10), counter: 0, reply };
        world.client.handle_answer(world.now, attempt, answer);
        world.cut(0);
        world.pass(ms(5000));
    }
    let told = world.told();
    assert!(matches!(&told[..], [Event::Refused { .. }]), "{told:?}");
    assert!(!world.client.is_reachable());
}

#[test]
fn times_and_numbers_may_be_moved_as_long_as_their_order_stays() {
    let mut world = World::new(1);
    world.pass(ms(1000));
    let plain = world.client.clone();
    let later = ms(1 << 20);
    let mut moved = plain.clone();
    moved.each_instant(|at| *at = *at + later);
    moved.each_attempt(|attempt| *attempt += 7);
    moved.each_request(|request| *request += 70);
    moved.each_counter(|_, seen| *seen += 700);
    assert_ne!(moved, plain);
    // Both lose the connection and connect again: the same is done later, with other numbers.
    let actions = |mut client: Client, now: Instant, attempt: u64| {
        client.handle_lost(now, attempt);
        client.handle_connected(now, attempt + 1);
        let at = client.next_deadline().map(|at| at.since(now));
        let actions: Vec<Action> = std::iter::from_fn(|| client.poll_action()).collect();
        (at, actions)
    };
    let (attempt, _) = world.up.expect("a connection");
    let (at, plain) = actions(plain, world.now, attempt);
    let (moved_at, moved) = actions(moved, world.now + later, attempt + 7);
    assert_eq!(at, moved_at);
    let [Action::Dial { attempt: one, .. }, Action::Send { request, .. }] = &plain[..] else {
        panic!("{plain:?}");
    };
    let [Action::Dial { attempt: other, .. }, Action::Send { request: again, .. }] = &moved[..]
    else {
        panic!("{moved:?}");
    };
    assert_eq!(one + 7, *other);
    assert_eq!(request.seen_counter + 700, again.seen_counter);
    assert_eq!((request.id, &request.question), (again.id, &again.question));
}

#[test]
fn without_witnesses_there_is_nothing_to_do() {
    let mut world = World::new(0);
    let token = TokenAt { witness: name("w0"), token: WitnessToken([1; 16]) };
    world.client.watch(world.now, Some(token.clone()));
    world.client.claim(world.now, Some(token));
    world.client.create(world.now, Some(TokenNonce([1; 16])));
    world.client.handle_time(world.now);
    assert_eq!(world.client.next_deadline(), None);
    assert_eq!(world.client.poll_action(), None);
    assert_eq!(world.client.witness(), None);
}
