//! Two nodes' witness clients, a stranger with certificates of the same CA, and a witness whose
//! process ends and whose memory is set back: seeded, on virtual time, with the production cores.
//!
//! Checks I4, I14 and I15 by what nodes are told: a token is won by one node at most, by one of its
//! own pair, and in the run that has made it.
//! Faults assumed: connections break and lose what is on them, messages are late, nodes restart, the
//! witness restarts, its machine's generation changes, its memory goes back to a snapshot. What a
//! manual has to forbid is left out: a snapshot that is younger than a node's last answer, or a node
//! that restarts before the set-back witness was noticed (PROTOCOL 2.9.2, "residual risk").
//! Not here: what nodes do with a verdict (`sim`).

use std::collections::{BTreeMap, VecDeque};

use base::ids::{NodeName, PairId, TokenNonce, WitnessRun, WitnessToken};
use base::limits::WitnessTimers;
use base::rules::Rules;
use base::time::{Duration, Instant};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use witness::arbiter::Arbiter;
use witness::client::{Action, Client, ClientConfig, Event, TokenAt};
use witness::journal::Journal;
use witness::wire::{Answer, Question, Reply, Request, Verdict};

const STEPS: usize = 400;
const PAIR: PairId = PairId([1; 16]);
const NODES: [&str; 2] = ["a", "b"];

/// What a seed has done, to see that it does something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Claims that were won.
    pub won: u64,
    /// Claims that were lost.
    pub lost: u64,
    /// Claims of a token that was not known any more.
    pub unknown: u64,
    /// Times that the memory of the witness was set back.
    pub set_back: u64,
    /// Runs of the witness.
    pub runs: u64,
}

/// Runs a seed.
///
/// # Errors
/// What was broken, in words.
pub fn run(seed: u64, rules: Rules) -> Result<Counts, String> {
    let mut world = World::new(seed, rules);
    for _ in 0..STEPS {
        world.step()?;
    }
    Ok(world.counts)
}

/// A node process.
struct Node {
    client: Client,
    /// The connection that is up.
    up: Option<u64>,
    /// On their way to the witness and back.
    requests: VecDeque<Request>,
    answers: VecDeque<Answer>,
    /// Answers that this process got since the last snapshot.
    heard_since_snapshot: bool,
    /// The witness was set back, and this process has not spoken with it since.
    in_doubt: bool,
}

/// What is known of a token for ever.
struct Made {
    run: WitnessRun,
    winner: Option<String>,
}

struct World {
    random: ChaCha8Rng,
    rules: Rules,
    now: Instant,
    arbiter: Arbiter,
    snapshot: Option<Arbiter>,
    nodes: [Node; 2],
    made: BTreeMap<WitnessToken, Made>,
    /// The newest last, for nodes to claim.
    tokens: Vec<WitnessToken>,
    nonces: u8,
    counts: Counts,
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

fn new_node(now: Instant, node: usize, rules: Rules) -> Node {
    let config = ClientConfig {
        pair_id: PAIR,
        peer: name(NODES[1 - node]),
        witnesses: vec![name("w")],
        timers: WitnessTimers::DEFAULT,
        rules,
    };
    Node {
        client: Client::new(now, config),
        up: None,
        requests: VecDeque::new(),
        answers: VecDeque::new(),
        heard_since_snapshot: false,
        in_doubt: false,
    }
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let now = Instant::ZERO;
        let run = WitnessRun(random.random());
        let nodes = [0, 1].map(|node| new_node(now, node, rules));
        Self {
            random,
            rules,
            now,
            arbiter: Arbiter::new(now, run, Journal::default(), rules),
            snapshot: None,
            nodes,
            made: BTreeMap::new(),
            tokens: Vec::new(),
            nonces: 0,
            counts: Counts { runs: 1, ..Counts::default() },
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let node = self.random.random_range(0..2);
        match self.random.random_range(0..100) {
            0..30 => self.pass()?,
            30..55 => self.take_request(node)?,
            55..80 => self.take_answer(node)?,
            80..83 => self.create(node)?,
            83..90 => self.claim(node)?,
            90..92 => self.stranger()?,
            92..94 => self.cut(node)?,
            94 => self.restart_node(node)?,
            95 => self.restart_witness()?,
            96 => self.change_generation(),
            97 => self.take_snapshot(),
            _ => self.set_back()?,
        }
        while self.arbiter.poll_event().is_some() {}
        Ok(())
    }

    fn pass(&mut self) -> Result<(), String> {
        let time = Duration::from_millis(self.random.random_range(1..400));
        self.now = self.now + time;
        self.arbiter.handle_time(self.now);
        for node in 0..2 {
            self.nodes[node].client.handle_time(self.now);
            self.work(node)?;
        }
        Ok(())
    }

    /// What a client wants done; connections are there at once.
    fn work(&mut self, index: usize) -> Result<(), String> {
        while let Some(action) = self.nodes[index].client.poll_action() {
            let node = &mut self.nodes[index];
            match action {
                Action::Dial { attempt, .. } => {
                    node.up = Some(attempt);
                    node.client.handle_connected(self.now, attempt);
                }
                Action::Close { attempt } => {
                    if node.up.take_if(|up| *up == attempt).is_some() {
                        node.requests.clear();
                        node.answers.clear();
                    }
                }
                Action::Send { attempt, request } => {
                    if node.up == Some(attempt) {
                        node.requests.push_back(request);
                    }
                }
                Action::Tell(event) => self.told(index, event)?,
            }
        }
        Ok(())
    }

    /// The nodes agree on each new token at once, as a group does before it counts.
    fn told(&mut self, index: usize, event: Event) -> Result<(), String> {
        match event {
            Event::Created { token, .. } => {
                for node in 0..2 {
                    self.nodes[node].client.watch(self.now, Some(token.clone()));
                }
                self.work(1 - index)
            }
            Event::Verdict { token, verdict } => self.verdict(NODES[index], token.token, verdict),
            Event::Reachable { .. }
            | Event::Stable { .. }
            | Event::Lost { .. }
            | Event::Token { .. }
            | Event::Journal { .. }
            | Event::Refused { .. } => Ok(()),
        }
    }

    /// I4 and I15, by what a node is told.
    fn verdict(&mut self, node: &str, token: WitnessToken, verdict: Verdict) -> Result<(), String> {
        match verdict {
            Verdict::Unknown => self.counts.unknown += 1,
            Verdict::Lost { .. } => self.counts.lost += 1,
            Verdict::Won => {
                self.counts.won += 1;
                let made = self.made.get_mut(&token).ok_or(format!("{token} was never made"))?;
                if !NODES.contains(&node) {
                    return Err(format!("{node} won {token}, which is not its pair's"));
                }
                let winner = made.winner.get_or_insert_with(|| node.to_owned());
                if winner != node {
                    return Err(format!("{winner} and {node} both won {token}"));
                }
            }
        }
        Ok(())
    }

    fn take_request(&mut self, index: usize) -> Result<(), String> {
        let Some(request) = self.nodes[index].requests.pop_front() else { return Ok(()) };
        let answer = self.ask(NODES[index], &request)?;
        let node = &mut self.nodes[index];
        node.in_doubt = false;
        node.answers.push_back(answer);
        Ok(())
    }

    fn ask(&mut self, node: &str, request: &Request) -> Result<Answer, String> {
        let random = self.random.random();
        let answer = self.arbiter.handle_request(self.now, &name(node), request, random);
        let run = self.arbiter.run();
        if let Reply::Created { token } = answer.reply {
            let made = self.made.entry(token).or_insert(Made { run, winner: None });
            if made.run != run {
                return Err(format!("{token} was made in two runs"));
            }
            if NODES.contains(&node) && !self.tokens.contains(&token) {
                self.tokens.push(token);
            }
        }
        if let (Question::Claim { token }, Reply::Verdict(Verdict::Won)) =
            (&request.question, &answer.reply)
            && self.made.get(token).is_some_and(|made| made.run != run)
        {
            return Err(format!("{token} of another run was granted"));
        }
        Ok(answer)
    }

    fn take_answer(&mut self, index: usize) -> Result<(), String> {
        let node = &mut self.nodes[index];
        let (Some(attempt), Some(answer)) = (node.up, node.answers.pop_front()) else {
            return Ok(());
        };
        node.heard_since_snapshot = true;
        node.client.handle_answer(self.now, attempt, answer);
        self.work(index)
    }

    fn create(&mut self, index: usize) -> Result<(), String> {
        self.nonces = self.nonces.wrapping_add(1);
        let nonce = TokenNonce([self.nonces.max(1); 16]);
        self.nodes[index].client.create(self.now, Some(nonce));
        self.work(index)
    }

    /// Of the newest token mostly; an older one is a claim that comes late.
    fn claim(&mut self, index: usize) -> Result<(), String> {
        let back = self.random.random_range(0..4).max(2) - 2;
        let Some(place) = self.tokens.len().checked_sub(1 + back) else { return Ok(()) };
        let token = TokenAt { witness: name("w"), token: self.tokens[place] };
        self.nodes[index].client.claim(self.now, Some(token));
        self.work(index)
    }

    /// A node of another pair that has learned pair id and token, under every group it can name.
    fn stranger(&mut self) -> Result<(), String> {
        let Some(token) = self.tokens.last().copied() else { return Ok(()) };
        let peer = name(NODES[self.random.random_range(0..2)]);
        let question = Question::Claim { token };
        let (run, seen_counter) = (WitnessRun::NONE, 0);
        let request = Request { id: 1, pair_id: PAIR, peer, run, seen_counter, question };
        let answer = self.ask("c", &request)?;
        match answer.reply {
            Reply::Verdict(verdict) => self.verdict("c", token, verdict),
            other => Err(format!("a claim was answered with {other:?}")),
        }
    }

    fn cut(&mut self, index: usize) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if let Some(attempt) = node.up.take() {
            node.requests.clear();
            node.answers.clear();
            node.client.handle_lost(self.now, attempt);
        }
        self.work(index)
    }

    fn restart_node(&mut self, index: usize) -> Result<(), String> {
        if self.nodes[index].in_doubt {
            return Ok(());
        }
        self.nodes[index] = new_node(self.now, index, self.rules);
        self.work(index)
    }

    fn restart_witness(&mut self) -> Result<(), String> {
        let run = WitnessRun(self.random.random());
        self.arbiter = Arbiter::new(self.now, run, Journal::default(), self.rules);
        self.new_run();
        (0..2).try_for_each(|node| self.cut(node))
    }

    fn change_generation(&mut self) {
        self.arbiter.handle_generation_change(WitnessRun(self.random.random()));
        self.new_run();
    }

    fn new_run(&mut self) {
        self.snapshot = None;
        self.counts.runs += 1;
        self.nodes.iter_mut().for_each(|node| node.in_doubt = false);
    }

    fn take_snapshot(&mut self) {
        if self.nodes.iter().any(|node| node.in_doubt) {
            return;
        }
        self.snapshot = Some(self.arbiter.clone());
        // An answer that is under way is older than the snapshot.
        for node in &mut self.nodes {
            node.heard_since_snapshot = false;
            node.answers.clear();
        }
        for index in 0..2 {
            let _ = self.cut(index);
        }
    }

    /// The memory goes back; connections do not survive it.
    fn set_back(&mut self) -> Result<(), String> {
        if !self.nodes.iter().all(|node| node.heard_since_snapshot) {
            return Ok(());
        }
        let Some(snapshot) = self.snapshot.take() else { return Ok(()) };
        self.arbiter = snapshot;
        self.counts.set_back += 1;
        for index in 0..2 {
            self.nodes[index].in_doubt = true;
            self.nodes[index].heard_since_snapshot = false;
            self.cut(index)?;
        }
        Ok(())
    }
}
